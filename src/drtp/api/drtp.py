"""The DRTP kinds: group datumapis.com, version v1alpha. The one source of their CRDs, validation and OpenAPI."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from drtp.api.fields import (
    LIST_SET,
    Cidr,
    Count,
    DnsLabel,
    DnsName,
    Host,
    Int64,
    IpAddress,
    Permille,
    Port,
    Text63,
    Text128,
    Text253,
    Text1024,
    Text2048,
    list_map,
    rules,
)
from drtp.api.meta import Condition, LocalRef, Model, NamespacedRef, ObjectMeta
from drtp.api.policies import (
    Country,
    Encryption,
    Organization,
    PolicyLimits,
    PolicyMode,
    Principal,
    Region,
    Schedule,
    Through,
)

GROUP = "datumapis.com"
VERSION = "v1alpha"
API_VERSION = f"{GROUP}/{VERSION}"

Conditions = Annotated[
    tuple[Condition, ...],
    Meta(
        max_length=16,
        description="What is known of the object, one entry for each aspect.",
        extra_json_schema=list_map("type"),
    ),
]


class Protocol(Enum):
    """What visitors speak to the service."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    TCP = "TCP"
    TLS = "TLS"
    UDP = "UDP"


class AppProtocol(Enum):
    """What the agent's local service speaks inside HTTP."""

    HTTP1 = "http1"
    H2C = "h2c"


class ProxyProtocol(Enum):
    """Whether the local service is told the visitor's address, and how."""

    NONE = "None"
    V1 = "V1"
    V2 = "V2"


class Role(Enum):
    """A server's place in a connection."""

    PRIMARY = "Primary"
    SECONDARY = "Secondary"
    TERTIARY = "Tertiary"
    LEAVING = "Leaving"
    """Takes no new visitors where there is another; keeps those it has until they are gone."""


class ProgrammingStatus(Enum):
    """How far the POP is with a connection's endpoint."""

    INIT = "Init"
    PROGRAMMING = "Programming"
    PROGRAMMED = "Programmed"
    DRAINING = "Draining"
    FAILED = "Failed"


class ClientStatus(Enum):
    """How the POP sees a connection's agent."""

    WAITING = "Waiting"
    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    DISCONNECTED = "Disconnected"


class LocalState(Enum):
    """The agent's view of its local service."""

    UNKNOWN = "Unknown"
    REACHABLE = "Reachable"
    UNREACHABLE = "Unreachable"


class EndpointMode(Enum):
    """How a gateway reaches a POP endpoint, and so how the visitor's address is believed."""

    MTLS = "mtls"
    UNIX = "unix"
    PLAIN = "plain"


class Action(Enum):
    """What an access rule does."""

    ALLOW = "Allow"
    DENY = "Deny"


class EnforcementPoint(Enum):
    """Where a policy holds."""

    GATEWAY = "Gateway"
    TUNNEL = "Tunnel"


class Transport(Enum):
    """How agents reach a tunnel server."""

    TLS = "TLS"
    QUIC = "QUIC"
    WEBSOCKET = "WebSocket"


class Location(Model, frozen=True):
    """Signed decimal degrees (WGS 84), as strings because API conventions avoid floating point."""

    latitude: Annotated[
        str,
        Meta(
            max_length=12,
            pattern=r"^-?[0-9]{1,2}(\.[0-9]{1,8})?$",
            description='North is positive, for example "40.7128".',
            extra_json_schema=rules(
                ("double(self) >= -90.0 && double(self) <= 90.0", "latitude must be between -90 and 90")
            ),
        ),
    ]
    longitude: Annotated[
        str,
        Meta(
            max_length=13,
            pattern=r"^-?[0-9]{1,3}(\.[0-9]{1,8})?$",
            description='East is positive, for example "-74.0060".',
            extra_json_schema=rules(
                ("double(self) >= -180.0 && double(self) <= 180.0", "longitude must be between -180 and 180")
            ),
        ),
    ]


class ServerListener(Model, frozen=True):
    """Where agents dial in."""

    transport: Transport
    port: Port


class ServerSockets(Model, frozen=True):
    """Where gateways on the server's own machine find its endpoints: only they see this directory with this mark."""

    directory: Annotated[Text1024, Meta(description="Absolute path, as the server sees it.")]
    mark: Annotated[Text63, Meta(description="Of kernel, file system and directory; another after each restart.")]


class DRTPServerSpec(Model, frozen=True):
    """What a tunnel server says of itself when it registers."""

    pop: Annotated[DnsLabel, Meta(description="Point of presence, for example nyc-ac.")]
    location: Location
    server_ip: Annotated[IpAddress, Meta(description="WAN address that agents dial.")] = msgspec.field(name="serverIP")
    listeners: Annotated[
        tuple[ServerListener, ...], Meta(min_length=1, max_length=8, extra_json_schema=list_map("transport"))
    ]
    health_port: Annotated[Port | None, Meta(description="Where gateways probe the server over HTTPS.")] = None
    sockets: Annotated[
        ServerSockets | None,
        Meta(description="Unix sockets for gateways on the same machine; absent where it has none."),
    ] = None
    node_name: Annotated[Text253 | None, Meta(description="Bare metal host the instance runs on.")] = None
    instance_id: Annotated[Text253 | None, Meta(description="Pod or process, for debugging.")] = msgspec.field(
        name="instanceID", default=None
    )
    failure_domain: Annotated[
        Text253 | None, Meta(description="Servers of one domain fail together; the pop where absent.")
    ] = None
    region: Annotated[Region | None, Meta(description="The region it is in, for example eu-central.")] = None
    country: Annotated[Country | None, Meta(description="The country it is in, for example DE.")] = None
    max_connections: Annotated[Count | None, Meta(description="Connections accepted; absent means no limit.")] = None
    unschedulable: Annotated[
        bool, Meta(description="True while draining: connections move away and none is assigned.")
    ] = False


PEERS_MAX = 16
"""Other servers that a server measures: those near it."""


class PeerStatus(Model, frozen=True):
    """The path from this server to another, by TCP handshakes."""

    server_ref: LocalRef
    round_trip_millis: Annotated[Count | None, Meta(description="The median of late.")] = None
    round_trip_floor_millis: Annotated[Count | None, Meta(description="The shortest of late.")] = None
    jitter_millis: Annotated[Count | None, Meta(description="Mean deviation of round trips.")] = None
    loss_permille: Annotated[
        Permille | None, Meta(description="Handshakes lost or begun again, in thousandths, decaying.")
    ] = None


class DRTPServerStatus(Model, frozen=True):
    """Health is 0 (down) to 100."""

    health: Annotated[int, Meta(ge=0, le=100, description="0 (down) to 100 (healthy).")] | None = None
    connections: Annotated[Count | None, Meta(description="Connections assigned now.")] = None
    version: Text63 | None = None
    peers: Annotated[
        tuple[PeerStatus, ...],
        Meta(max_length=PEERS_MAX, description="Paths to other servers near it, the nearest first."),
    ] = ()
    last_heartbeat_time: datetime | None = None
    observed_generation: Annotated[
        Int64 | None, Meta(description="The generation of the spec that this status speaks of.")
    ] = None
    conditions: Conditions = ()


class DRTPServer(Model, frozen=True, kw_only=True):
    """One tunnel server instance in a POP, registered by itself; cluster-scoped."""

    api_version: str = API_VERSION
    kind: str = "DRTPServer"
    metadata: ObjectMeta
    spec: DRTPServerSpec
    status: DRTPServerStatus = DRTPServerStatus()


class LocalTls(Model, frozen=True):
    """How the agent trusts an `https` target. `serverName` defaults to the host; trust is the agent's own side's."""

    server_name: Annotated[DnsName | None, Meta(description="The name its certificate must carry.")] = None


class LocalService(Model, frozen=True):
    """The application as the agent reaches it. `tls` present: the agent originates TLS to it."""

    host: Annotated[Host, Meta(description="Host name or IP address, for example sqlserver.corp.com.")]
    port: Port
    app_protocol: Annotated[AppProtocol, Meta(description="What it speaks inside HTTP.")] = AppProtocol.HTTP1
    tls: LocalTls | None = None


class Expose(Model, frozen=True):
    """How the service appears in public. Absent: no public listener."""

    gateway_ref: Annotated[NamespacedRef | None, Meta(description="The Gateway; the operator's where absent.")] = None
    hostname: Annotated[
        DnsName | None, Meta(description="Requested name; one under the service domain is vended where absent.")
    ] = None
    port: Annotated[Port | None, Meta(description="Requested public port; one is vended where absent.")] = None
    address: Annotated[
        IpAddress | None,
        Meta(description="Requested dedicated address of the operator's pool; any port may be had on it."),
    ] = None
    host_header: Annotated[
        Text253 | None, Meta(description="Host header that the local service gets instead of the visitor's.")
    ] = None


class DRTPServiceSpec(Model, frozen=True):
    """The service definition. How a local application is reached and by whom."""

    protocol: Annotated[
        Protocol,
        Meta(
            description="What visitors speak; immutable.",
            extra_json_schema=rules(
                ("self == oldSelf", "protocol is immutable: delete the service and make a new one")
            ),
        ),
    ]
    local: LocalService
    application_type: Annotated[Text63 | None, Meta(description="What it is, such as postgresql.")] = None
    display_name: Annotated[Text128 | None, Meta(description="Its name for people.")] = None
    enabled: Annotated[bool, Meta(description="False keeps tunnels and reservations, and refuses visitors.")] = True
    server_count: Annotated[
        int, Meta(ge=1, le=3, description="Tunnel servers each connection is given; 1 reads Degraded.")
    ] = 2
    edge_allowlist: (
        Annotated[
            tuple[Cidr, ...],
            Meta(
                max_length=256,
                description="Networks that visitors may come from. Absent: anyone, once exposed. Empty: nobody.",
                extra_json_schema=LIST_SET,
            ),
        ]
        | None
    ) = None
    proxy_protocol: Annotated[
        ProxyProtocol, Meta(description="PROXY protocol header that tells the local service the visitor's address.")
    ] = ProxyProtocol.NONE
    expose: Annotated[Expose | None, Meta(description="How it appears in public; absent: not at all.")] = None


ADDRESSES_MAX = 16
"""Of a service's status: for people and agents to choose from, not a register of every route that leads to it."""


class ServiceAddress(Model, frozen=True):
    """One place where visitors reach the service."""

    hostname: Text253 | None = None
    ip: IpAddress | None = None
    port: Port | None = None
    url: Text2048 | None = None


class DRTPServiceStatus(Model, frozen=True):
    """Conditions: Accepted, Connected, Exposed, Ready. `localTarget` and `address` are for tables."""

    local_target: Annotated[Text1024 | None, Meta(description="The local service as host:port.")] = None
    address: Annotated[
        Text2048 | None, Meta(description="The first of addresses as people write it: a URL, or host:port.")
    ] = None
    addresses: Annotated[
        tuple[ServiceAddress, ...],
        Meta(max_length=ADDRESSES_MAX, description="Where visitors reach it, the best first."),
    ] = ()
    credentials_secret_ref: LocalRef | None = None
    connections: Annotated[Count | None, Meta(description="Agents registered.")] = None
    ready_connections: Annotated[Count | None, Meta(description="Agents that visitors can reach.")] = None
    observed_generation: Annotated[
        Int64 | None, Meta(description="The generation of the spec that this status speaks of.")
    ] = None
    conditions: Conditions = ()


class DRTPService(Model, frozen=True, kw_only=True):
    """A local application to be reached through tunnels."""

    api_version: str = API_VERSION
    kind: str = "DRTPService"
    metadata: ObjectMeta
    spec: Annotated[
        DRTPServiceSpec,
        Meta(
            extra_json_schema=rules(
                (
                    "self.protocol != 'UDP' || !has(self.expose) || has(self.edgeAllowlist)",
                    "an exposed UDP service needs an edgeAllowlist (0.0.0.0/0 if anyone is meant)",
                ),
                (
                    "self.protocol != 'UDP' || !has(self.proxyProtocol) || self.proxyProtocol != 'V1'",
                    "version 1 of the PROXY protocol has no UDP; use V2",
                ),
            )
        ),
    ]
    status: DRTPServiceStatus = DRTPServiceStatus()


class ConnectionClient(Model, frozen=True):
    """What the agent said when it registered, and where it was seen from. `agent_id` is its identity's uid."""

    agent_id: Text128 | None = msgspec.field(name="agentID", default=None)
    ip: Annotated[IpAddress | None, Meta(description="WAN address the control plane saw.")] = None
    hostname: Text253 | None = None
    version: Text63 | None = None
    location: Location | None = None


class AssignedServer(Model, frozen=True):
    """A tunnel server given to a connection, as nodeName is to a pod."""

    role: Role
    server_ref: LocalRef


class DRTPConnectionSpec(Model, frozen=True):
    """`servers` is written by placement unless set."""

    service_ref: Annotated[
        LocalRef,
        Meta(
            description="The service it serves; immutable.",
            extra_json_schema=rules(("self == oldSelf", "serviceRef is immutable")),
        ),
    ]
    client: Annotated[ConnectionClient, Meta(description="What the agent said when it registered.")] = (
        ConnectionClient()
    )
    servers: Annotated[
        tuple[AssignedServer, ...],
        Meta(
            max_length=4,
            description="Tunnel servers, written by placement unless set.",
            extra_json_schema=list_map("role")
            | rules(
                (
                    "size(self) == 0 || self.exists_one(s, s.role == 'Primary')",
                    "exactly one server must be Primary",
                ),
                (
                    "self.all(a, self.exists_one(b, b.serverRef.name == a.serverRef.name))",
                    "each server may be assigned once",
                ),
            ),
        ),
    ] = ()
    access_policy_ref: LocalRef | None = None


class ServerStatus(Model, frozen=True):
    """One assigned server's side. `pod_address`:`pod_port` is where a gateway reaches this connection on that POP.

    Where `endpoint_mode` is `unix`, gateways on the POP's own machine take `pod_path` instead.
    """

    role: Role
    server_ref: LocalRef
    programming_status: ProgrammingStatus
    client_status: ClientStatus
    pod_address: Annotated[IpAddress | None, Meta(description="Endpoint on the POP's pod network.")] = None
    pod_port: Port | None = None
    pod_path: Text1024 | None = None
    pod_introductions: Annotated[
        bool | None, Meta(description="The endpoint takes visitors whom a gateway introduces in its ClientHello.")
    ] = None
    endpoint_mode: EndpointMode | None = None
    round_trip_millis: Annotated[Count | None, Meta(description="Between agent and server, smoothed.")] = None
    round_trip_floor_millis: Annotated[Count | None, Meta(description="The shortest of late: without queues.")] = None
    jitter_millis: Annotated[Count | None, Meta(description="Mean deviation of round trips.")] = None
    loss_permille: Annotated[
        Permille | None, Meta(description="Pings that came late or never, in thousandths, decaying.")
    ] = None
    message: Text1024 | None = None


class LocalServiceStatus(Model, frozen=True):
    """The local service as the agent sees it."""

    state: LocalState = LocalState.UNKNOWN
    connect_millis: Annotated[Count | None, Meta(description="The last successful connect.")] = None
    jitter_millis: Annotated[Count | None, Meta(description="Mean deviation of connect times.")] = None
    failures: Annotated[Count | None, Meta(description="Failed connects since the agent's start.")] = None


class DRTPConnectionStatus(Model, frozen=True):
    """Conditions: Scheduled, Programmed, Connected, Ready.

    Figures are refreshed with a transition, else once a minute at most, and then only if one has moved noteworthily.
    """

    servers: Annotated[tuple[ServerStatus, ...], Meta(max_length=16)] = ()
    local: LocalServiceStatus | None = None
    measured_time: Annotated[datetime | None, Meta(description="When the figures were last refreshed.")] = None
    observed_generation: Annotated[
        Int64 | None, Meta(description="The generation of the spec that this status speaks of.")
    ] = None
    conditions: Conditions = ()


class DRTPConnection(Model, frozen=True, kw_only=True):
    """One agent's registration for one service, and the servers it is given."""

    api_version: str = API_VERSION
    kind: str = "DRTPConnection"
    metadata: ObjectMeta
    spec: DRTPConnectionSpec
    status: DRTPConnectionStatus = DRTPConnectionStatus()


class PolicyTarget(Model, frozen=True):
    """What a policy attaches to (GEP-713), in the policy's namespace."""

    group: Text253
    kind: Annotated[str, Meta(min_length=1, max_length=63)]
    name: DnsName
    section_name: Text253 | None = None


class AccessRule(Model, frozen=True):
    """One line of the list: every part that is given must hold, any value of a part will do. None given: everybody."""

    name: DnsLabel
    action: Action
    client_cidrs: Annotated[
        tuple[Cidr, ...],
        Meta(
            max_length=256,
            description="Networks it speaks of; empty matches every visitor.",
            extra_json_schema=LIST_SET,
        ),
    ] = msgspec.field(name="clientCIDRs", default=())
    countries: Annotated[
        tuple[Country, ...],
        Meta(
            max_length=256,
            description="Countries the client's address is in, as ISO 3166 alpha-2 codes.",
            extra_json_schema=LIST_SET,
        ),
    ] = ()
    organizations: Annotated[
        tuple[Organization, ...],
        Meta(max_length=64, description="Organisations the caller belongs to.", extra_json_schema=LIST_SET),
    ] = ()
    principals: Annotated[
        tuple[Principal, ...],
        Meta(
            max_length=64,
            description="Callers: user:<name>, app:<namespace>/<name>, or org:<name> for all of an organisation.",
            extra_json_schema=LIST_SET,
        ),
    ] = ()
    schedule: Annotated[Schedule | None, Meta(description="When it speaks; always where absent.")] = None
    through: Annotated[Through | None, Meta(description="Which POPs carry the bytes; any where absent.")] = None


class DRTPAccessPolicySpec(Model, frozen=True):
    """First match wins, then `defaultAction`. Empty `enforcementPoints` means both."""

    target_refs: Annotated[
        tuple[PolicyTarget, ...], Meta(max_length=16, description="What it attaches to, in its own namespace.")
    ] = ()
    enforcement_points: Annotated[
        tuple[EnforcementPoint, ...],
        Meta(max_length=2, description="Where it holds; both where empty.", extra_json_schema=LIST_SET),
    ] = ()
    mode: Annotated[
        PolicyMode, Meta(description="DryRun: what it would refuse is counted at the tunnel server, not refused.")
    ] = PolicyMode.ENFORCE
    rules: Annotated[
        tuple[AccessRule, ...],
        Meta(max_length=64, description="The list; first match wins.", extra_json_schema=list_map("name")),
    ] = ()
    default_action: Annotated[Action, Meta(description="What happens where no rule matches.")] = Action.DENY
    encryption: Annotated[
        Encryption,
        Meta(
            description="EndToEnd: no gateway and no tunnel server may read the bytes. Visitors pass only where their "
            "TLS is passed through to a TLS service; callers of `datumctl connect` are encrypted so anyway."
        ),
    ] = Encryption.PER_HOP
    limits: Annotated[
        PolicyLimits | None, Meta(description="Caps for each connection at each tunnel server; the lowest counts.")
    ] = None


class PolicyAncestor(Model, frozen=True):
    """How one target took the policy. Conditions: Accepted, Enforced."""

    ancestor_ref: PolicyTarget
    controller_name: Text253
    conditions: Conditions = ()


class DRTPAccessPolicyStatus(Model, frozen=True):
    """One entry for each target."""

    ancestors: Annotated[tuple[PolicyAncestor, ...], Meta(max_length=16)] = ()


class DRTPAccessPolicy(Model, frozen=True, kw_only=True):
    """An access list attached to services; attached lists can only narrow."""

    api_version: str = API_VERSION
    kind: str = "DRTPAccessPolicy"
    metadata: ObjectMeta
    spec: DRTPAccessPolicySpec
    status: DRTPAccessPolicyStatus = DRTPAccessPolicyStatus()
