"""Token buckets, one for each address or identity, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict

from drtp.kit.clock import Clock

KNOWN_MAX = 10_000
"""Beyond it the address that was quiet longest is forgotten: it starts with a full bucket again."""


class Buckets:
    """`burst` at once, then `per_s` each second."""

    def __init__(self, clock: Clock, *, burst: float, per_s: float) -> None:
        self._clock = clock
        self._burst = burst
        self._per_s = per_s
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Whether one more is allowed for `key`."""
        now = self._clock.monotonic()
        level, at = self._levels.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_s)
        allowed = level >= 1
        self._levels[key] = (level - 1 if allowed else level, now)
        if len(self._levels) > KNOWN_MAX:
            self._levels.popitem(last=False)
        return allowed
