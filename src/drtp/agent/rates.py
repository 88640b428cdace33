"""Rates from totals: what happened over the last few seconds."""

from __future__ import annotations

from collections import deque

from drtp.agent.view import Rates
from drtp.tunnel import ConnectionStats

WINDOW_S = 5.0
"""Long enough to read, short enough to see a change."""
APART_S = 0.2
"""Samples closer than this say nothing more."""

Totals = tuple[int, int, int]
"""Bytes in, bytes out, streams."""


class RateMeter:
    """Keeps a few seconds of one thing's totals."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Totals]] = deque()

    def rates(self, now_s: float, totals: Totals) -> Rates:
        """Add a sample taken at `now_s` (monotonic) and give the rates over the window."""
        if not self._samples or now_s - self._samples[-1][0] >= APART_S:
            self._samples.append((now_s, totals))
        while len(self._samples) > 1 and now_s - self._samples[1][0] >= WINDOW_S:
            self._samples.popleft()
        then_s, then = self._samples[0]
        span_s = now_s - then_s
        if span_s <= 0:
            return Rates()
        grown = [max(0, new - old) / span_s for new, old in zip(totals, then, strict=True)]
        return Rates(bytes_in_per_s=grown[0], bytes_out_per_s=grown[1], streams_per_s=grown[2])


class Meters:
    """One meter for each connection; those that are gone are forgotten."""

    def __init__(self) -> None:
        self._meters: dict[str, RateMeter] = {}

    def rates(self, now_s: float, connections: tuple[ConnectionStats, ...]) -> dict[str, Rates]:
        """Rates by connection uid."""
        self._meters = {entry.connection: self._meters.get(entry.connection, RateMeter()) for entry in connections}
        return {
            entry.connection: self._meters[entry.connection].rates(
                now_s, (entry.bytes_in, entry.bytes_out, entry.streams_total)
            )
            for entry in connections
        }


def total(rates: dict[str, Rates]) -> Rates:
    """All together."""
    return Rates(
        bytes_in_per_s=sum(rate.bytes_in_per_s for rate in rates.values()),
        bytes_out_per_s=sum(rate.bytes_out_per_s for rate in rates.values()),
        streams_per_s=sum(rate.streams_per_s for rate in rates.values()),
    )
