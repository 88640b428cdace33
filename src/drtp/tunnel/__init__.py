"""The Python face of the native tunnel core: typed documents, and its events in the host's own loop.

The sole importer of `drtp_native`. Hosts hold a `TunnelServer`, a `TunnelAgent`, a `TunnelGateway` or a
`TunnelConnector`, apply deltas made of snapshot entries, and learn what became of them by events and stats. No payload
byte comes this way.
"""

from drtp.tunnel.config import (
    TUNNEL_ALPN,
    AgentConfig,
    CoreLimits,
    GatewayConfig,
    Liveness,
    ProxyHop,
    ServerConfig,
    Target,
    TargetTls,
    TunnelIdentity,
    Way,
    Ways,
    WebIdentity,
)
from drtp.tunnel.delta import ApplyOutcome, Delta, EntryOutcome, delta_between
from drtp.tunnel.events import (
    Event,
    Fenced,
    FlowEnded,
    LocalDown,
    LocalUp,
    Refused,
    RouteBound,
    RouteFailed,
    SessionDown,
    SessionUp,
    TunnelDown,
    TunnelUp,
)
from drtp.tunnel.face import TunnelAgent, TunnelConnector, TunnelGateway, TunnelServer, carry_stdio
from drtp.tunnel.stats import ConnectionStats, FlowRecord, LaneStats, LocalStats, SessionPhase, SessionStats, Stats

__all__ = [
    "TUNNEL_ALPN",
    "AgentConfig",
    "ApplyOutcome",
    "ConnectionStats",
    "CoreLimits",
    "Delta",
    "EntryOutcome",
    "Event",
    "Fenced",
    "FlowEnded",
    "FlowRecord",
    "GatewayConfig",
    "LaneStats",
    "Liveness",
    "LocalDown",
    "LocalStats",
    "LocalUp",
    "ProxyHop",
    "Refused",
    "RouteBound",
    "RouteFailed",
    "ServerConfig",
    "SessionDown",
    "SessionPhase",
    "SessionStats",
    "SessionUp",
    "Stats",
    "Target",
    "TargetTls",
    "TunnelAgent",
    "TunnelConnector",
    "TunnelDown",
    "TunnelGateway",
    "TunnelIdentity",
    "TunnelServer",
    "TunnelUp",
    "Way",
    "Ways",
    "WebIdentity",
    "carry_stdio",
    "delta_between",
]
