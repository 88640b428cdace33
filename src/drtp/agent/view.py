"""What the agent sees, as one value: all that the live screen, JSON events, `/ready` and `/metrics` need.

Encodes to camelCase JSON (msgspec). Times are unix milliseconds, rates per second, totals since this process started.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from drtp.api.drtp import ClientStatus, Protocol, Role, ServiceAddress
from drtp.api.meta import Model
from drtp.api.reports import LocalState
from drtp.tunnel import FlowRecord

Flow = FlowRecord
"""One finished visitor."""


class AgentPhase(Enum):
    """How far the agent is. Ready: at least one service can be reached on some path."""

    STARTING = "Starting"
    CONNECTING = "Connecting"
    READY = "Ready"
    DRAINING = "Draining"
    STOPPED = "Stopped"
    FAILED = "Failed"


class Failure(Model, frozen=True):
    """A terminal error, in the words of the error pages."""

    code: str
    what: str
    remedy: str


class FeedView(Model, frozen=True, omit_defaults=False):
    """The connection to the control plane. Down does not stop visitors."""

    state: str = "Connecting"
    code: str = ""
    message: str = ""


class CertificateView(Model, frozen=True, omit_defaults=False):
    """The certificate in use. `renewals` since this process started."""

    generation: int
    not_before_unix_ms: int
    not_after_unix_ms: int
    renewals: int = 0


class Rates(Model, frozen=True, omit_defaults=False):
    """Over the last few seconds. `bytes_in` is visitor to service."""

    bytes_in_per_s: float = 0.0
    bytes_out_per_s: float = 0.0
    streams_per_s: float = 0.0


class PathView(Model, frozen=True, omit_defaults=False):
    """One way in: a POP's session and, behind it, the local service. Ready: a visitor on it is answered."""

    server: str
    name: str
    ready: bool
    reason: str = ""


class LocalView(Model, frozen=True, omit_defaults=False):
    """The local service. `message` is the last failure; `connect_ms` the last successful connect."""

    state: LocalState = LocalState.UNKNOWN
    target: str = ""
    connect_ms: float | None = None
    jitter_ms: float = 0.0
    failures_total: int = 0
    message: str = ""


class ServiceView(Model, frozen=True, omit_defaults=False):
    """One service of this agent. `ready`: the control plane says so and at least one path is ready.

    Datagrams are of a UDP service, dropped at this end.
    """

    connection: str
    connection_name: str
    namespace: str
    name: str
    protocol: Protocol
    enabled: bool
    addresses: tuple[ServiceAddress, ...]
    ready: bool
    reason: str = ""
    message: str = ""
    local: LocalView = LocalView()
    paths: tuple[PathView, ...] = ()
    streams: int = 0
    streams_total: int = 0
    denied_total: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    datagrams_in: int = 0
    datagrams_out: int = 0
    datagrams_dropped: int = 0
    rates: Rates = Rates()

    @property
    def key(self) -> str:
        """`<namespace>/<name>`."""
        return f"{self.namespace}/{self.name}"


class PopView(Model, frozen=True, omit_defaults=False):
    """One tunnel server. `loss` is 0 to 1, the floor is the shortest round trip of late; `message`: the last fault.

    `way` is how it is reached.
    """

    server: str
    name: str
    pop: str
    address: str
    role: Role
    state: ClientStatus
    round_trip_ms: float | None = None
    round_trip_floor_ms: float | None = None
    jitter_ms: float = 0.0
    loss: float = 0.0
    lanes: int = 0
    streams: int = 0
    since_unix_ms: int = 0
    message: str = ""
    way: str = ""

    @property
    def server_name(self) -> str:
        """The DRTPServer's name: `name` is what its certificate carries, `<server>.tunnel.<suffix>`."""
        return server_name(self.name)


def server_name(name: str) -> str:
    """The DRTPServer's name in what its certificate carries."""
    return name.partition(".tunnel.")[0]


class AgentView(Model, frozen=True, omit_defaults=False):
    """Everything. `flows`: newest last. `local_url`: where the agent's own status pages are."""

    phase: AgentPhase = AgentPhase.STARTING
    services: tuple[ServiceView, ...] = ()
    pops: tuple[PopView, ...] = ()
    flows: tuple[FlowRecord, ...] = ()
    feed: FeedView = FeedView()
    certificate: CertificateView | None = None
    streams: int = 0
    rates: Rates = Rates()
    quarantined: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Plan entries that could not be put in force, with the reason."""
    local_url: str = ""
    failure: Failure | None = None

    @property
    def ready(self) -> bool:
        """Every enabled service is ready, and there is one."""
        wanted = [service for service in self.services if service.enabled]
        return bool(wanted) and all(service.ready for service in wanted)
