"""Whether this POP is fit to serve: does the driver move, are there descriptors left, is it going away."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from drtp.kit.descriptors import descriptor_limit
from drtp.tunnel import Stats

STUCK_AFTER_S = 3.0
"""The driver answers in microseconds when it is idle and in milliseconds under load."""

DEAD_AFTER_READINGS = 20
"""Without an answer, in a row, half a second and more each. Readings, not seconds: a process that was stopped and goes
on finds that much time has passed. Nothing brings a dead driver back but a new process, which the supervisor starts."""


class Fitness(Enum):
    """What `/healthz` says. Only OK is answered with 200."""

    OK = "ok"
    DRAINING = "draining"
    RETURNING = "returning"
    """Up after a planned stop, and its agents are not back yet."""
    STUCK = "stuck"
    STARTING = "starting"


@dataclass(frozen=True, slots=True)
class Vitals:
    """`health` 0 to 100 goes into the report; `ticks` is the driver's own counter."""

    fitness: Fitness
    health: int
    ticks: int = 0
    descriptors_share: float = 0.0


class Pulse:
    """Watches the driver's tick counter: a driver that counts lives."""

    def __init__(self) -> None:
        self._ticks = -1
        self._moved_at_s: float | None = None
        self._unmoved = 0

    def vitals(self, now_s: float, stats: Stats | None, *, draining: bool, descriptors_share: float) -> Vitals:
        """Judge by the newest stats, read at `now_s` (monotonic); None: read nothing new, judge by age."""
        if stats is not None and not stats.stale and stats.ticks != self._ticks:
            self._ticks, self._moved_at_s, self._unmoved = stats.ticks, now_s, 0
        elif stats is not None:
            self._unmoved += 1
        if self._moved_at_s is None:
            return Vitals(Fitness.STARTING, 0)
        if now_s - self._moved_at_s > STUCK_AFTER_S:
            return Vitals(Fitness.STUCK, 0, self._ticks, descriptors_share)
        fitness = Fitness.DRAINING if draining else Fitness.OK
        return Vitals(fitness, _health(descriptors_share), self._ticks, descriptors_share)

    @property
    def dead(self) -> bool:
        """The driver has stood still for so long that this process had better end."""
        return self._unmoved >= DEAD_AFTER_READINGS


def _health(descriptors_share: float) -> int:
    """Full until 80 % of the descriptors are in use, then down to 10 at the last one: placement wants 50 or more."""
    if descriptors_share <= 0.8:
        return 100
    return max(10, round(100 - 450 * (descriptors_share - 0.8)))


def descriptors_share() -> float:
    """The share (0 to 1) of this process' descriptors that is in use."""
    limit = descriptor_limit()
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")
    return len(os.listdir(folder)) / limit if limit else 0.0  # noqa: PTH208 - paths are not needed, only their number


PRE_AUTH_SHARE = 0.05
"""Of the descriptors, at most, for connections that have not shown who they are (threat 10)."""
PRE_AUTH_MIN = 64
PRE_AUTH_MAX = 2_048


def pre_auth_max() -> int:
    """How many such connections the descriptors of this process allow at one kind of door."""
    limit = descriptor_limit()
    return PRE_AUTH_MAX if limit is None else min(PRE_AUTH_MAX, max(PRE_AUTH_MIN, round(limit * PRE_AUTH_SHARE)))
