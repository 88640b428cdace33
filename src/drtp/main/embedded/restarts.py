"""Planned restarts of the parts of a running instance: what a deployment does to them one day, done here on demand.

Each part stops as at SIGTERM, so that it drains, starts again, and is waited for until it says that it serves as
before. Only then is the next one's turn: two POPs of a service are never away together.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

from drtp.kit.clock import Clock
from drtp.kit.errors import Terminal
from drtp.kit.observe import logger
from drtp.main.embedded import logfiles, processes
from drtp.main.embedded.child import Child
from drtp.main.embedded.envoy import envoy_process
from drtp.main.embedded.parts import CONTROLPLANE, GATEWAY, HELLO_AGENT, HELLO_AGENTS, PLACES, Composition
from drtp.main.embedded.supervisor import Supervisor

log = logger("up")

ENVOY = "envoy"
ALL = "all"
POPS = "pop"
NAMES = (CONTROLPLANE, *(place.label for place in PLACES), GATEWAY, ENVOY, HELLO_AGENT)
"""In the order in which they are restarted."""
BACK_WITHIN_S = 60.0
"""From the start of the new process: seconds, on a busy machine more."""
END_WITHIN_S = 8.0
"""On top of the drain: gateways are told first, and reports leave last."""


class Restarted(NamedTuple):
    """One part that serves again, as this process."""

    part: str
    pid: int
    seconds: float

    def event(self) -> dict[str, Any]:
        """For scripts."""
        return {"event": "restarted", "part": self.part, "pid": self.pid, "seconds": round(self.seconds, 3)}


def parts_named(names: Iterable[str]) -> tuple[str, ...]:
    """What names mean, each part once, in order: `all`, `pop` for every POP, a POP by its server's name.

    Raises: Terminal DRTP-7040 for a name that no part has.
    """
    meant = {ALL: NAMES, POPS: tuple(place.label for place in PLACES)}
    meant |= {place.server: (place.label,) for place in PLACES} | {name: (name,) for name in NAMES}
    asked = list(names)
    unknown = sorted({*asked} - meant.keys())
    if unknown or not asked:
        what = f"No part is called {', '.join(unknown)}." if unknown else "No part is named."
        raise Terminal("DRTP-7040", what, f"Parts: {', '.join((*NAMES, POPS, ALL))}.")
    return tuple(dict.fromkeys(part for name in asked for part in meant[name]))


class Restarts:
    """Restarts parts of one instance, one after the other."""

    def __init__(self, composition: Composition, parts: Supervisor, clock: Clock) -> None:
        self._composition = composition
        self._parts = parts
        self._clock = clock

    async def run(self, names: Iterable[str]) -> AsyncIterator[Restarted]:
        """Restart these; gives each as soon as it serves again. Raises: Terminal for the first that does not."""
        for part in parts_named(names):
            began = self._clock.monotonic()
            log.info("restarting", part=part)
            try:
                pid = await self._restart(part)
            except TimeoutError:
                raise Terminal(
                    "DRTP-7042", f"{part} does not serve again after its restart: {self._words(part)}"
                ) from None
            done = Restarted(part, pid, self._clock.monotonic() - began)
            log.info("restarted", part=part, pid=pid, seconds=round(done.seconds, 3))
            yield done

    async def _restart(self, part: str) -> int:
        """Gives the new process. Raises: TimeoutError."""
        if part == ENVOY:
            return await self._replace_envoy()
        if part == HELLO_AGENT:
            return await self._replace_agent()
        # The gateway host leaves its Envoy to the next one, where a plain stop would end both.
        by = signal.SIGUSR1 if part == GATEWAY else signal.SIGTERM
        child = self._parts.children[part]
        await child.restart(self._grace_s, by)
        async with asyncio.timeout(BACK_WITHIN_S):
            await _said(child, "ready")
        return child.pid.value or 0

    @property
    def _grace_s(self) -> float:
        return self._composition.drain_s + END_WITHIN_S

    async def _replace_agent(self) -> int:
        """As orchestrators do it: a second agent of the service is ready before the first one drains."""
        parts, names = self._parts, HELLO_AGENTS
        old = next(name for name in names if name in parts.children)
        new = next(name for name in names if name != old)
        child = parts.start(self._composition.hello_agent(new))
        try:
            async with asyncio.timeout(BACK_WITHIN_S):
                await _said(child, "ready")
        except TimeoutError:
            await parts.retire(new, 1.0)
            raise
        await parts.retire(old, self._grace_s)
        return child.pid.value or 0

    async def _replace_envoy(self) -> int:
        """The gateway host starts the next one beside the old one, which hands over its listeners and drains."""
        host = self._parts.children[GATEWAY]
        if not host.running:
            raise Terminal(
                "DRTP-7042", "The gateway host, which replaces Envoy, does not run.", "Restart gateway first."
            )
        before = envoy_process(self._composition.layout.gateway)
        host.signal(signal.SIGHUP)
        async with asyncio.timeout(BACK_WITHIN_S):
            async for said in host.said:
                pid = int(said.get("envoy", {}).get("pid", 0))
                if pid and (before is None or pid != before.pid):
                    processes.remember(self._composition.layout.run / "envoy.json", pid)
                    return pid
        raise AssertionError  # Latest never ends

    def _words(self, part: str) -> str:
        child = self._parts.children.get(GATEWAY if part == ENVOY else part)
        return " / ".join(logfiles.last_lines(child.log_path, 2)) if child is not None else "it is not there."


async def _said(child: Child, event: str) -> dict[str, Any]:
    async for said in child.said:
        if event in said:
            return said[event]
    raise AssertionError  # Latest never ends
