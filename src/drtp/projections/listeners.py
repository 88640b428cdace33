"""Units about public sockets: which listeners stand, what they are bound to, with which certificates."""

from __future__ import annotations

from typing import cast

from drtp.api.core import Secret
from drtp.api.gatewayapi import GROUP, Gateway, GatewayClass, ListenerSet
from drtp.api.meta import ObjectMeta
from drtp.api.snapshots import GatewayListener, ListenerProtocol, ServingCertificate
from drtp.projections import facts
from drtp.projections.cells import Reader, Result, Unit
from drtp.projections.settings import ProjectionSettings
from drtp.rules import attachment, certificates, entrykeys, hostnames
from drtp.rules.attachment import Slot
from drtp.store.observed import EdgeRef

Slots = tuple[Slot, ...]


def gateway(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """The slots of one Gateway, if it is of a class of ours."""
    found = ours(read, unit[1], unit[2])
    return _offer(attachment.gateway_slots(found, facts.shared_addresses(read)) if found else ())


def listener_set(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """The slots of one ListenerSet, if its Gateway is ours."""
    found = read.get(ListenerSet, unit[1], unit[2])
    if found is None or found.spec.parent_ref.kind not in {None, "Gateway"}:
        return Result()
    above = ours(read, found.spec.parent_ref.namespace or unit[1], found.spec.parent_ref.name)
    if above is None:
        return Result()
    shared = facts.shared_addresses(read)
    slots = attachment.listener_set_slots(found, above, shared, facts.labels_of(read), facts.claim_of(read))
    return _offer(slots)


def ours(read: Reader, namespace: str, name: str) -> Gateway | None:
    """A Gateway that DRTP programs."""
    found = read.get(Gateway, namespace, name)
    kind = read.get(GatewayClass, "", found.spec.gateway_class_name) if found else None
    return found if kind and kind.spec.controller_name == attachment.CONTROLLER_NAME else None


def _offer(slots: Slots) -> Result:
    """Send each slot to the port it wants; the value tells routes which ports to look at."""
    result = Result(value=tuple(sorted({_port_unit(slot) for slot in slots})) or None)
    for unit in result.value or ():
        result.facts[unit] = tuple(slot for slot in slots if _port_unit(slot) == unit)
    return result


def _port_unit(slot: Slot) -> Unit:
    where = (slot.address or "", str(slot.listener.port))
    return ("port", *where, "udp") if slot.is_udp else ("port", *where)


def port(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """One address and port: conflicts are settled, and what stands is bound. Value: every slot, judged."""
    offered = [slot for slots in read.facts().values() for slot in cast("Slots", slots)]
    judged = attachment.arbitrate(offered)
    standing = [slot for slot in judged if slot.refusal is None]
    result = Result(value=judged or None)
    if not standing:
        return result
    protocol = _protocol(standing)
    served: dict[str, None] = {}
    claimed: dict[Unit, dict[str, None]] = {}
    owners: list[ObjectMeta] = []
    for slot in standing:
        owner = facts.listeners_owner(read, *slot.parent)
        if owner is not None:
            owners.append(owner.metadata)
        for secret in slot_secrets(read, slot) if protocol is ListenerProtocol.HTTPS else ():
            wanted = claimed.setdefault(("certificate", secret.metadata.namespace, secret.metadata.name), {})
            wanted[slot.listener.hostname or hostnames.ANY] = None
            served[secret.metadata.uid] = None
    result.facts.update({unit: tuple(names) for unit, names in claimed.items()})
    for edge, address in bound(read, unit[1]):
        key = entrykeys.listener(address, int(unit[2]), udp=protocol is ListenerProtocol.UDP)
        result.entries[edge, key] = GatewayListener(
            address=address,
            port=int(unit[2]),
            protocol=protocol,
            certificates=tuple(served),
            sources=facts.sources(owners),
        )
    return result


def _protocol(standing: list[Slot]) -> ListenerProtocol:
    """HTTPS and TLS passthrough share a socket; it terminates what no passthrough name takes."""
    spoken = {slot.listener.protocol for slot in standing}
    return ListenerProtocol("HTTPS" if "HTTPS" in spoken else next(iter(spoken)))


def bound(read: Reader, address: str) -> list[tuple[EdgeRef, str]]:
    """Where a slot's address ("" for the shared ones) is bound, as (gateway, address); a dedicated one on each."""
    return [
        (gateway.edge, one)
        for gateway in facts.gateways(read)
        for one in ((address,) if address else gateway.addresses)
    ]


def slot_secrets(read: Reader, slot: Slot) -> list[Secret]:
    """The certificates of a listener: core Secrets that exist and may be referred to."""
    found: list[Secret] = []
    for ref in slot.listener.tls.certificate_refs if slot.listener.tls else ():
        if ref.group or (ref.kind or "Secret") != "Secret":
            continue
        namespace = ref.namespace or slot.namespace
        origin = (GROUP, slot.parent[0], slot.namespace)
        if not attachment.granted(origin, ("", "Secret", namespace, ref.name), facts.grants_in(read)):
            continue
        secret = read.get(Secret, namespace, ref.name)
        if secret is not None and certificates.serving_names(secret, (slot.listener.hostname or hostnames.ANY,)):
            found.append(secret)
    return found


def certificate(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """A certificate that some listener uses, for every gateway, with the names that those listeners have."""
    secret = read.get(Secret, unit[1], unit[2])
    allowed = dict.fromkeys(name for names in read.facts().values() for name in cast("tuple[str, ...]", names))
    names = certificates.serving_names(secret, allowed) if secret else ()
    pair = certificates.pair_of(secret) if secret else None
    if secret is None or pair is None or not names:
        return Result()
    entry = ServingCertificate(
        names=names, chain_pem=pair[0], key_pem=pair[1], sources=facts.sources([secret.metadata])
    )
    key = entrykeys.certificate(secret.metadata.uid)
    return Result({(gateway.edge, key): entry for gateway in facts.gateways(read)})
