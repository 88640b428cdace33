"""What the core tells its host. Facts of which the newest about a subject counts: events wake, stats say."""

from __future__ import annotations

from drtp.api.meta import Model
from drtp.tunnel.stats import FlowRecord


class SessionUp(Model, frozen=True, tag="sessionUp"):
    """POP: an agent's session is live and serves `connections` (uids)."""

    agent: str
    epoch: int
    peer: str
    connections: tuple[str, ...] = ()


class SessionDown(Model, frozen=True, tag="sessionDown"):
    """POP: an agent's session is gone and its visitors were reset."""

    agent: str
    reason: str


class Refused(Model, frozen=True, tag="refused"):
    """POP: an agent was refused. Agent: a POP refused it, and it tries again. `subject` is the other's uid, or ""."""

    subject: str
    reason: str


class RouteBound(Model, frozen=True, tag="routeBound"):
    """POP: an endpoint is bound, and listens as soon as an agent is there. `path`: its Unix socket."""

    key: str
    connection: str
    bound: str
    path: str | None = None


class RouteFailed(Model, frozen=True, tag="routeFailed"):
    """POP: an endpoint could not be had; the others go on."""

    key: str
    connection: str
    message: str


class Fenced(Model, frozen=True, tag="fenced"):
    """Agent: a newer instance of the same identity serves. Terminal: the core tries nothing more."""

    server: str
    message: str


class FlowEnded(Model, frozen=True, tag="flowEnded"):
    """Gateway: a UDP visitor's flow is over."""

    flow: FlowRecord


class LocalUp(Model, frozen=True, tag="localUp"):
    """Agent: the local service answered."""

    service: str
    connection: str


class LocalDown(Model, frozen=True, tag="localDown"):
    """Agent: the local service cannot be reached."""

    service: str
    connection: str
    message: str


class TunnelUp(Model, frozen=True, tag="tunnelUp"):
    """Agent: the session with a POP is live. `way`: `quic`, or `direct`, `connect` or `socks5`, and `+websocket`."""

    server: str
    peer: str
    way: str = "direct"


class TunnelDown(Model, frozen=True, tag="tunnelDown"):
    """Agent: it is not; the core goes on trying."""

    server: str
    message: str


Event = (
    SessionUp
    | SessionDown
    | Refused
    | RouteBound
    | RouteFailed
    | Fenced
    | FlowEnded
    | LocalUp
    | LocalDown
    | TunnelUp
    | TunnelDown
)
