"""What a connector sees, as one value: for the live screen, JSON events and `/ready`. Encodes to camelCase JSON."""

from __future__ import annotations

import msgspec

from drtp.agent.view import AgentPhase, CertificateView, Failure, FeedView, PopView
from drtp.api.drtp import Protocol
from drtp.api.meta import Model
from drtp.tunnel import FlowRecord


class PortView(Model, frozen=True, omit_defaults=False):
    """One service as it is presented here. `local`: address and port, or path; "" while it cannot listen.

    `protocol`: what comes there. `ready`: a connection finds a POP that both sides have. `reason` and `message` are why
    not, with a code. Of UDP streams are flows, and datagrams are counted; dropped at this end.
    """

    service: str
    local: str = ""
    protocol: Protocol = Protocol.TCP
    ready: bool = False
    reason: str = ""
    code: str = ""
    message: str = ""
    pops: tuple[str, ...] = ()
    streams: int = 0
    streams_total: int = 0
    denied_total: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    datagrams_in: int = 0
    datagrams_out: int = 0
    datagrams_dropped: int = 0


class ConnectorView(Model, frozen=True, omit_defaults=False):
    """Everything. `flows`: finished connections, newest last. `planned`: the control plane has answered."""

    phase: AgentPhase = AgentPhase.STARTING
    ports: tuple[PortView, ...] = ()
    pops: tuple[PopView, ...] = ()
    flows: tuple[FlowRecord, ...] = ()
    feed: FeedView = FeedView()
    certificate: CertificateView | None = None
    streams: int = 0
    planned: bool = False
    quarantined: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    local_url: str = ""
    failure: Failure | None = None

    @property
    def ready(self) -> bool:
        """Every service is presented and can be reached."""
        return bool(self.ports) and all(port.ready for port in self.ports)
