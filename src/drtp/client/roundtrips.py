"""How far tunnel servers are from this edge: a TCP handshake with each, now and then.

One way for all of them, so that they can be held side by side: a session's pings wait behind its visitors' bytes, a
handshake does not. The kernel times it where it says so (Linux), and the loop's own delays stay out. Whatever answers
in a server's place, as an intercepting proxy does, answers for all of them alike, and moves nobody.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
import statistics
import struct
import sys
from collections import deque
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from drtp.kit.clock import Clock

HANDSHAKE_MAX_S = 2.0
TOGETHER_MAX = 4
"""Handshakes under way at once: more would measure each other."""

QUICK_ROUNDS = 3
QUICK_S = 2.0
"""A new target is measured so often, so far apart, before anything is said of it."""

EVERY_S = 60.0
SPREAD = 0.2
"""Then once in this, give or take that share: a fleet must not measure in step."""

REMEMBERED = 5
"""Samples; their median is said, so that one or two outliers move nothing."""

SILENT_AFTER = 3
"""Lost handshakes in a row: the target cannot be reached, and is tried more and more seldom."""
SILENT_EVERY_MAX_S = 600.0

_TCP_INFO_RTT = (68, 4)
_TCP_INFO_TOTAL_RETRANS = (100, 4)
"""Offset and length in Linux' `struct tcp_info`: microseconds, segments."""


class Target(NamedTuple):
    """A tunnel server by the name it has here, and where its agents dial in."""

    name: str
    address: str
    port: int


class Handshake(NamedTuple):
    """One handshake. `round_trip_ms` None: there was no answer in time, or its time says nothing; `lost`: it was sent
    again, or never answered.
    """

    round_trip_ms: float | None
    lost: bool


class Path(NamedTuple):
    """What is known of the way to one target. `loss` is 0 to 1, decaying."""

    round_trip_ms: float
    floor_ms: float
    jitter_ms: float
    loss: float


@dataclass(slots=True)
class _Course:
    """The history of one target."""

    due_s: float
    rounds: int = 0
    samples: deque[float] = field(default_factory=lambda: deque[float](maxlen=REMEMBERED))
    jitter_ms: float = 0.0
    loss: float = 0.0
    lost_in_a_row: int = 0

    def note(self, handshake: Handshake) -> None:
        self.rounds += 1
        self.loss = self.loss * 0.9 + 0.1 * handshake.lost
        if handshake.round_trip_ms is None:
            self.lost_in_a_row += 1
            if self.lost_in_a_row >= SILENT_AFTER:
                self.samples.clear()
            return
        self.lost_in_a_row = 0
        if self.samples:
            self.jitter_ms += (abs(handshake.round_trip_ms - self.samples[-1]) - self.jitter_ms) / 16
        self.samples.append(handshake.round_trip_ms)

    @property
    def path(self) -> Path | None:
        if len(self.samples) < QUICK_ROUNDS:
            return None
        return Path(statistics.median_low(self.samples), min(self.samples), self.jitter_ms, self.loss)

    def wait_s(self, unit: float) -> float:
        """Until the next handshake; `unit` is in 0..1."""
        if self.rounds < QUICK_ROUNDS:
            return QUICK_S
        pace_s = EVERY_S * 2 ** max(0, min(self.lost_in_a_row - SILENT_AFTER + 1, 8))
        return min(pace_s, SILENT_EVERY_MAX_S) * (1 + SPREAD * (2 * unit - 1))


def _may_be_a_server(address: str) -> bool:
    try:
        named = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True  # a name, which only the resolver knows
    return not (named.is_link_local or named.is_multicast or named.is_unspecified)


class RoundTripMeter:
    """Measures what it is aimed at, for as long as `run` runs. One event loop."""

    def __init__(self, clock: Clock, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._rng = rng or random.SystemRandom()
        self._courses: dict[Target, _Course] = {}
        self._aimed = asyncio.Event()

    def aim(self, targets: Iterable[Target]) -> None:
        """Measure exactly these; those that were there before keep their history.

        A tunnel server says itself where it is. One that names what no server can have (a cloud's metadata address is
        link-local) is passed over.
        """
        wanted = dict.fromkeys(target for target in targets if _may_be_a_server(target.address))
        if wanted.keys() == self._courses.keys():
            return
        # Not at once: whoever starts has something better to do first.
        due_s = self._clock.monotonic() + QUICK_S
        self._courses = {target: self._courses.get(target) or _Course(due_s) for target in wanted}
        self._aimed.set()

    @property
    def targets(self) -> Set[Target]:
        """What is measured."""
        return self._courses.keys()

    @property
    def paths(self) -> dict[str, Path]:
        """What is known, by the targets' names."""
        return {target.name: path for target, course in self._courses.items() if (path := course.path) is not None}

    async def run(self) -> None:
        """Until cancelled."""
        places = asyncio.Semaphore(TOGETHER_MAX)
        while True:
            self._aimed.clear()
            now_s = self._clock.monotonic()
            due = [target for target, course in self._courses.items() if course.due_s <= now_s]
            async with asyncio.TaskGroup() as group:
                for target in due:
                    group.create_task(self._measure(target, places))
            await self._wait()

    async def _measure(self, target: Target, places: asyncio.Semaphore) -> None:
        async with places:
            found = await handshake(target.address, target.port, self._clock)
        course = self._courses.get(target)
        if course is not None:
            course.note(found)
            course.due_s = self._clock.monotonic() + course.wait_s(self._rng.random())

    async def _wait(self) -> None:
        """Until the next handshake is due, or others are wanted."""
        due_s = min((course.due_s for course in self._courses.values()), default=None)
        async with asyncio.TaskGroup() as group:
            waits: list[asyncio.Task[object]] = [group.create_task(self._aimed.wait())]
            if due_s is not None:
                waits.append(group.create_task(self._clock.sleep(max(0.0, due_s - self._clock.monotonic()))))
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()


async def handshake(address: str, port: int, clock: Clock, within_s: float = HANDSHAKE_MAX_S) -> Handshake:
    """One TCP handshake with an IP address, closed again at once."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            began_s = clock.monotonic()
            async with asyncio.timeout(within_s):
                await loop.sock_connect(probe, (address, port))
            return _timed(probe, (clock.monotonic() - began_s) * 1000)
    except OSError:  # TimeoutError is one
        return Handshake(None, lost=True)


def _timed(probe: socket.socket, took_ms: float) -> Handshake:
    if sys.platform != "linux":
        return Handshake(took_ms, lost=False)
    try:
        info = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, sum(_TCP_INFO_TOTAL_RETRANS))
    except OSError:
        return Handshake(took_ms, lost=False)
    round_trip_us, sent_again = (_unsigned(info, *field) for field in (_TCP_INFO_RTT, _TCP_INFO_TOTAL_RETRANS))
    if sent_again:
        # Which of the two was answered nobody knows (Karn).
        return Handshake(None, lost=True)
    return Handshake(round_trip_us / 1000 if round_trip_us else took_ms, lost=False)


def _unsigned(info: bytes, offset: int, length: int) -> int:
    """0 where the kernel's structure ends before it."""
    return struct.unpack_from("=I", info, offset)[0] if len(info) >= offset + length else 0
