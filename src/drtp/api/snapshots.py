"""Desired state on its way down: what one edge is told, as keyed entries under one generation.

RouteTable for a POP, TunnelPlan for an agent, ConnectPlan for a connector, GatewayTable for a gateway. Each is a set of
entries by key; meaning is always the whole set. An entry names the objects it was computed from, so that a report of
"applied" can be held against exactly those. The native core reads `RouteEntry`, `TrustEntry`, `DenyEntry`, `PlanServer`
and `PlanService` from this very JSON; `tests/vectors` holds examples that both languages read.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

import msgspec

from drtp.api.drtp import Action, AppProtocol, EndpointMode, LocalService, Protocol, ProxyProtocol, Role, ServiceAddress
from drtp.api.meta import Model


class Generation(msgspec.Struct, frozen=True, order=True, array_like=True):
    """(incarnation, sequence), ordered. Incarnation: max(stored + 1, unix ms) at each start of the control plane."""

    incarnation: int
    sequence: int


class Source(msgspec.Struct, frozen=True, array_like=True):
    """One object an entry was computed from."""

    uid: str
    generation: int


class AccessListRule(Model, frozen=True, forbid_unknown_fields=True):
    """One rule by address alone. Empty `cidrs` matches every visitor."""

    action: Action
    cidrs: tuple[str, ...] = ()


class AccessSchedule(Model, frozen=True, forbid_unknown_fields=True):
    """When a clause speaks. Moments are Unix seconds; `not_after` is the first that is too late.

    `windows`: minutes of the local week from Monday 0:00, begin and end, the end outside; empty: always. `offsets`:
    (since when, seconds east of UTC), in order: what the zone's clocks show. Before the first and from `offsets_end`
    on nobody knows, so an edge needs no database of time zones.
    """

    not_before: int | None = None
    not_after: int | None = None
    windows: tuple[tuple[int, int], ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()
    offsets_end: int = 0


class AccessThrough(Model, frozen=True, forbid_unknown_fields=True):
    """Which POPs carry the bytes: every part that is given must hold."""

    pops: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()


class AccessClause(Model, frozen=True, forbid_unknown_fields=True):
    """One rule by everything that is known of who asks: every part that is given must hold, any value of it will do."""

    action: Action
    cidrs: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    organizations: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    schedule: AccessSchedule | None = None
    through: AccessThrough | None = None


class AccessList(Model, frozen=True, forbid_unknown_fields=True):
    """First match wins, then `default`: of `rules`; or, where there are `clauses`, of those, then `otherwise`.

    An edge that knows no clauses sees a list without rules, whose default denies. One that meets a member it does not
    know cannot read the list, and denies (decision 0048). `dry_run`: what it refuses is counted, not refused.
    """

    default: Action = Action.DENY
    rules: tuple[AccessListRule, ...] = ()
    clauses: tuple[AccessClause, ...] = ()
    otherwise: Action = Action.DENY
    dry_run: bool = False


class Access(Model, frozen=True, forbid_unknown_fields=True):
    """Who may pass: every list must allow. No list at all denies."""

    lists: tuple[AccessList, ...] = ()


class PopPlace(Model, frozen=True):
    """Where a POP is: its name, and region and country where it says so."""

    pop: str
    region: str | None = None
    country: str | None = None


class Membership(Model, frozen=True, forbid_unknown_fields=True):
    """Who is of an organisation that a rule names: users by name, and groups, as roles are bound to them."""

    organization: str
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class Limits(Model, frozen=True):
    """Caps on one connection at one POP. 0: the POP's own default."""

    streams_max: int = 0
    streams_half_open_max: int = 0
    new_streams_per_s: int = 0
    bytes_per_s: int = 0
    """Of all its visitors together, both ways."""


class Share(Model, frozen=True):
    """What all connections with a share of this name have together at one POP. 0: no limit."""

    name: str
    bytes_per_s: int = 0
    streams_max: int = 0
    new_streams_per_s: int = 0


# ---- RouteTable: for one POP ---------------------------------------------------------------------------------------


class Caller(Model, frozen=True, forbid_unknown_fields=True):
    """A connector that may open sealed streams to a service, and whose it is. `kind`: `user` or `app`.

    `identity` is the connector's uid, as its certificate has it; `uid` and `name` are the user's or application's.
    `organizations` are said where a rule asks for them. From `until` on it may not, whoever is there to say so. An edge
    that does not know a field of it denies.
    """

    identity: str
    kind: str
    uid: str = ""
    name: str = ""
    organizations: tuple[str, ...] = ()
    until: datetime | None = None


class RouteEntry(Model, frozen=True, tag="route", tag_field="type"):
    """Key `route/<connection uid>`. One connection's endpoint on this POP. The POP chooses the port itself."""

    connection: str
    service: str
    namespace: str
    name: str
    agents: tuple[str, ...]
    access: Access
    protocol: Protocol = Protocol.TCP
    mode: EndpointMode = EndpointMode.MTLS
    plain_from: tuple[str, ...] = ()
    enabled: bool = True
    leaving: bool = False
    """The connection moves to other POPs; this one says how many visitors it still has."""
    limits: Limits = Limits()
    shares: tuple[Share, ...] = ()
    """What it shares with other connections: its project's limits, and its organisation's."""
    callers: tuple[Caller, ...] = ()
    """Whom roles and policies let in whatever else an edge may know of them."""
    conditional: tuple[Caller, ...] = ()
    """Whom policies may let in: only an edge knows the address, the hour and the carrier. Apart from the others, so
    that an edge that does not know of `caller_access` lets none of them in."""
    caller_access: Access | None = None
    """What policies say of callers, both kinds; None where none does."""
    place: PopPlace | None = None
    """Where this POP is, for rules that name carriers."""
    memberships: tuple[Membership, ...] = ()
    """Of the organisations that `access` names, for visitors who have signed in at a gateway."""
    sources: tuple[Source, ...] = ()


class TrustEntry(Model, frozen=True, tag="trust", tag_field="type"):
    """Key `trust`. Gateways (uids) that may use this POP's `mtls` endpoints."""

    gateways: tuple[str, ...] = ()


class DenyEntry(Model, frozen=True, tag="deny", tag_field="type"):
    """Key `deny`. Identity uid -> -1: none of its certificates is accepted, live sessions end. To an agent: POPs alone.

    `keys`: SHA-256 (hex) of public keys that an edge left behind when it enrolled anew. Its uid is in good standing,
    certificates of those keys are not accepted.
    `people`: names of users who are shut out, whatever they signed in with; POPs and gateways know visitors by name.
    `since`, to gateways: names of users who were let in again, and when (Unix seconds). What proves them and was made
    before proves nobody.

    0 and more would be the lowest generation still accepted. A certificate does not carry its generation, so a POP
    cannot hold it: it takes the entry with a warning, and the authority, which knows the newest, locks a clone.
    """

    minimum_generation: dict[str, int] = {}
    keys: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    since: dict[str, int] = {}


# ---- TunnelPlan: for one agent -------------------------------------------------------------------------------------


class PlanServer(Model, frozen=True, tag="server", tag_field="type"):
    """Key `server/<server uid>`. A tunnel server to keep a session with; `name` is what its certificate must carry."""

    server: str
    name: str
    pop: str
    address: str
    port: int
    role: Role
    sources: tuple[Source, ...] = ()


class PlanService(Model, frozen=True, tag="service", tag_field="type"):
    """Key `service/<connection uid>`. A service to answer for, and what is known of it, for the agent to show."""

    connection: str
    connection_name: str
    service: str
    namespace: str
    name: str
    protocol: Protocol
    local: LocalService
    proxy_protocol: ProxyProtocol = ProxyProtocol.NONE
    enabled: bool = True
    servers: tuple[str, ...] = ()
    addresses: tuple[ServiceAddress, ...] = ()
    ready: bool = False
    reason: str = ""
    message: str = ""
    callers: tuple[Caller, ...] = ()
    conditional: tuple[Caller, ...] = ()
    caller_access: Access | None = None
    """As a POP's. An agent knows who calls and the hour: it refuses whom nothing else could let in."""
    sealed_only: bool = False
    """Nobody may visit in clear, by no gateway: whatever a POP brings so, the agent refuses."""
    sources: tuple[Source, ...] = ()


class MeasureTarget(Model, frozen=True, tag="measure", tag_field="type"):
    """Key `measure/<server uid>`, for agents and POPs. A tunnel server whose round trip this edge measures.

    An agent's are the servers it may be given; a POP's are others near it. `name` is the DRTPServer's.
    """

    server: str
    name: str
    address: str
    port: int
    sources: tuple[Source, ...] = ()


# ---- ConnectPlan: for one connector --------------------------------------------------------------------------------


class ConnectWay(Model, frozen=True):
    """One connection of a service: the agent that is to be found at the other end, and the POPs it is on, by uid.

    `away`: of these, where the agent has no session now, as far as POPs have said. The ways stand: it may be back
    before that is known here.
    """

    connection: str
    agent: str
    servers: tuple[str, ...] = ()
    away: tuple[str, ...] = ()


class PlanConnect(Model, frozen=True, tag="connect", tag_field="type"):
    """Key `connect/<namespace>/<name>`. A service that a connector asked for; beside it its POPs, as `PlanServer`.

    `reason`, unless empty, is why nothing can flow. `NotAllowed` says nothing about whether there is such a service.
    """

    namespace: str
    name: str
    service: str = ""
    protocol: Protocol = Protocol.TCP
    ways: tuple[ConnectWay, ...] = ()
    reason: str = ""
    sources: tuple[Source, ...] = ()


# ---- GatewayTable: for one gateway ---------------------------------------------------------------------------------


class SignInEntry(Model, frozen=True, tag="signin", tag_field="type"):
    """Key `sign-in`. Where visitors say who they are, and what proves it: tokens of `issuer`, by `keys`, a JWK set."""

    issuer: str
    url: str
    keys: str
    sources: tuple[Source, ...] = ()


class ListenerProtocol(Enum):
    """What a public listener terminates."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    TLS_PASSTHROUGH = "TLS"
    TCP = "TCP"
    UDP = "UDP"


class GatewayListener(Model, frozen=True, tag="listener", tag_field="type"):
    """Key `listener/<address>/<port>`, and `/udp` behind it for UDP. One bound socket; a TCP one has a `TcpExposure` of
    that address and port, a UDP one a `UdpExposure`, and Envoy has no part in it.
    """

    address: str
    port: int
    protocol: ListenerProtocol
    certificates: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()


class ServingCertificate(Model, frozen=True, tag="certificate", tag_field="type"):
    """Key `certificate/<id>`. Chain and key in PEM; the key is a secret. `names` may hold one-level wildcards."""

    names: tuple[str, ...]
    chain_pem: str
    key_pem: str
    sources: tuple[Source, ...] = ()


class PopEndpoint(Model, frozen=True):
    """One connection on one POP. Lower priority is used first.

    `unix`: gateways that share its machine take `path`; for all others it is an `mtls` one. `introductions`: visitors
    may be introduced in the ClientHello, at `<service uid>.<server_name>`.
    """

    connection: str
    server: str
    server_name: str
    mode: EndpointMode
    address: str = ""
    port: int = 0
    path: str = ""
    priority: int = 0
    introductions: bool = False


class Backend(Model, frozen=True, tag="backend", tag_field="type"):
    """Key `backend/<service uid>`. A service as a gateway reaches it. `tls`: the visitor's bytes are TLS already."""

    service: str
    namespace: str
    name: str
    protocol: Protocol
    app_protocol: AppProtocol = AppProtocol.HTTP1
    host_header: str | None = None
    endpoints: tuple[PopEndpoint, ...] = ()
    sources: tuple[Source, ...] = ()


class WeightedBackend(Model, frozen=True):
    """A share of the traffic for one `Backend`, by service uid; "" is a reference that does not resolve: 500."""

    service: str
    weight: int = 1


class PathMatch(Enum):
    """Gateway API HTTPPathMatch types."""

    EXACT = "Exact"
    PREFIX = "PathPrefix"
    REGEX = "RegularExpression"


class ValueMatch(Model, frozen=True):
    """A header or query parameter: exact value, or a regular expression."""

    name: str
    value: str
    regex: bool = False


class HttpMatch(Model, frozen=True):
    """All parts must hold."""

    path_type: PathMatch = PathMatch.PREFIX
    path: str = "/"
    method: str | None = None
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()


class HeaderChange(Model, frozen=True):
    """Gateway API HTTPHeaderFilter."""

    set: dict[str, str] = {}
    add: dict[str, str] = {}
    remove: tuple[str, ...] = ()


class Redirect(Model, frozen=True):
    """Gateway API HTTPRequestRedirectFilter; paths as in `Rewrite`."""

    scheme: str | None = None
    hostname: str | None = None
    port: int | None = None
    status: int = 302
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class Rewrite(Model, frozen=True):
    """Gateway API HTTPURLRewriteFilter."""

    hostname: str | None = None
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class HttpRule(Model, frozen=True):
    """Any match selects it; rules come sorted in Gateway API precedence. `access` holds before anything is sent on."""

    matches: tuple[HttpMatch, ...]
    access: Access
    backends: tuple[WeightedBackend, ...] = ()
    request_headers: HeaderChange | None = None
    response_headers: HeaderChange | None = None
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    request_timeout_s: float | None = None


class HttpHost(Model, frozen=True, tag="http", tag_field="type"):
    """Key `http/<address>/<port>/<hostname>`. A virtual host; `hostname` may be `*.suffix`, or `*`.

    `memberships`: of the organisations that its rules' access names. `asks_who`: some rule, whatever the hour, names
    organisations or people, so visitors with a certificate are asked for it.
    """

    address: str
    port: int
    hostname: str
    rules: tuple[HttpRule, ...]
    memberships: tuple[Membership, ...] = ()
    asks_who: bool = False
    sources: tuple[Source, ...] = ()


class TcpExposure(Model, frozen=True, tag="tcp", tag_field="type"):
    """Key `tcp/<address>/<port>`. A vended port, or a port on a dedicated address.

    `enabled` False: every service behind it is disabled, and nothing listens there until one is enabled again.
    """

    address: str
    port: int
    access: Access
    backends: tuple[WeightedBackend, ...]
    enabled: bool = True
    sources: tuple[Source, ...] = ()


class UdpExposure(Model, frozen=True, tag="udp", tag_field="type"):
    """Key `udp/<address>/<port>`. A UDP port that the gateway host itself receives datagrams on; otherwise as TCP's."""

    address: str
    port: int
    access: Access
    backends: tuple[WeightedBackend, ...]
    enabled: bool = True
    sources: tuple[Source, ...] = ()


class SniExposure(Model, frozen=True, tag="sni", tag_field="type"):
    """Key `sni/<address>/<port>/<hostname>`. TLS passed through by server name."""

    address: str
    port: int
    hostname: str
    access: Access
    backends: tuple[WeightedBackend, ...]
    sources: tuple[Source, ...] = ()


class ProbeTarget(Model, frozen=True, tag="pop", tag_field="type"):
    """Key `pop/<server uid>`. A POP that the gateway host probes by itself over HTTPS with mutual TLS.

    `tunnel_port`: where it takes lanes, which carry UDP; 0: nowhere. `sockets`: where its endpoints' Unix sockets are,
    and the mark by which a gateway on its machine knows that directory.
    """

    server: str
    name: str
    address: str
    health_port: int
    tunnel_port: int = 0
    sockets: str = ""
    sockets_mark: str = ""
    sources: tuple[Source, ...] = ()


Entry = (
    RouteEntry
    | TrustEntry
    | DenyEntry
    | PlanServer
    | PlanService
    | MeasureTarget
    | PlanConnect
    | GatewayListener
    | ServingCertificate
    | Backend
    | HttpHost
    | TcpExposure
    | UdpExposure
    | SniExposure
    | SignInEntry
    | ProbeTarget
)
Entries = dict[str, Entry]
"""A snapshot's meaning: every entry by its key."""


class Snapshot(Model, frozen=True):
    """One whole state and its place in time; what an edge persists and applies."""

    generation: Generation
    entries: dict[str, Entry]
