"""What `spec.expose` of a service stands for: claims, a route, and for TCP, UDP and TLS a ListenerSet. Pure.

As a Deployment becomes a ReplicaSet: whoever wants more writes the objects by hand, and finds here how they look.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from drtp.api import gatewayapi, internal
from drtp.api.drtp import API_VERSION, DRTPService, Protocol
from drtp.api.gatewayapi import Gateway
from drtp.api.internal import Claim, ClaimKind
from drtp.api.reasons import Aspect, Reason
from drtp.controllers import surroundings, writing
from drtp.controllers.runtime import Create, Update, World, Write
from drtp.rules import attachment, hostnames, vending
from drtp.rules.conditions import Conclusion, no
from drtp.rules.vending import Standing, Tenant
from drtp.store.protocol import Object
from drtp.store.view import kind_key

Owner = DRTPService | gatewayapi.Route | gatewayapi.ListenerSet
"""Who may hold a claim."""

DEFAULT_GATEWAY = (surroundings.SYSTEM_NAMESPACE, "global")


class Wanted(NamedTuple):
    """Claims that the service needs (what, by which value), and objects it owns; or why it cannot have them."""

    claims: tuple[tuple[ClaimKind, str], ...] = ()
    objects: tuple[Object, ...] = ()
    refusal: Conclusion | None = None


def object_name(service: DRTPService) -> str:
    """What the objects made for a service are called; its own name stays free for hand-written ones."""
    return f"{service.metadata.name}.public"


def gateway_name(service: DRTPService) -> tuple[str, str]:
    """(namespace, name) of the Gateway a service is exposed on."""
    ref = service.spec.expose.gateway_ref if service.spec.expose else None
    return (ref.namespace or service.metadata.namespace, ref.name) if ref else DEFAULT_GATEWAY


def wanted(service: DRTPService, world: World, suffix: str, now: datetime) -> Wanted:
    """What should exist for a service now. Nothing where it is not exposed."""
    spec = service.spec
    if spec.expose is None or service.metadata.deletion_timestamp is not None:
        return Wanted()
    gateway = surroundings.ours(world, *gateway_name(service))
    if gateway is None:
        where = "/".join(gateway_name(service))
        return Wanted(
            refusal=no(Aspect.ACCEPTED, Reason.NO_SUCH_GATEWAY, f"There is no Gateway {where} of DRTP's (DRTP-6012).")
        )
    if spec.protocol in {Protocol.TCP, Protocol.UDP}:
        return _by_port(service, gateway, world, now)
    return _named(service, gateway, world, suffix, now)


# ---- by name: HTTP, HTTPS, TLS --------------------------------------------------------------------------------------


def _named(service: DRTPService, gateway: Gateway, world: World, suffix: str, now: datetime) -> Wanted:
    host = _hostname(service, world, suffix, now)
    if isinstance(host, Conclusion):
        return Wanted(refusal=host)
    named = [one for one in gateway.spec.listeners if one.protocol in {"HTTP", "HTTPS", "TLS"}]
    if not any(hostnames.covers(one.hostname or hostnames.ANY, host) for one in named):
        there = ", ".join(sorted({one.hostname for one in named if one.hostname})) or "none"
        why = f"No listener of Gateway {gateway.metadata.name} has {host}; hostnames there: {there} (DRTP-6018)."
        return Wanted(refusal=no(Aspect.ACCEPTED, Reason.NO_MATCHING_LISTENER_HOSTNAME, why))
    claims = ((ClaimKind.HOSTNAME, host),)
    if service.spec.protocol is not Protocol.TLS:
        return Wanted(claims, (_route(service, "HTTPRoute", _gateway_ref(gateway), host),))
    port = next((one.port for one in gateway.spec.listeners if one.protocol in {"TLS", "HTTPS"}), None)
    if port is None:
        why = f"Gateway {gateway.metadata.name} has no TLS port (DRTP-6012)."
        return Wanted(claims, refusal=no(Aspect.ACCEPTED, Reason.NO_MATCHING_LISTENER, why))
    listener = {"name": "public", "protocol": "TLS", "port": port, "hostname": host, "tls": {"mode": "Passthrough"}}
    return Wanted(
        claims,
        (
            _listener_set(service, gateway, listener, None),
            _route(service, "TLSRoute", _listener_set_ref(service), host),
        ),
    )


def _hostname(service: DRTPService, world: World, suffix: str, now: datetime) -> str | Conclusion:
    """The name asked for, else the one held, else a new one."""
    asked = service.spec.expose.hostname if service.spec.expose else None
    if asked:
        host = asked.lower().rstrip(".")
        host = host if "." in host else f"{host}.{suffix}"
        if not hostnames.valid(host) or vending.reserved(host, suffix):
            return no(Aspect.ACCEPTED, Reason.HOSTNAME_RESERVED, f"{host} is not a name that can be had (DRTP-6006).")
        if not available(ClaimKind.HOSTNAME, host, service, world, now):
            owner = holder(ClaimKind.HOSTNAME, host, service.metadata.namespace, world)
            return no(Aspect.ACCEPTED, Reason.HOSTNAME_CLAIMED, f"{host} belongs to {owner} (DRTP-6006).")
        return host
    held = [one for one in held_claims(service, world) if one.spec.kind is ClaimKind.HOSTNAME]
    if held:
        return held[0].spec.value
    for label in vending.labels(service.metadata.uid):
        host = f"{label}.{suffix}"
        if available(ClaimKind.HOSTNAME, host, service, world, now):
            return host
    return no(Aspect.ACCEPTED, Reason.POOL_EXHAUSTED, "No free name was found (DRTP-6013).")


# ---- by port: TCP, UDP ----------------------------------------------------------------------------------------------


def _by_port(service: DRTPService, gateway: Gateway, world: World, now: datetime) -> Wanted:
    expose = service.spec.expose
    # One address has one spelling, or two tenants could claim it.
    address = str(ipaddress.ip_address(expose.address)) if expose and expose.address else None
    shared = surroundings.shared_addresses(world)
    if address and address not in shared:
        return _dedicated(service, gateway, address, world, now)
    port = _port(service, gateway, world, now)
    if isinstance(port, Conclusion):
        return Wanted(refusal=port)
    claims = ((ClaimKind.PORT, attachment.port_value(port)),)
    return Wanted(claims, _port_objects(service, gateway, port, None))


def _dedicated(service: DRTPService, gateway: Gateway, address: str, world: World, now: datetime) -> Wanted:
    """A whole address: any port on it, the local one unless another is asked for."""
    pool = gateway.metadata.annotations.get(attachment.DEDICATED_ADDRESSES, "")
    if not vending.in_pool_addresses(pool, address):
        why = f"{address} is not in the pool of Gateway {gateway.metadata.name} (DRTP-6013)."
        return Wanted(refusal=no(Aspect.ACCEPTED, Reason.ADDRESS_UNAVAILABLE, why))
    if not available(ClaimKind.ADDRESS, address, service, world, now):
        owner = holder(ClaimKind.ADDRESS, address, service.metadata.namespace, world)
        return Wanted(refusal=no(Aspect.ACCEPTED, Reason.ADDRESS_CLAIMED, f"{address} belongs to {owner} (DRTP-6006)."))
    port = (service.spec.expose.port if service.spec.expose else None) or service.spec.local.port
    return Wanted(((ClaimKind.ADDRESS, address),), _port_objects(service, gateway, port, address))


def _port_objects(service: DRTPService, gateway: Gateway, port: int, address: str | None) -> tuple[Object, ...]:
    protocol = service.spec.protocol.value
    listener = {"name": "public", "protocol": protocol, "port": port}
    return (
        _listener_set(service, gateway, listener, address),
        _route(service, f"{protocol}Route", _listener_set_ref(service), None),
    )


def _port(service: DRTPService, gateway: Gateway, world: World, now: datetime) -> int | Conclusion:
    """The port asked for, else the one held, else one of the pool; none that the Gateway itself listens on."""
    asked = service.spec.expose.port if service.spec.expose else None
    own = {one.port for one in gateway.spec.listeners}
    if asked:
        if not vending.in_pool(asked) or asked in own:
            reach = f"{vending.PORT_MIN}-{vending.PORT_MAX}"
            return no(
                Aspect.ACCEPTED, Reason.PORT_UNAVAILABLE, f"Ports on a shared address come from {reach} (DRTP-6006)."
            )
        if not available(ClaimKind.PORT, attachment.port_value(asked), service, world, now):
            owner = holder(ClaimKind.PORT, attachment.port_value(asked), service.metadata.namespace, world)
            return no(Aspect.ACCEPTED, Reason.PORT_CLAIMED, f"Port {asked} belongs to {owner} (DRTP-6006).")
        return asked
    held = [one for one in held_claims(service, world) if one.spec.kind is ClaimKind.PORT]
    if held and (port := int(held[0].spec.value.rpartition(":")[2])) not in own:
        return port
    for port in vending.ports(service.metadata.uid):
        if port not in own and available(ClaimKind.PORT, attachment.port_value(port), service, world, now):
            return port
    return no(Aspect.ACCEPTED, Reason.POOL_EXHAUSTED, "No free port was found (DRTP-6013).")


# ---- claims ---------------------------------------------------------------------------------------------------------


def held_claims(service: DRTPService, world: World) -> list[Claim]:
    """What a service holds, by name."""
    found = world.view.indexed(Claim, "owner", service.metadata.uid)
    return sorted((one for one in found if one.spec.released_at is None), key=lambda one: one.metadata.name)


def available(kind: ClaimKind, value: str, owner: Owner, world: World, now: datetime) -> bool:
    """Whether `owner` holds, or may take, a hostname, a port or an address."""
    tenant = surroundings.tenant_of(world, owner.metadata.namespace)
    claim = surroundings.claim_of(world)(kind, value)
    standing = vending.standing(claim, tenant, owner.metadata.uid, now)
    if standing in {Standing.TAKEN, Standing.OURS}:
        return standing is Standing.OURS
    return kind is not ClaimKind.HOSTNAME or not foreign_relatives(value, tenant, world)


def foreign_relatives(host: str, tenant: Tenant, world: World) -> bool:
    """Whether another tenant holds a name or wildcard that `host` is under, or one under `host`.

    Whoever has a name has what is under it: a page there could set cookies for it.
    """
    claim_of = surroundings.claim_of(world)
    bare = host.removeprefix("*.")
    labels = bare.split(".")
    names = [".".join(labels[index:]) for index in range(0 if bare != host else 1, len(labels))]
    above = [claim_of(ClaimKind.HOSTNAME, parent) for parent in (*hostnames.parents(host), *names)]
    below = world.view.indexed(Claim, "above", f"*.{bare}")
    return any(one is not None and not vending.belongs(one, tenant) for one in (*above, *below))


def holder(kind: ClaimKind, value: str, namespace: str, world: World) -> str:
    """Who has a thing, as `namespace` may know it: its own objects by name, others' not at all."""
    claim = surroundings.claim_of(world)(kind, value)
    if claim is None or not vending.belongs(claim, surroundings.tenant_of(world, namespace)):
        return "somebody else"
    return claim.spec.owner


def claim_write(kind: ClaimKind, value: str, owner: Owner, world: World, now: datetime) -> tuple[Write, ...]:
    """The write that makes `owner` hold a thing that is `available` to it; none where it does already."""
    tenant = surroundings.tenant_of(world, owner.metadata.namespace)
    claim = surroundings.claim_of(world)(kind, value)
    spec = {
        "kind": kind.value,
        "value": value,
        "ownerNamespace": tenant.namespace,
        "ownerNamespaceUid": tenant.uid,
        "ownerUid": owner.metadata.uid,
        "owner": f"{owner.kind} {tenant.namespace}/{owner.metadata.name}",
    }
    name = vending.claim_name(kind, value)
    body = {"apiVersion": internal.API_VERSION, "kind": "Claim", "metadata": {"name": name}, "spec": spec}
    match vending.standing(claim, tenant, owner.metadata.uid, now):
        case Standing.FREE:
            return (Create(body),)
        case Standing.RETAKE | Standing.EXPIRED if claim is not None:
            return (Update({**body, "metadata": {"name": name, "resourceVersion": claim.metadata.resource_version}}),)
        case _:
            return ()


def releases(held: Iterable[Claim], keep: Iterable[str], world: World, now: datetime) -> Iterator[Write]:
    """Let go of every held claim whose object name is not in `keep`; it enters quarantine."""
    kept = set(keep)
    for claim in held:
        stored = world.view.stored(surroundings.claim_key(claim.metadata.name))
        if claim.metadata.name not in kept and stored is not None:
            stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
            yield Update({**stored.object, "spec": {**stored.object["spec"], "releasedAt": stamp}})


# ---- objects --------------------------------------------------------------------------------------------------------


def _gateway_ref(gateway: Gateway) -> dict[str, Any]:
    return {"name": gateway.metadata.name, "namespace": gateway.metadata.namespace}


def _listener_set_ref(service: DRTPService) -> dict[str, Any]:
    return {"group": gatewayapi.GROUP, "kind": "ListenerSet", "name": object_name(service)}


def _owned(service: DRTPService, kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = writing.owned_metadata(service.metadata, API_VERSION, "DRTPService", object_name(service))
    return {"apiVersion": gatewayapi.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _route(service: DRTPService, kind: str, parent: Mapping[str, Any], host: str | None) -> Object:
    backend = {"group": "datumapis.com", "kind": "DRTPService", "name": service.metadata.name}
    spec: dict[str, Any] = {"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]}
    if host is not None:
        spec["hostnames"] = [host]
    return _owned(service, kind, spec)


def _listener_set(service: DRTPService, gateway: Gateway, listener: Mapping[str, Any], address: str | None) -> Object:
    made = _owned(service, "ListenerSet", {"parentRef": _gateway_ref(gateway), "listeners": [listener]})
    if address is not None:
        made["metadata"]["annotations"] = {attachment.ADDRESS: address}
    return made


OWNED_KINDS = (
    kind_key(gatewayapi.HTTPRoute),
    kind_key(gatewayapi.TCPRoute),
    kind_key(gatewayapi.TLSRoute),
    kind_key(gatewayapi.UDPRoute),
    kind_key(gatewayapi.ListenerSet),
)
"""Kinds of the objects made here."""
