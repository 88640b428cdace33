"""Observed state on its way up: what each edge sees, as keyed entries like the snapshots.

A report set is whole again on every reconnect, so a restarted control plane heals by itself. `sources` repeats the
applied snapshot entry's sources: conditions are concluded from exactly these.

What goes from here into an object's status has the bounds that the status has: the feed of an edge that exceeds them
ends, and no object suffers.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from msgspec import Meta

from drtp.api.drtp import ClientStatus, DRTPServerSpec, LocalState, ProgrammingStatus, Role
from drtp.api.fields import Count, DnsName, Millis, Share, Tally, Text253, Text1024
from drtp.api.meta import Model
from drtp.api.snapshots import EndpointMode, Source


class SessionState(Model, frozen=True):
    """How the POP sees the agent's session for one connection. `loss`: share of pings that came late or never."""

    status: ClientStatus
    agent: str = ""
    epoch: int = 0
    since_unix_ms: int = 0
    peer: str = ""
    lanes: int = 0
    round_trip_ms: Millis | None = None
    round_trip_floor_ms: Millis | None = None
    jitter_ms: Millis | None = None
    loss: Share | None = None


class RouteReport(Model, frozen=True, tag="route", tag_field="type"):
    """Key `route/<connection uid>`, from a POP. Where the endpoint is and who is behind it.

    `introductions`: it takes visitors whom a ClientHello introduces, and its certificate has the names for that.
    `byte_rates`: it holds limits in bytes per second, which POPs of before pass over.
    """

    connection: str
    programming: ProgrammingStatus
    mode: EndpointMode = EndpointMode.MTLS
    address: Annotated[str, Meta(max_length=45)] = ""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    path: Text1024 = ""
    introductions: bool = False
    byte_rates: bool = False
    session: SessionState = SessionState(status=ClientStatus.WAITING)
    visitors: Count | None = None
    """Streams open now, while the connection leaves this POP; else nothing, for it would change with every visit."""
    message: str = ""
    sources: tuple[Source, ...] = ()


class PopReport(Model, frozen=True, tag="pop", tag_field="type"):
    """Key `self`, from a POP. `health` 0-100."""

    health: Annotated[int, Meta(ge=0, le=100)]
    connections: Count = 0
    streams: int = 0
    draining: bool = False


class ServiceReport(Model, frozen=True, tag="service", tag_field="type"):
    """Key `service/<connection uid>`, from an agent. `failures`: connects that failed since its start."""

    connection: str
    local: LocalState = LocalState.UNKNOWN
    message: str = ""
    connect_ms: Millis | None = None
    jitter_ms: Millis | None = None
    failures: Tally | None = None
    sources: tuple[Source, ...] = ()


class TunnelReport(Model, frozen=True, tag="tunnel", tag_field="type"):
    """Key `tunnel/<server uid>`, from an agent: its session with one POP."""

    server: str
    status: ClientStatus
    role: Role | None = None
    round_trip_ms: float | None = None
    message: str = ""


PATHS_MAX = 64
"""Measured by one edge: a few times what it is asked to measure."""


class RoundTrips(Model, frozen=True, tag="roundtrips", tag_field="type"):
    """Key `roundtrips`, from an agent: measured ms to tunnel servers by name; placement prefers these to distance.

    All are measured in one way, those that it has a session with too: otherwise they could not be held side by side.
    """

    millis: Annotated[dict[Text253, Millis], Meta(max_length=PATHS_MAX)] = {}


class PeerPath(Model, frozen=True):
    """The path from one POP to another. `loss`: share of connects that were lost or sent again."""

    round_trip_ms: Millis
    round_trip_floor_ms: Millis
    jitter_ms: Millis = 0.0
    loss: Share = 0.0


class PeerPaths(Model, frozen=True, tag="peers", tag_field="type"):
    """Key `peers`, from a POP: how it reaches other tunnel servers, by name."""

    paths: Annotated[dict[DnsName, PeerPath], Meta(max_length=PATHS_MAX)] = {}


class ExposureState(Enum):
    """Whether Envoy took an entry."""

    PROGRAMMED = "Programmed"
    FAILED = "Failed"


class ExposureReport(Model, frozen=True, tag="exposure", tag_field="type"):
    """Key: the snapshot entry's key, from a gateway, once Envoy has answered for everything made of it."""

    state: ExposureState
    message: str = ""
    sources: tuple[Source, ...] = ()


class GatewayReport(Model, frozen=True, tag="gateway", tag_field="type"):
    """Key `self`, from a gateway."""

    envoy_ready: bool
    connections: int = 0


Report = (
    RouteReport | PopReport | PeerPaths | ServiceReport | TunnelReport | RoundTrips | ExposureReport | GatewayReport
)
Reports = dict[str, Report]
"""Everything one edge has to say, by key."""


class PopRegistration(Model, frozen=True, tag="pop", tag_field="type"):
    """What a POP says of itself at each connect; becomes DRTPServer `name`."""

    name: str
    spec: DRTPServerSpec
    version: str = ""


class AgentRegistration(Model, frozen=True, tag="agent", tag_field="type"):
    """What an agent says of itself at each connect."""

    hostname: str = ""
    version: str = ""
    latitude: str | None = None
    longitude: str | None = None


class GatewayRegistration(Model, frozen=True, tag="gateway", tag_field="type"):
    """What a gateway says of itself at each connect: the address its public listeners are reached at."""

    name: str
    addresses: tuple[str, ...] = ()
    version: str = ""


CALLED_MAX = 64
"""Services that one connector may present."""


class ConnectorRegistration(Model, frozen=True, tag="connector", tag_field="type"):
    """What a connector says of itself at each connect. `services`: what it wants to present, `<namespace>/<name>`.

    `datagrams`: it presents UDP services, too; those from before that do not.
    """

    hostname: str = ""
    version: str = ""
    services: Annotated[tuple[Text253, ...], Meta(max_length=CALLED_MAX)] = ()
    datagrams: bool = False


Registration = PopRegistration | AgentRegistration | GatewayRegistration | ConnectorRegistration
