"""Gateway API as DRTP reads it (gateway.networking.k8s.io, v1): typed read-models, status included.

The upstream CRDs define and validate these kinds; here are only the members that decisions use. Enumerations stay
strings, so that a value this version does not know is judged in one place (`rules`) and makes no object unreadable.
"""

from __future__ import annotations

from typing import Any

import msgspec

from drtp.api.meta import Condition, Model, ObjectMeta

GROUP = "gateway.networking.k8s.io"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"

GATEWAY_CLASS = f"GatewayClass.{GROUP}"
GATEWAY = f"Gateway.{GROUP}"
LISTENER_SET = f"ListenerSet.{GROUP}"
HTTP_ROUTE = f"HTTPRoute.{GROUP}"
TCP_ROUTE = f"TCPRoute.{GROUP}"
TLS_ROUTE = f"TLSRoute.{GROUP}"
UDP_ROUTE = f"UDPRoute.{GROUP}"
REFERENCE_GRANT = f"ReferenceGrant.{GROUP}"
BACKEND_TLS_POLICY = f"BackendTLSPolicy.{GROUP}"


class LabelExpression(Model, frozen=True):
    """metav1.LabelSelectorRequirement: In, NotIn, Exists, DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class LabelSelector(Model, frozen=True):
    """metav1.LabelSelector: everything must hold; empty selects all."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelExpression, ...] = ()


class FromNamespaces(Model, frozen=True):
    """Which namespaces: All, Same, Selector, None. The default differs by place, so None here means "not said"."""

    from_: str | None = msgspec.field(name="from", default=None)
    selector: LabelSelector | None = None


class RouteGroupKind(Model, frozen=True):
    """A kind of route."""

    kind: str
    group: str | None = GROUP


class AllowedRoutes(Model, frozen=True):
    """Who may attach to a listener; without `namespaces`, the listener's own namespace."""

    namespaces: FromNamespaces = FromNamespaces()
    kinds: tuple[RouteGroupKind, ...] = ()


class AllowedListeners(Model, frozen=True):
    """Who may add listeners to a Gateway by ListenerSet; without it, nobody."""

    namespaces: FromNamespaces = FromNamespaces()


class SecretRef(Model, frozen=True):
    """A certificate by reference: a core Secret in the listener's namespace, unless said otherwise."""

    name: str
    group: str | None = None
    kind: str | None = None
    namespace: str | None = None


class ListenerTls(Model, frozen=True):
    """Terminate (default) or Passthrough."""

    mode: str | None = None
    certificate_refs: tuple[SecretRef, ...] = ()
    options: dict[str, Any] = {}


class Listener(Model, frozen=True):
    """One listener of a Gateway or ListenerSet."""

    name: str
    port: int
    protocol: str
    hostname: str | None = None
    tls: ListenerTls | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewayAddress(Model, frozen=True):
    """IPAddress or Hostname."""

    value: str = ""
    type: str | None = None


class GatewayInfrastructure(Model, frozen=True):
    """Labels and annotations are for objects made for a Gateway, of which there are none here."""

    parameters_ref: Any = None


class GatewaySpec(Model, frozen=True):
    """Operator-owned listeners. Of `tls` (certificates asked of visitors) only the presence is read."""

    gateway_class_name: str
    listeners: tuple[Listener, ...] = ()
    addresses: tuple[GatewayAddress, ...] = ()
    allowed_listeners: AllowedListeners | None = None
    infrastructure: GatewayInfrastructure | None = None
    tls: dict[str, Any] = {}


class ListenerStatus(Model, frozen=True, omit_defaults=False):
    """Conditions: Accepted, Programmed, ResolvedRefs, Conflicted."""

    name: str
    attached_routes: int = 0
    supported_kinds: tuple[RouteGroupKind, ...] = ()
    conditions: tuple[Condition, ...] = ()


class GatewayStatus(Model, frozen=True):
    """Conditions: Accepted, Programmed."""

    addresses: tuple[GatewayAddress, ...] = ()
    attached_listener_sets: int | None = None
    listeners: tuple[ListenerStatus, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Gateway(Model, frozen=True, kw_only=True):
    """Where visitors arrive."""

    api_version: str = API_VERSION
    kind: str = "Gateway"
    metadata: ObjectMeta
    spec: GatewaySpec
    status: GatewayStatus = GatewayStatus()


class GatewayClassSpec(Model, frozen=True):
    """Which controller programs Gateways of this class."""

    controller_name: str
    parameters_ref: Any = None


class GatewayClassStatus(Model, frozen=True):
    """Conditions: Accepted."""

    conditions: tuple[Condition, ...] = ()


class GatewayClass(Model, frozen=True, kw_only=True):
    """A kind of Gateway; cluster-scoped."""

    api_version: str = API_VERSION
    kind: str = "GatewayClass"
    metadata: ObjectMeta
    spec: GatewayClassSpec
    status: GatewayClassStatus = GatewayClassStatus()


class ParentRef(Model, frozen=True):
    """What a route or ListenerSet attaches to: a Gateway unless `kind` says ListenerSet."""

    name: str
    group: str | None = None
    kind: str | None = None
    namespace: str | None = None
    section_name: str | None = None
    port: int | None = None


class ListenerSetSpec(Model, frozen=True):
    """Listeners added to a Gateway by its tenants."""

    parent_ref: ParentRef
    listeners: tuple[Listener, ...] = ()


class ListenerSetStatus(Model, frozen=True):
    """As GatewayStatus."""

    listeners: tuple[ListenerStatus, ...] = ()
    conditions: tuple[Condition, ...] = ()


class ListenerSet(Model, frozen=True, kw_only=True):
    """Listeners beyond those of the Gateway itself."""

    api_version: str = API_VERSION
    kind: str = "ListenerSet"
    metadata: ObjectMeta
    spec: ListenerSetSpec
    status: ListenerSetStatus = ListenerSetStatus()


class BackendRef(Model, frozen=True):
    """Where traffic goes: a core Service unless said otherwise. Of `filters` (HTTP) only the presence is read."""

    name: str
    group: str | None = None
    kind: str | None = None
    namespace: str | None = None
    port: int | None = None
    weight: int | None = None
    filters: tuple[Any, ...] = ()


class NamedValue(Model, frozen=True):
    """A header or parameter with its value; `type` Exact (default) or RegularExpression where it is a match."""

    name: str
    value: str
    type: str | None = None


class PathMatchSpec(Model, frozen=True):
    """Exact, PathPrefix (default) or RegularExpression."""

    type: str | None = None
    value: str | None = None


class HTTPRouteMatch(Model, frozen=True):
    """All parts must hold."""

    path: PathMatchSpec | None = None
    headers: tuple[NamedValue, ...] = ()
    query_params: tuple[NamedValue, ...] = ()
    method: str | None = None


class HeaderFilter(Model, frozen=True):
    """HTTPHeaderFilter."""

    set: tuple[NamedValue, ...] = ()
    add: tuple[NamedValue, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifier(Model, frozen=True):
    """ReplaceFullPath or ReplacePrefixMatch."""

    type: str
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class RedirectFilter(Model, frozen=True):
    """HTTPRequestRedirectFilter."""

    scheme: str | None = None
    hostname: str | None = None
    path: PathModifier | None = None
    port: int | None = None
    status_code: int | None = None


class RewriteFilter(Model, frozen=True):
    """HTTPURLRewriteFilter."""

    hostname: str | None = None
    path: PathModifier | None = None


class HTTPRouteFilter(Model, frozen=True):
    """One filter by `type`; types without a member here are not supported."""

    type: str
    request_header_modifier: HeaderFilter | None = None
    response_header_modifier: HeaderFilter | None = None
    request_redirect: RedirectFilter | None = None
    url_rewrite: RewriteFilter | None = msgspec.field(name="urlRewrite", default=None)


class HTTPRouteTimeouts(Model, frozen=True):
    """GEP-2257 durations."""

    request: str | None = None
    backend_request: str | None = None


class HTTPRouteRule(Model, frozen=True):
    """Any match selects it; no match at all is the prefix `/`."""

    matches: tuple[HTTPRouteMatch, ...] = ()
    filters: tuple[HTTPRouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: HTTPRouteTimeouts | None = None


class HTTPRouteSpec(Model, frozen=True):
    """Hosts and rules."""

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[HTTPRouteRule, ...] = ()


class RouteParentStatus(Model, frozen=True, omit_defaults=False):
    """How one parent took the route. Conditions: Accepted, ResolvedRefs."""

    parent_ref: ParentRef
    controller_name: str
    conditions: tuple[Condition, ...] = ()


class RouteStatus(Model, frozen=True):
    """One entry for each parent."""

    parents: tuple[RouteParentStatus, ...] = ()


class HTTPRoute(Model, frozen=True, kw_only=True):
    """HTTP by hostname, path, method, header."""

    api_version: str = API_VERSION
    kind: str = "HTTPRoute"
    metadata: ObjectMeta
    spec: HTTPRouteSpec = HTTPRouteSpec()
    status: RouteStatus = RouteStatus()


class StreamRouteRule(Model, frozen=True):
    """Where the bytes go."""

    backend_refs: tuple[BackendRef, ...] = ()


class StreamRouteSpec(Model, frozen=True):
    """TCPRoute, TLSRoute and UDPRoute share this shape; only TLSRoute has hostnames."""

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[StreamRouteRule, ...] = ()


class TCPRoute(Model, frozen=True, kw_only=True):
    """TCP by address and port."""

    api_version: str = API_VERSION
    kind: str = "TCPRoute"
    metadata: ObjectMeta
    spec: StreamRouteSpec = StreamRouteSpec()
    status: RouteStatus = RouteStatus()


class TLSRoute(Model, frozen=True, kw_only=True):
    """TLS passed through by server name."""

    api_version: str = API_VERSION
    kind: str = "TLSRoute"
    metadata: ObjectMeta
    spec: StreamRouteSpec = StreamRouteSpec()
    status: RouteStatus = RouteStatus()


class UDPRoute(Model, frozen=True, kw_only=True):
    """UDP by address and port."""

    api_version: str = API_VERSION
    kind: str = "UDPRoute"
    metadata: ObjectMeta
    spec: StreamRouteSpec = StreamRouteSpec()
    status: RouteStatus = RouteStatus()


class GRPCRoute(Model, frozen=True, kw_only=True):
    """gRPC by service and method: no listener here takes one, and it is told so. Matches and filters are not read."""

    api_version: str = API_VERSION
    kind: str = "GRPCRoute"
    metadata: ObjectMeta
    spec: StreamRouteSpec = StreamRouteSpec()
    status: RouteStatus = RouteStatus()


class BackendTargetRef(Model, frozen=True):
    """What a BackendTLSPolicy is about, in its own namespace."""

    group: str
    kind: str
    name: str
    section_name: str | None = None


class BackendTLSPolicySpec(Model, frozen=True):
    """How a gateway should trust a backend. Only whom it is about is read."""

    target_refs: tuple[BackendTargetRef, ...] = ()


class PolicyAncestorStatus(Model, frozen=True, omit_defaults=False):
    """How one ancestor took the policy. Conditions: Accepted."""

    ancestor_ref: ParentRef
    controller_name: str
    conditions: tuple[Condition, ...] = ()


class PolicyStatus(Model, frozen=True, omit_defaults=False):
    """One entry for each ancestor."""

    ancestors: tuple[PolicyAncestorStatus, ...] = ()


class BackendTLSPolicy(Model, frozen=True, kw_only=True):
    """TLS from a gateway to a backend: carried out nowhere here, and told so."""

    api_version: str = API_VERSION
    kind: str = "BackendTLSPolicy"
    metadata: ObjectMeta
    spec: BackendTLSPolicySpec = BackendTLSPolicySpec()
    status: PolicyStatus = PolicyStatus()


Route = HTTPRoute | GRPCRoute | TCPRoute | TLSRoute | UDPRoute


class GrantFrom(Model, frozen=True):
    """Who may refer."""

    group: str
    kind: str
    namespace: str


class GrantTo(Model, frozen=True):
    """To what; without a name, to all of the kind."""

    kind: str
    group: str = ""
    name: str | None = None


class ReferenceGrantSpec(Model, frozen=True):
    """References from other namespaces that the owner of this one permits."""

    from_: tuple[GrantFrom, ...] = msgspec.field(name="from", default=())
    to: tuple[GrantTo, ...] = ()


class ReferenceGrant(Model, frozen=True, kw_only=True):
    """Trust for references into its own namespace."""

    api_version: str = API_VERSION
    kind: str = "ReferenceGrant"
    metadata: ObjectMeta
    spec: ReferenceGrantSpec = ReferenceGrantSpec()
