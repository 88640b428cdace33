"""`drtp up`: everything on this machine, on real parts.

Order: lock, leftovers of a killed predecessor, ports, then all parts at once; a part that needs the control plane asks
until it answers. Ready is concluded from the hello service alone: its page answering at its public address means that
control plane, both POPs, gateway and agent work.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drtp.kit.clock import Clock
from drtp.kit.errors import Terminal
from drtp.kit.exclusive import exclusive
from drtp.kit.files import private_directory
from drtp.kit.observe import logger
from drtp.main.embedded import logfiles, ports, processes
from drtp.main.embedded.announce import Announcement, PopLine
from drtp.main.embedded.child import Child, OnDeath
from drtp.main.embedded.envoy import envoy_process
from drtp.main.embedded.layout import Layout
from drtp.main.embedded.operating import answer_operator
from drtp.main.embedded.operator_client import OperatorClient
from drtp.main.embedded.parts import (
    CONTROLPLANE,
    DRAIN_S,
    GATEWAY,
    HELLO,
    HELLO_AGENTS,
    HELLO_PAGE,
    HOST,
    PLACES,
    USUAL_HOP,
    Composition,
    death_rule,
    has_identity,
    public_addresses,
)
from drtp.main.embedded.probe import PROXY_LOCAL, answers
from drtp.main.embedded.restarts import END_WITHIN_S, Restarts
from drtp.main.embedded.supervisor import Supervisor
from drtp.main.embedded.trust import keep_access, write_access

log = logger("up")

_READY_WITHIN_S = 60.0
"""A cold first start takes a few seconds, on a busy machine several; beyond a minute something is wrong."""
_PROBE_EVERY_S = 0.05
"""The address answers within tens of milliseconds of the agent saying so."""


@dataclass(frozen=True)
class UpSettings:
    """`asked`: ports by name, as in `ports.PREFERRED`; None takes the usual, 0 a free one."""

    directory: Path
    asked: Mapping[str, int | None] = field(default_factory=dict[str, int | None])
    no_restart: tuple[str, ...] = ()
    suffix: str = "prism.localhost"
    proxy_protocol_from: tuple[str, ...] = ()
    """Networks of load balancers on this machine, in front of the gateway."""
    hop: str = USUAL_HOP
    moved: bool = False
    drain_s: float = DRAIN_S


async def run_up(settings: UpSettings, announce: Callable[[Announcement], None], clock: Clock) -> int:
    """Run until SIGTERM or SIGINT; `announce` is called once, when everything is ready. Raises: Terminal."""
    layout = Layout(private_directory(settings.directory.absolute()))
    on_death = death_rule(settings.no_restart)
    for directory in (layout.run, layout.logs, layout.agents, layout.pops):
        private_directory(directory)
    held = exclusive(layout.lock, "DRTP-7006", f"Another `drtp up` runs with the data directory {layout.root}.")
    with held, ports.Claims() as claims:
        for name in await processes.end_leftovers(layout.run, clock):
            log.warning("leftover of an earlier run ended", name=name)
        public = public_addresses()
        chosen = ports.settle(layout.ports, settings.asked, claims, public)
        operator = OperatorClient(layout.operator_socket)
        composition = Composition(
            layout,
            chosen,
            public,
            settings.suffix,
            on_death,
            operator,
            balancers=settings.proxy_protocol_from,
            hop=settings.hop,
            moved=settings.moved,
            drain_s=settings.drain_s,
        )
        async with Supervisor(layout, clock) as parts:
            await Up(composition, parts, clock).run(announce)
    return 0


class Up:
    """One run of an embedded instance."""

    def __init__(self, composition: Composition, parts: Supervisor, clock: Clock) -> None:
        self._composition = composition
        self._layout = composition.layout
        self._parts = parts
        self._clock = clock
        self._signals = 0
        self._stop = asyncio.Event()

    async def run(self, announce: Callable[[Announcement], None]) -> None:
        """Start, announce, wait for the signal, stop in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        try:
            async with asyncio.TaskGroup() as work:
                stopped = work.create_task(self._stop.wait())
                starting = work.create_task(self._start())
                await asyncio.wait((stopped, starting), return_when=asyncio.FIRST_COMPLETED)
                if self._stop.is_set():
                    starting.cancel()
                elif starting.exception() is None:
                    announce(starting.result())
                    keeping = work.create_task(keep_access(self._layout, self._composition.operator, self._clock))
                    restarts = Restarts(self._composition, self._parts, self._clock)
                    answering = work.create_task(answer_operator(self._layout.socket, restarts))
                    await stopped
                    keeping.cancel()
                    answering.cancel()
        finally:
            await self._stop_parts()

    def _signalled(self) -> None:
        """The first signal stops in order, a second one at once."""
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            self._parts.kill()

    async def _start(self) -> Announcement:
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                hello = await self._start_parts()
        except TimeoutError:
            raise Terminal(
                "DRTP-7008", f"Not everything was ready within {_READY_WITHIN_S:.0f} s.", self._where_to_look()
            ) from None
        return self._announcement(hello, self._clock.monotonic() - began)

    async def _start_parts(self) -> str:
        """Start everything; gives the hello service's address once its page answers there."""
        composition, parts = self._composition, self._parts
        controlplane = parts.start(composition.controlplane())
        for place in PLACES:
            parts.start(composition.pop(place))
        parts.start(composition.gateway())
        parts.start(composition.hello_page())
        known = has_identity(self._layout.agents / HELLO) and self._layout.context.exists()
        # An agent that was here before goes on from its snapshot, as the other parts do.
        agent = parts.start(composition.hello_agent()) if known else None
        await _said(controlplane, "ready")
        composition.controlplane_up.set()
        await write_access(self._layout, composition.operator, self._clock)
        agent = agent or parts.start(composition.hello_agent())
        address = str((await _said(agent, "ready"))["address"])
        preface = PROXY_LOCAL if composition.balancers else b""
        while not await asyncio.to_thread(answers, address, HOST, preface):
            await self._clock.sleep(_PROBE_EVERY_S)
        envoy = envoy_process(self._layout.gateway)
        if envoy is not None:
            # Whoever cleans up after a killed supervisor finds it here.
            processes.remember(self._layout.run / "envoy.json", envoy.pid)
        return address

    def _announcement(self, hello: str, seconds: float) -> Announcement:
        numbers = self._composition.ports
        envoy = envoy_process(self._layout.gateway)
        return Announcement(
            layout=self._layout,
            api=self._composition.api,
            hello=hello,
            address=HOST,
            http=f"{HOST}:{numbers['http']}",
            https=f"{HOST}:{numbers['https']}",
            gateway_pid=self._pid(GATEWAY),
            envoy_pid=envoy.pid if envoy else 0,
            controlplane_pid=self._pid(CONTROLPLANE),
            pops=tuple(PopLine(p.server, self._pid(p.label), f"{HOST}:{numbers[p.label]}") for p in PLACES),
            seconds=seconds,
        )

    def _pid(self, name: str) -> int:
        return self._parts.children[name].pid.value or 0

    async def _stop_parts(self) -> None:
        """Agents first, so that they drain through POPs that live; the control plane last."""
        log.info("stopping")
        pops = [place.label for place in PLACES]
        grace_s = self._composition.drain_s + END_WITHIN_S
        await self._parts.stop((HELLO_AGENTS, (GATEWAY, *pops), (CONTROLPLANE, HELLO_PAGE)), grace_s)
        # A gateway host that was killed leaves its Envoy behind for the next host to adopt; now there is none.
        envoy = envoy_process(self._layout.gateway)
        if envoy is not None:
            await processes.end(envoy, self._clock, 2.0)
        (self._layout.run / "envoy.json").unlink(missing_ok=True)

    def _where_to_look(self) -> str:
        children = self._parts.children.values()
        dead = [child for child in children if not child.running]
        return "Read " + ", ".join(str(child.log_path) for child in dead or children) + "."


async def _said(child: Child, event: str) -> dict[str, Any]:
    """The newest line `event` of a part. Raises: Terminal if it dies before and is to be left dead."""
    async for said in child.said:
        if event in said:
            return said[event]
        if child.deaths.version and child.part.on_death is OnDeath.LEAVE:
            words = " / ".join(logfiles.last_lines(child.log_path))
            raise Terminal("DRTP-7008", f"{child.part.name} ended before it was ready: {words}")
    raise AssertionError  # Latest never ends
