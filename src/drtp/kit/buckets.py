"""Token buckets, one for each address or identity, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict

from drtp.kit.clock import Clock
from drtp.kit.networks import networks_of

KNOWN_MAX = 10_000
"""Beyond it a full bucket is forgotten, which changes nothing. Where there is none, newcomers share buckets: whoever
brings ten thousand names must not have the one forgotten that was drained.
"""
SHARED = 256
"""Buckets of newcomers then. Which one is a newcomer's, nobody outside can know."""
WIDER = 8
"""So much more a /48 has than a /64 in it: a site of its own, such as an office, is many people."""


class Buckets:
    """`burst` at once, then `per_s` each second."""

    def __init__(self, clock: Clock, *, burst: float, per_s: float) -> None:
        self._clock = clock
        self._burst = burst
        self._per_s = per_s
        self._levels: OrderedDict[str | int, tuple[float, float]] = OrderedDict()
        self._shared: dict[str | int, tuple[float, float]] = {}

    def take(self, key: str) -> bool:
        """Whether one more is allowed for `key`."""
        now = self._clock.monotonic()
        if key not in self._levels and len(self._levels) >= KNOWN_MAX and not self._forget_a_full_one(now):
            return self._take(self._shared, hash(key) % SHARED, now)
        return self._take(self._levels, key, now)

    def _take(self, levels: dict[str | int, tuple[float, float]], key: str | int, now: float) -> bool:
        level = self._level(levels.pop(key, (self._burst, now)), now)
        allowed = level >= 1
        levels[key] = (level - 1 if allowed else level, now)
        return allowed

    def _forget_a_full_one(self, now: float) -> bool:
        """Make room, if the bucket that nobody has asked for longest is full again. Gives whether there is room."""
        key, held = next(iter(self._levels.items()))
        if self._level(held, now) < self._burst:
            return False
        del self._levels[key]
        return True

    def _level(self, held: tuple[float, float], now: float) -> float:
        level, at = held
        return min(self._burst, level + (now - at) * self._per_s)


class AddressBuckets:
    """Buckets of addresses: of an IPv4 address; of an IPv6 /64, and a wider one of the /48 that it is in."""

    def __init__(self, clock: Clock, *, burst: float, per_s: float) -> None:
        self._narrow = Buckets(clock, burst=burst, per_s=per_s)
        self._wide = Buckets(clock, burst=burst * WIDER, per_s=per_s * WIDER)

    def take(self, remote: str) -> bool:
        """Whether one more is allowed for this address. Raises: ValueError for what is none."""
        narrow, *wider = networks_of(remote)
        return self._narrow.take(narrow) and all(self._wide.take(one) for one in wider)
