"""How far one edge is behind what it was sent: for the operator's graphs."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from drtp.api.feed import EdgeRole
from drtp.api.snapshots import Generation
from drtp.kit.clock import Clock
from drtp.kit.observe import REGISTRY

_BEHIND = Gauge(
    "drtp_feed_edges_behind", "Edges that have not applied all they were sent.", ["role"], registry=REGISTRY
)
_SECONDS = Histogram("drtp_feed_apply_seconds", "From sent to applied and persisted.", ["role"], registry=REGISTRY)
BYTES = Counter("drtp_feed_bytes", "Of messages; up is from the edge.", ["role", "direction"], registry=REGISTRY)


class Lag:
    """Of one connection."""

    def __init__(self, role: EdgeRole, clock: Clock) -> None:
        self._behind = _BEHIND.labels(role.value)
        self._seconds = _SECONDS.labels(role.value)
        self._clock = clock
        self._sent: tuple[Generation, float] | None = None

    def sent(self, generation: Generation) -> None:
        """A snapshot is on its way; while one is already, time counts from when that one left."""
        since = self._sent[1] if self._sent else self._clock.monotonic()
        if self._sent is None:
            self._behind.inc()
        self._sent = (generation, since)

    def applied(self, generation: Generation) -> None:
        """It is in force."""
        if self._sent is not None and generation >= self._sent[0]:
            self._seconds.observe(self._clock.monotonic() - self._sent[1])
            self.over()

    def over(self) -> None:
        """Nothing is under way any more; the connection may have ended."""
        if self._sent is not None:
            self._behind.dec()
            self._sent = None
