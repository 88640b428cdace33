"""What objects refer to, as index values: declared on a View by whoever looks things up that way.

One spelling for controllers and projections, so that both find the same things.
"""

from __future__ import annotations

from collections.abc import Iterator

from drtp.api.drtp import GROUP as DRTP_GROUP
from drtp.api.drtp import DRTPAccessPolicy, DRTPConnection
from drtp.api.gatewayapi import GROUP as GATEWAY_GROUP
from drtp.api.gatewayapi import BackendRef, Gateway, Listener, ListenerSet, ParentRef, Route
from drtp.api.internal import Claim, ClaimKind, EdgeIdentity, EnrolmentSecret
from drtp.rules import hostnames

Name = tuple[str, str]
"""(namespace, name)."""

Parent = tuple[str, str, str]
"""(kind, namespace, name) of a Gateway or ListenerSet."""


def connection_service(connection: DRTPConnection) -> Iterator[Name]:
    """The service a connection is for."""
    yield (connection.metadata.namespace, connection.spec.service_ref.name)


def connection_servers(connection: DRTPConnection) -> Iterator[str]:
    """Names of the servers a connection is assigned to."""
    yield from (server.server_ref.name for server in connection.spec.servers)


def connection_agent(connection: DRTPConnection) -> Iterator[str]:
    """The uid of the agent that registered a connection."""
    if connection.spec.client.agent_id:
        yield connection.spec.client.agent_id


def policy_services(policy: DRTPAccessPolicy) -> Iterator[Name]:
    """The services a policy targets."""
    for target in policy.spec.target_refs:
        if target.group == DRTP_GROUP and target.kind == "DRTPService":
            yield (policy.metadata.namespace, target.name)


def policy_targets(policy: DRTPAccessPolicy) -> Iterator[Parent]:
    """The objects of Gateway API that a policy targets, as (kind, namespace, name)."""
    for target in policy.spec.target_refs:
        if target.group == GATEWAY_GROUP:
            yield (target.kind, policy.metadata.namespace, target.name)


def parent_key(ref: ParentRef, namespace: str) -> Parent | None:
    """What a parentRef in `namespace` means; None where it is no Gateway and no ListenerSet."""
    kind = ref.kind or "Gateway"
    if (ref.group if ref.group is not None else GATEWAY_GROUP) != GATEWAY_GROUP or kind not in {
        "Gateway",
        "ListenerSet",
    }:
        return None
    return (kind, ref.namespace or namespace, ref.name)


def route_parents(route: Route) -> Iterator[Parent]:
    """What a route wants to attach to."""
    for ref in route.spec.parent_refs:
        parent = parent_key(ref, route.metadata.namespace)
        if parent is not None:
            yield parent


def backend_refs(route: Route) -> Iterator[BackendRef]:
    """Every backendRef of a route."""
    for rule in route.spec.rules:
        yield from rule.backend_refs


def route_backends(route: Route) -> Iterator[Name]:
    """The DRTPServices a route refers to."""
    for ref in backend_refs(route):
        if ref.group == DRTP_GROUP and ref.kind == "DRTPService":
            yield (ref.namespace or route.metadata.namespace, ref.name)


def route_hostnames(route: Route) -> Iterator[str]:
    """Hostnames that a claim may be needed for; `*` where the listener has a say in what they are."""
    yield from route.spec.hostnames
    if not route.spec.hostnames or any(hostnames.is_wildcard(name) for name in route.spec.hostnames):
        yield hostnames.ANY


def listener_set_claims(listener_set: ListenerSet) -> Iterator[str]:
    """Values of the claims that the listeners of a set may stand on."""
    for listener in listener_set.spec.listeners:
        yield f"shared:{listener.port}"
        if listener.hostname:
            yield listener.hostname


def listener_set_gateway(listener_set: ListenerSet) -> Iterator[Name]:
    """The Gateway a ListenerSet adds to."""
    ref = listener_set.spec.parent_ref
    yield (ref.namespace or listener_set.metadata.namespace, ref.name)


def listener_set_ports(listener_set: ListenerSet) -> Iterator[tuple[str, str, int]]:
    """(Gateway namespace, Gateway name, port) of each listener."""
    for namespace, name in listener_set_gateway(listener_set):
        for listener in listener_set.spec.listeners:
            yield (namespace, name, listener.port)


def gateway_class(gateway: Gateway) -> Iterator[str]:
    """The class of a Gateway."""
    yield gateway.spec.gateway_class_name


def listener_secrets(owner: Gateway | ListenerSet) -> Iterator[Name]:
    """Secrets that listeners take certificates from."""
    for listener in owner.spec.listeners:
        for ref in certificate_refs(listener):
            yield (ref[0] or owner.metadata.namespace, ref[1])


def certificate_refs(listener: Listener) -> Iterator[Name]:
    """(namespace or "", name) of each core Secret in a listener's certificateRefs."""
    if listener.tls is not None:
        for ref in listener.tls.certificate_refs:
            if not ref.group and (ref.kind or "Secret") == "Secret":
                yield (ref.namespace or "", ref.name)


def identity_role(identity: EdgeIdentity) -> Iterator[str]:
    """An edge's role."""
    yield identity.spec.role.value


def identity_denied(identity: EdgeIdentity) -> Iterator[bool]:
    """True for identities on the deny-list."""
    if identity.spec.denied:
        yield True


def identity_former(identity: EdgeIdentity) -> Iterator[bool]:
    """True for identities that have left keys behind."""
    if identity.spec.former_keys:
        yield True


def secret_service(secret: EnrolmentSecret) -> Iterator[str]:
    """The uid of the object that a secret enrols edges for."""
    if secret.spec.bound.uid:
        yield secret.spec.bound.uid


def claim_owner(claim: Claim) -> Iterator[str]:
    """The uid of the object a claim belongs to."""
    if claim.spec.owner_uid:
        yield claim.spec.owner_uid


def claim_above(claim: Claim) -> Iterator[str]:
    """Every wildcard that covers a claimed hostname, so that a wildcard finds who is under it."""
    if claim.spec.kind is ClaimKind.HOSTNAME:
        yield from hostnames.parents(claim.spec.value)
