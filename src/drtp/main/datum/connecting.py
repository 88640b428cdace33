"""`connect`, from the parsed command line to the last drained connection.

identity (on disk, or by the context's token) -> ConnectorHost runs -> each view goes to the speaker. With an identity
on disk a control plane that is down stops nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from drtp import __version__
from drtp.agent.connector import ConnectorHost, ConnectorSettings
from drtp.agent.connectplan import LOOPBACK, Port
from drtp.api.reports import CALLED_MAX, ConnectorRegistration
from drtp.client import home
from drtp.client.api import ApiClient
from drtp.client.context import Context
from drtp.client.enrolment import enrol
from drtp.client.identity import IdentityStore
from drtp.client.joining import parse_join
from drtp.kit.backoff import full_jitter
from drtp.kit.clock import SystemClock
from drtp.kit.errors import DrtpError, Refused, Retryable, Terminal
from drtp.kit.exclusive import exclusive
from drtp.kit.files import private_directory
from drtp.main.datum import whose
from drtp.main.datum.access import access
from drtp.main.datum.connect_command import ConnectSettings
from drtp.main.datum.connect_places import Place
from drtp.main.datum.connect_speaker import ConnectSpeaker, connect_form
from drtp.main.datum.enrolling import edge_address
from drtp.main.datum.invocation import Invocation
from drtp.main.datum.naming import state_key, state_name
from drtp.main.datum.signals import stopped_by_signals
from drtp.main.shell import STARTED, Exit, Misconfigured, Misused, expected_error
from drtp.tunnel import carry_stdio

AT_ONCE_MAX = 64
"""Commands for the same services, of one person on one machine."""
_ONCE_WITHIN_S = 30.0
_STDIO_WITHIN_S = 20.0
"""`--stdio`: ready by then, or whoever waits for it is told."""
_RETRY_BASE_S, _RETRY_CEILING_S = 0.5, 20.0


async def run_connect(settings: ConnectSettings, invocation: Invocation) -> int:
    """Until Ctrl-C. Raises: Terminal, Refused, Invalid; Retryable with `--once` or `--stdio`."""
    context = _context(settings, invocation)
    ports = tuple(_port(place, context) for place in settings.places)
    if len({port.service for port in ports}) > CALLED_MAX:
        raise Misused("DRTP-7002", f"A connector presents at most {CALLED_MAX} services.")
    with (
        ConnectSpeaker(connect_form(settings.output, settings.stdio), STARTED) as speaker,
        _state_dir(settings, ports, invocation, context) as state_dir,
    ):
        try:
            return await Connecting(settings, ports, state_dir, context, speaker).run()
        except (DrtpError, BaseExceptionGroup) as fault:
            if (error := expected_error(fault)) is not None:
                speaker.failed(error)
            raise


class Connecting:
    """One run."""

    def __init__(
        self,
        settings: ConnectSettings,
        ports: tuple[Port, ...],
        state_dir: Path,
        context: Context | None,
        speaker: ConnectSpeaker,
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._state_dir = state_dir
        self._context = context
        self._speaker = speaker
        self._clock = SystemClock()
        self._stop = asyncio.Event()
        self._host: ConnectorHost | None = None

    async def run(self) -> int:
        """Get an identity, present, drain."""
        private_directory(self._state_dir)
        with stopped_by_signals(self._signalled):
            if IdentityStore(self._state_dir).load() is not None:
                home.check(self._state_dir)
            await self._prepare_unless_stopped()
            if self._stop.is_set():
                return Exit.CLEAN
            if self._settings.stdio:
                with tempfile.TemporaryDirectory(prefix="drtp-") as directory:
                    path = Path(directory) / "stdio.sock"
                    self._ports = (replace(self._ports[0], path=path),)
                    return await self._present(path)
            return await self._present(None)

    def _has_good_identity(self) -> bool:
        identity = IdentityStore(self._state_dir).load()
        return identity is not None and self._clock.now() < identity.not_after

    def _signalled(self) -> None:
        """First: drain. Second: end now."""
        self._stop.set()
        if self._host is not None:
            self._host.stop()

    async def _prepare_unless_stopped(self) -> None:
        async with asyncio.TaskGroup() as both:
            preparing = both.create_task(self._prepare())
            stopped = both.create_task(self._stop.wait())
            await asyncio.wait({preparing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            preparing.cancel()
            stopped.cancel()

    async def _prepare(self) -> None:
        delays = full_jitter(_RETRY_BASE_S, _RETRY_CEILING_S)
        while True:
            try:
                if self._settings.secret is not None:
                    whose.settle_secret(self._state_dir, self._settings.secret)
                elif self._context is not None:
                    await whose.settle(self._state_dir, self._context)
                if not self._has_good_identity():
                    await self._enrol()
            except (DrtpError, BaseExceptionGroup) as fault:
                error = expected_error(fault)
                if self._settings.once or self._settings.stdio or not isinstance(error, Retryable):
                    raise
                delay_s = next(delays)
                self._speaker.retrying(error, delay_s)
                await self._clock.sleep(delay_s)
            else:
                return

    async def _enrol(self) -> None:
        store, secret = IdentityStore(self._state_dir), self._settings.secret
        if secret is not None:
            join = parse_join(secret.reveal())
            await enrol(join.edge, store, self._registration(), secret=join.secret)
            whose.note_secret(self._state_dir, whose.mark_of_secret(secret))
            return
        if self._context is None:
            raise Misused("DRTP-7010", "No identity is here yet, and no secret was given to get one.")
        async with ApiClient(self._context) as api:
            edge = await edge_address(api, self._context)
        await enrol(edge, store, self._registration(), token=self._context.token)
        whose.note(self._state_dir, whose.mark_of(self._context))

    def _registration(self) -> ConnectorRegistration:
        services = tuple(dict.fromkeys(port.service for port in self._ports))
        return ConnectorRegistration(
            hostname=socket.gethostname(), version=__version__, services=services, datagrams=True
        )

    async def _present(self, stdio: Path | None) -> int:
        settings = ConnectorSettings(
            state_dir=self._state_dir,
            ports=self._ports,
            registration=self._registration(),
            local_address=self._settings.inspector,
            drain_s=self._settings.drain_s,
        )
        self._host = host = ConnectorHost(settings, clock=self._clock)
        status = Exit.CLEAN
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(self._follow(host))]
            if self._settings.once or stdio is not None:
                beside.append(group.create_task(self._give_up(host)))
            carrying = group.create_task(self._carry(host, stdio)) if stdio is not None else None
            await host.run()
            for task in beside:
                task.cancel()
            if carrying is not None:
                carrying.cancel()
        if host.view.value is not None:
            self._speaker.follow(host.view.value, self._clock.monotonic())
            if stdio is not None and (flows := host.view.value.flows) and flows[-1].outcome != "finished":
                self._speaker.ended_badly(flows[-1].outcome)
                status = Exit.TERMINAL
        return status

    async def _follow(self, host: ConnectorHost) -> None:
        async for view in host.view:
            self._speaker.follow(view, self._clock.monotonic())
            denied = [port for port in view.ports if port.code == "DRTP-4060"]
            # One that is refused among several is said of that one: the others are presented.
            if view.planned and denied and len(denied) == len(view.ports) and not self._speaker.announced:
                raise Refused("DRTP-4060", denied[0].message)
            never = [port for port in view.ports if port.code == "DRTP-4064"]
            if view.planned and never:
                raise Terminal("DRTP-4064", never[0].message)

    async def _carry(self, host: ConnectorHost, path: Path) -> None:
        """The one connection, in a thread of its own; its end is the command's."""
        async for view in host.view:
            if view.ready:
                break
        await asyncio.to_thread(carry_stdio, path)
        host.stop()
        host.stop()

    async def _give_up(self, host: ConnectorHost) -> None:
        within_s = _STDIO_WITHIN_S if self._settings.stdio else _ONCE_WITHIN_S
        await self._clock.sleep(within_s)
        view = host.view.value
        if view is None or view.ready:
            return
        port = next((one for one in view.ports if not one.ready), None)
        code, why = (port.code or "DRTP-7009", port.message) if port else ("DRTP-7009", "")
        raise Retryable(code, f"Not ready within {within_s:.0f} s. {why}".rstrip())


def _context(settings: ConnectSettings, invocation: Invocation) -> Context | None:
    """None where a secret, or an identity that it once gave, suffices and nobody named a context."""
    try:
        return access(invocation)
    except Misconfigured:
        named = invocation.context_file is not None
        if named or (settings.secret is None and settings.state_dir is None):
            raise
        return None


def _port(place: Place, context: Context | None) -> Port:
    if place.namespace is None and context is None:
        raise Misused("DRTP-7002", f"{place.name} is of no project.", "Name it: NAMESPACE/SERVICE.")
    service = f"{place.namespace or (context.namespace if context else '')}/{place.name}"
    path = place.path and place.path.absolute()
    return Port(service, place.address, place.port, path, place.allow or LOOPBACK, place.datagrams)


@contextlib.contextmanager
def _state_dir(
    settings: ConnectSettings, ports: tuple[Port, ...], invocation: Invocation, context: Context | None
) -> Generator[Path]:
    """One directory for each control plane and set of services, so that the same command finds its own again.

    A person may connect to the same several times at once, as `ssh` does: each command has a directory, and so an
    identity, of its own. A secret gives one identity, so there it is one command. Raises: Terminal DRTP-4010.
    """
    if settings.state_dir is not None:
        yield settings.state_dir
        return
    names = "+".join(sorted({port.service.replace("/", ".") for port in ports}))
    plane = state_key(context.api, context.installation) if context else "by-secret"
    first = invocation.state_root() / plane / state_name(f"connect.{names}")
    if context is None or settings.secret is not None:
        yield first
        return
    with _unused(first) as directory:
        yield directory


@contextlib.contextmanager
def _unused(first: Path) -> Generator[Path]:
    """`first`, or the first of its neighbours `first.2` and so on that no command uses; this one's meanwhile."""
    for number in range(1, AT_ONCE_MAX + 1):
        directory = private_directory(first if number == 1 else first.with_name(f"{first.name}.{number}"))
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(exclusive(directory / "command", "DRTP-4010", f"Another command uses {directory}."))
            except Terminal:
                continue
            yield directory
            return
    raise Terminal("DRTP-4010", f"{AT_ONCE_MAX} commands connect to this already.")
