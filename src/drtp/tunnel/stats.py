"""What the core counts and measures. Totals are since its start."""

from __future__ import annotations

from enum import Enum

from drtp.api.meta import Model
from drtp.api.reports import LocalState


class SessionPhase(Enum):
    """A session's state machine, as drtp-core names it."""

    CONNECTING = "Connecting"
    GREETING = "Greeting"
    OPEN = "Open"
    DRAINING = "Draining"
    CLOSED = "Closed"


class LaneStats(Model, frozen=True):
    """One lane. `loss` is the decaying share (0 to 1) of pings that came back late or never."""

    round_trip_ms: float | None = None
    round_trip_floor_ms: float | None = None
    jitter_ms: float = 0.0
    loss: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0


class SessionStats(Model, frozen=True):
    """A session with one peer: an agent's uid at the POP, a server's uid at the agent. `way` as in `TunnelUp`.

    `carries_datagrams`: its POP carries sealed datagrams; those from before that do not.
    """

    peer: str
    address: str
    state: SessionPhase
    epoch: int = 0
    since_unix_ms: int = 0
    streams: int = 0
    lanes: tuple[LaneStats, ...] = ()
    way: str = ""
    carries_datagrams: bool = False
    message: str | None = None

    @property
    def live(self) -> bool:
        """Visitors can pass."""
        return self.state in {SessionPhase.OPEN, SessionPhase.DRAINING}

    @property
    def round_trip_ms(self) -> float | None:
        """The best lane's."""
        return min((lane.round_trip_ms for lane in self.lanes if lane.round_trip_ms is not None), default=None)

    @property
    def round_trip_floor_ms(self) -> float | None:
        """The shortest of late, on any lane."""
        floors = (lane.round_trip_floor_ms for lane in self.lanes if lane.round_trip_floor_ms is not None)
        return min(floors, default=None)

    @property
    def jitter_ms(self) -> float:
        """The best lane's."""
        return min((lane.jitter_ms for lane in self.lanes), default=0.0)

    @property
    def loss(self) -> float:
        """The worst lane's."""
        return max((lane.loss for lane in self.lanes), default=0.0)


class LocalStats(Model, frozen=True):
    """The local service as the agent sees it. `message` is the last failure."""

    state: LocalState = LocalState.UNKNOWN
    target: str = ""
    connect_ms: float | None = None
    jitter_ms: float = 0.0
    failures_total: int = 0
    message: str = ""


class ConnectionStats(Model, frozen=True):
    """One connection. `bytes_in` is visitor to service. `live`: a POP accepts visitors; an agent's plan enables it.

    Datagrams are of UDP, at an agent or connector; dropped at that end.
    `held_ms_total`: how long a POP's streams have waited because of limits in bytes per second, all together.
    """

    connection: str
    service: str
    streams: int = 0
    streams_total: int = 0
    denied_total: int = 0
    would_refuse_total: int = 0
    held_ms_total: int = 0
    datagrams_over_limit_total: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    datagrams_in: int = 0
    datagrams_out: int = 0
    datagrams_dropped: int = 0
    bound: str | None = None
    live: bool = False
    local: LocalStats | None = None


class FlowRecord(Model, frozen=True):
    """One finished visitor. `outcome` is `finished`, or the reset's reason in words; `idle` ends a UDP flow.

    `listener`: at a gateway, the key of its entry. Datagrams are of UDP flows. `caller`: at an agent, who called by
    `connect`, as `user:<name>` or `app:<name>`.
    """

    ended_unix_ms: int
    visitor: str
    service: str
    connection: str
    stream_id: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    datagrams_in: int = 0
    datagrams_out: int = 0
    datagrams_dropped: int = 0
    listener: str = ""
    caller: str = ""
    duration_ms: int = 0
    outcome: str = ""


class Stats(Model, frozen=True):
    """Everything. `stale`: this is an old answer, for the driver gave none in time; `ticks` tells whether it lives."""

    ticks: int = 0
    stale: bool = False
    sessions: tuple[SessionStats, ...] = ()
    connections: tuple[ConnectionStats, ...] = ()
    recent: tuple[FlowRecord, ...] = ()
    streams: int = 0
    pre_auth: int = 0
    dials: int = 0
    parked_bytes: int = 0
    events_dropped: int = 0
    accept_paused_total: int = 0
    draining: bool = False
