"""`serve`, from the parsed command line to the last drained visitor.

prepare (service, identity) -> AgentHost runs -> each view goes to the speaker. With an identity on disk a control
plane that is down stops nobody: the agent starts with what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from drtp.agent.host import AgentHost
from drtp.agent.settings import AgentSettings
from drtp.client import home
from drtp.client.context import Context
from drtp.kit.backoff import full_jitter
from drtp.kit.clock import SystemClock
from drtp.kit.errors import DrtpError, Invalid, Retryable
from drtp.kit.observe import logger
from drtp.main.datum.access import access
from drtp.main.datum.changes import Asked
from drtp.main.datum.enrolling import (
    Enrolment,
    forget_undone,
    free,
    has_identity,
    prepare,
    prepare_anew,
    registration,
    signed_in_now,
)
from drtp.main.datum.invocation import Invocation
from drtp.main.datum.naming import slug, state_key, state_name
from drtp.main.datum.serve_request import ServeSettings
from drtp.main.datum.signals import stopped_by_signals
from drtp.main.datum.speaker import Speaker, form_for, waiting_words
from drtp.main.datum.trust import target_of
from drtp.main.datum.undoing import undo
from drtp.main.shell import STARTED, Exit, Misconfigured, Misused, expected_error
from drtp.tunnel import Target

log = logger("serve")

_ONCE_WITHIN_S = 30.0
"""`--once`: ready by then, or exit 69."""
_UPDATE_WITHIN_S = 3.0
"""For the service definition of an agent that could start without: a frozen control plane must not hold it up."""
_RETRY_BASE_S, _RETRY_CEILING_S = 0.5, 20.0


async def run_serve(settings: ServeSettings, invocation: Invocation) -> int:
    """Until Ctrl-C. Raises: Terminal, Refused, Invalid; Retryable only with `--once`."""
    enrolment = enrolment_for(settings, invocation)
    targets = {request.name: request.target.written for request in settings.requests if request.target}
    with Speaker(form_for(settings.output, targets), _wanted(settings), STARTED) as speaker:
        try:
            return await Serving(enrolment, speaker).run()
        except (DrtpError, BaseExceptionGroup) as fault:
            if (error := expected_error(fault)) is not None:
                speaker.failed(error)
            raise
        finally:
            await undo_unready(enrolment, speaker)


async def undo_unready(enrolment: Enrolment, speaker: Speaker) -> None:
    """What this run has made and never was ready goes with it, and what becomes of it is said. Never raises."""
    unready = {name: uid for name, uid in enrolment.made.uids.items() if name not in speaker.ever_ready}
    if not unready or enrolment.context is None:
        return
    try:
        context = (await signed_in_now(enrolment)).context
    except DrtpError:
        context = enrolment.context
    assert context is not None
    done = await undo(context, enrolment.namespace, unready)
    forget_undone(enrolment.state_dir, done.gone)
    for name in done.gone:
        speaker.undone({"event": "undone", "service": name, "namespace": enrolment.namespace})
    for name in done.left:
        delete = f"datumctl delete drtpservice {name} -n {enrolment.namespace}"
        speaker.undone({"event": "left", "service": name, "namespace": enrolment.namespace, "delete": delete})


class Serving:
    """One run."""

    def __init__(self, enrolment: Enrolment, speaker: Speaker) -> None:
        self._enrolment = enrolment
        self._settings = enrolment.settings
        self._speaker = speaker
        self._clock = SystemClock()
        self._stop = asyncio.Event()
        self._read_again = asyncio.Event()
        self._host: AgentHost | None = None

    async def run(self) -> int:
        """Prepare, serve, drain."""
        with self._signals():
            if has_identity(self._enrolment.state_dir):
                self._be_at_home()
                await self._update()
            else:
                await self._prepare_unless_stopped()
            if not self._stop.is_set():
                await self._serve()
        return Exit.CLEAN

    def _be_at_home(self) -> None:
        """Before anything is asked or changed in its name.

        Raises: Terminal DRTP-4010 where another process serves with it, DRTP-4040 for a copied state directory.
        """
        with free(self._enrolment.state_dir, [one.name for one in self._settings.requests if one.name]):
            pass
        if self._settings.moved:
            home.settle(self._enrolment.state_dir)
        home.check(self._enrolment.state_dir)

    @contextlib.contextmanager
    def _signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        with stopped_by_signals(self._signalled):
            if self._settings.file is not None:
                loop.add_signal_handler(signal.SIGHUP, self._read_again.set)
            try:
                yield
            finally:
                loop.remove_signal_handler(signal.SIGHUP)

    def _signalled(self) -> None:
        """First: drain. Second: end now."""
        self._stop.set()
        if self._host is not None:
            self._host.stop()

    async def _update(self) -> None:
        """Bring the definition up to date, if the control plane answers now."""
        try:
            async with asyncio.timeout(_UPDATE_WITHIN_S):
                await prepare(self._enrolment)
        except TimeoutError:
            log.warning("service definition left as it is", reason="no answer in time")
        except (DrtpError, BaseExceptionGroup) as fault:
            if not isinstance(expected_error(fault), Retryable):
                raise
            log.warning("service definition left as it is", reason=str(expected_error(fault)))

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
                await prepare(self._enrolment)
            except (DrtpError, BaseExceptionGroup) as fault:
                error = expected_error(fault)
                if self._settings.once or not isinstance(error, Retryable):
                    raise
                delay_s = next(delays)
                self._speaker.retrying(error, delay_s)
                await self._clock.sleep(delay_s)
            else:
                return

    async def _serve(self) -> None:
        self._host = host = AgentHost(agent_settings(self._enrolment), clock=self._clock)
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(self._follow(host)), group.create_task(self._follow_file(host))]
            if self._settings.once:
                beside.append(group.create_task(self._give_up(host)))
            await host.run()
            for task in beside:
                task.cancel()
        if host.view.value is not None:
            self._speaker.follow(host.view.value, self._clock.monotonic())

    async def _follow(self, host: AgentHost) -> None:
        async for view in host.view:
            self._speaker.follow(view, self._clock.monotonic())
            if self._settings.once and (blocker := self._speaker.blocked) is not None and not self._speaker.all_ready:
                raise blocker.error()

    async def _follow_file(self, host: AgentHost) -> None:
        """At SIGHUP: what the file says now, and again and again while only the control plane is in the way."""
        while True:
            await self._read_again.wait()
            delays = full_jitter(_RETRY_BASE_S, _RETRY_CEILING_S)
            while not await self._settle_file(host):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(next(delays)):
                        await self._read_again.wait()

    async def _settle_file(self, host: AgentHost) -> bool:
        """Serve what the file says. A file with a fault, or a refusal, changes nothing; False: worth another try."""
        self._read_again.clear()
        try:
            enrolment = _read_again(self._enrolment)
            await prepare_anew(enrolment, self._enrolment)
        except (DrtpError, BaseExceptionGroup) as fault:
            error = expected_error(fault)
            if error is None:
                raise
            again = isinstance(error, Retryable)
            faults = error.faults if isinstance(error, Invalid) else ()
            words = {"code": error.code, "error": error.what, "do": error.remedy, "faults": list(faults)}
            log.warning("file not taken yet" if again else "file not taken", **words)
            return not again
        self._enrolment = enrolment
        self._speaker.want(_wanted(enrolment.settings))
        host.retarget(_targets(enrolment))
        log.info("file read again", services=len(enrolment.settings.requests))
        return True

    async def _give_up(self, host: AgentHost) -> None:
        await self._clock.sleep(_ONCE_WITHIN_S)
        if self._speaker.all_ready:
            return
        view = host.view.value
        why = "; ".join(f"{s.name}: {waiting_words(s)}" for s in view.services if not s.ready) if view else ""
        raise Retryable("DRTP-7009", f"Not ready within {_ONCE_WITHIN_S:.0f} s. {why}".rstrip())


def enrolment_for(settings: ServeSettings, invocation: Invocation) -> Enrolment:
    """Namespace, state directory and credentials. Raises: Misconfigured, Misused."""
    context = _context(settings, invocation)
    namespace = settings.requests[0].namespace or (context.namespace if context else "default")
    state_dir = settings.state_dir or _state_dir(settings, invocation, context, namespace)
    return Enrolment(settings, namespace, state_dir, context)


def agent_settings(enrolment: Enrolment) -> AgentSettings:
    """What the agent host is started with."""
    settings = enrolment.settings
    return AgentSettings(
        state_dir=enrolment.state_dir,
        targets=_targets(enrolment),
        allow_target=settings.allow_target,
        named=_named(enrolment),
        registration=registration(settings),
        local_address=settings.inspector,
        drain_s=settings.drain_s,
        quic=settings.quic,
    )


def _targets(enrolment: Enrolment) -> dict[str, Target]:
    """What visitors of each service reach, as this side says."""
    requests = enrolment.settings.requests
    return {f"{enrolment.namespace}/{one.name}": target_of(one) for one in requests if one.target}


def _named(enrolment: Enrolment) -> frozenset[str]:
    """What was asked for by name alone. Without a context a name without its project may be in any."""
    requests = enrolment.settings.requests
    if any(one.target for one in requests):
        return frozenset()
    known = enrolment.context is not None
    return frozenset(
        f"{one.namespace or enrolment.namespace}/{one.name}" if known or one.namespace else one.name
        for one in requests
        if one.name
    )


def _wanted(settings: ServeSettings) -> dict[str, Asked | None]:
    """The services whose readiness is announced, and where they are to be."""
    return {one.name: Asked(one.address, one.hostname, one.port) for one in settings.requests if one.name}


def _read_again(enrolment: Enrolment) -> Enrolment:
    """The same agent with what its file says now. Raises: Invalid, Misconfigured."""
    # Late: reading YAML takes a while to import, and most starts name one service.
    from drtp.main.datum.serve_file import requests_in

    assert enrolment.settings.file is not None
    requests = requests_in(enrolment.settings.file)
    namespace = requests[0].namespace
    if namespace not in (None, enrolment.namespace):
        what = f"The file names the namespace {namespace}; this agent serves {enrolment.namespace}."
        raise Invalid("DRTP-7013", what, "Start another agent for it.")
    return replace(enrolment, settings=replace(enrolment.settings, requests=requests))


def _context(settings: ServeSettings, invocation: Invocation) -> Context | None:
    """None where a secret, a workload's token or a stored identity suffices and nobody named a context."""
    if settings.identity_token is not None and settings.control_plane is not None:
        return None
    try:
        return access(invocation)
    except Misconfigured:
        if invocation.context_file is None and all(request.predefined for request in settings.requests):
            return None
        raise


def _state_dir(settings: ServeSettings, invocation: Invocation, context: Context | None, namespace: str) -> Path:
    """One directory for each control plane, and service or file, so that the same command finds its own again."""
    names = "+".join(request.name for request in settings.requests)
    if settings.file is not None:
        # What is in the file may change; the agent stays the same one.
        names = f"file-{slug(settings.file.stem)}-{hashlib.sha256(bytes(settings.file.absolute())).hexdigest()[:8]}"
    if not names:
        if settings.secret is None:
            raise Misused("DRTP-7010", "No service was named, and no secret was given.")
        # The id in the secret is public; the part after it is not used.
        names = "secret-" + settings.secret.reveal().removeprefix("drtp_enr_").partition("_")[0]
    plane = (
        state_key(context.api, context.installation)
        if context
        else "by-secret"
        if settings.control_plane is None
        else "by-identity"
    )
    return invocation.state_root() / plane / state_name(f"{namespace}.{names}")
