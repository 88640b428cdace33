"""DRTPService status: where visitors reach it, and whether they would be served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from drtp.api import core, gatewayapi
from drtp.api.drtp import ADDRESSES_MAX, DRTPConnection, DRTPService, DRTPServiceStatus, ServiceAddress
from drtp.api.internal import Claim, EdgeIdentity, EdgeRole, EnrolmentSecret
from drtp.api.meta import ConditionStatus, Key, LocalRef, ObjectMeta
from drtp.api.reasons import Aspect, Reason
from drtp.api.reports import ExposureReport
from drtp.controllers import expose, exposing, surroundings, writing
from drtp.controllers.runtime import Change, EdgeChange, MapChange, Outcome, World, itself
from drtp.controllers.surroundings import Place
from drtp.controllers.writing import Turn
from drtp.rules import attachment, conditions, entrykeys, hostnames, indexes, readiness, unsupported
from drtp.rules.conditions import Conclusion
from drtp.rules.readiness import ExposureFacts
from drtp.store.view import kind_key

SERVICE = kind_key(DRTPService)


class ServiceController:
    """Keyed by DRTPService; the only writer of its status."""

    name = "service"

    def __init__(self, suffix: str) -> None:
        """`suffix` of public names; under `.localhost` the clear address comes first, as no public CA vouches there."""
        self._suffix = suffix
        self._started: datetime | None = None

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Services, their connections, the routes that lead to them, and what those are received by."""
        routes = {kind_key(model): _of_route for model in surroundings.ROUTES}
        return {
            SERVICE: itself,
            kind_key(DRTPConnection): _of_connection,
            kind_key(Claim): expose.of_claim,
            gatewayapi.GATEWAY: _of_parent,
            gatewayapi.LISTENER_SET: _of_parent,
            kind_key(EdgeIdentity): _of_gateway_edge,
            kind_key(EnrolmentSecret): _of_secret,
            kind_key(core.Secret): _of_kept_secret,
            **routes,
        }

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Gateways say what they have programmed, and from which services."""
        if change.edge.role is not EdgeRole.GATEWAY:
            return
        if change.part == "":
            yield from world.view.keys(SERVICE)
            return
        report = world.observed.report(change.edge.uid, change.part)
        if isinstance(report, ExposureReport):
            for source in report.sources:
                stored = world.view.by_uid(source.uid)
                if stored is not None and stored.key.kind == SERVICE:
                    yield stored.key

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """Conclude from connections' status, from attachment, and from what gateways report."""
        self._started = self._started or now
        stored, service = world.view.stored(key), world.view.get(DRTPService, key.namespace, key.name)
        if stored is None or service is None:
            return Outcome()
        connections = world.view.indexed(DRTPConnection, "service", (key.namespace, key.name))
        public = _places(world, service)
        found = conditions.merge(
            service.status.conditions,
            self._conclusions(service, connections, public, world, now) + _besides(world, service),
            service.metadata.generation,
            now,
        )
        addresses = self._addresses(world, service, public)
        status = DRTPServiceStatus(
            local_target=_host_port(service.spec.local.host, service.spec.local.port),
            address=_written(addresses[0]) if addresses else None,
            addresses=addresses,
            credentials_secret_ref=_credentials(world, service),
            connections=len(connections),
            ready_connections=sum(conditions.holds(one.status.conditions, Aspect.READY) for one in connections),
            observed_generation=service.metadata.generation,
            conditions=found,
        )
        return Outcome(
            writes=writing.status(stored, status),
            requeue_after_s=(self._lease_left(world, now) if public else None) or None,
            events=writing.transitions(key, Turn(service.status.conditions, found)),
        )

    def _conclusions(
        self,
        service: DRTPService,
        connections: Sequence[DRTPConnection],
        public: Sequence[Place],
        world: World,
        now: datetime,
    ) -> tuple[Conclusion, ...]:
        refusal = exposing.wanted(service, world, self._suffix, now).refusal
        accepted = readiness.service_accepted(service, (refusal,) if refusal else ())
        connected = readiness.service_connected([(one.metadata.name, _connected(one)) for one in connections])
        exposed = readiness.service_exposed(
            service, [_said(world, service, one) for one in public], _pending(world, service, public, refusal)
        )
        if public and exposed.status is not ConditionStatus.FALSE and self._lease_left(world, now) == 0:
            what = "No gateway is heard of any more; whether visitors are received is not known (DRTP-6011)."
            exposed = conditions.no(Aspect.EXPOSED, Reason.GATEWAY_LOST, what)
        paths = _paths(connections)
        ready = readiness.service_ready(service, (accepted, connected, exposed), paths)
        return accepted, connected, exposed, ready

    def _lease_left(self, world: World, now: datetime) -> float | None:
        """Seconds until the silence of all gateways counts; 0 once it does, None while one is connected."""
        silent = surroundings.gateways_silent(world, self._started or now, now)
        return None if silent is None else max(0.0, (readiness.LEASE - silent).total_seconds())

    def _addresses(self, world: World, service: DRTPService, public: Sequence[Place]) -> tuple[ServiceAddress, ...]:
        """Places as people write them: those that `spec.expose` asked for first, and of these the best one."""
        own = _own_places(world, service)
        local = self._suffix == "localhost" or self._suffix.endswith(".localhost")
        order = {"HTTP": 0, "HTTPS": 1} if local else {"HTTPS": 0, "HTTP": 1}
        found: dict[ServiceAddress, None] = {}
        for place in sorted(public, key=lambda one: (one not in own, order.get(one.protocol, 2), one)):
            for address in (place.address,) if place.address else surroundings.shared_addresses(world):
                found[_address(place, address)] = None
                if place.protocol not in attachment.BY_PORT:
                    break
        return tuple(found)[:ADDRESSES_MAX]


def _written(address: ServiceAddress) -> str:
    """As people write it."""
    return address.url or _host_port(address.hostname or address.ip or "", address.port or 0)


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(place: Place, address: str) -> ServiceAddress:
    if place.protocol in attachment.BY_PORT:
        return ServiceAddress(ip=address, port=place.port)
    if place.protocol == "TLS" or hostnames.is_wildcard(place.hostname):
        return ServiceAddress(hostname=place.hostname, port=place.port)
    scheme, usual = ("https", 443) if place.protocol == "HTTPS" else ("http", 80)
    port = "" if place.port == usual else f":{place.port}"
    return ServiceAddress(hostname=place.hostname, port=place.port, url=f"{scheme}://{place.hostname}{port}")


def _besides(world: World, service: DRTPService) -> tuple[Conclusion, ...]:
    """What is there only while there is something to say."""
    idle = unsupported.expose(service)
    return ((idle,) if idle else ()) + _replayed(world, service)


def _credentials(world: World, service: DRTPService) -> LocalRef | None:
    """The Secret that holds a one-time secret of this service, the newest one where there are several."""
    held = [
        secret
        for one in world.view.indexed(EnrolmentSecret, "service", service.metadata.uid)
        if one.spec.kept_in
        and (secret := world.view.get(core.Secret, service.metadata.namespace, one.spec.kept_in)) is not None
        and any(owner.uid == service.metadata.uid for owner in secret.metadata.owner_references)
    ]
    newest = max(held, key=lambda one: (str(one.metadata.creation_timestamp), one.metadata.name), default=None)
    return LocalRef(name=newest.metadata.name) if newest is not None else None


def _replayed(world: World, service: DRTPService) -> tuple[Conclusion, ...]:
    """Somebody else has a secret of this service: said for as long as the secret's record is kept, else not at all."""
    found = world.view.indexed(EnrolmentSecret, "service", service.metadata.uid)
    names = sorted(one.metadata.name for one in found if one.spec.replays)
    if not names:
        return ()
    what = f"Spent enrolment secret {', '.join(names[:4])} was presented by another key; agents that serve go on"
    return (
        conditions.yes(Aspect.SECRET_REPLAYED, Reason.SECRET_REPLAYED, f"{what}. Find out who has it (DRTP-2002)."),
    )


def _places(world: World, service: DRTPService) -> tuple[Place, ...]:
    found = (place for route in surroundings.routes_to(world, service) for place in surroundings.places(world, route))
    return tuple(sorted(set(found), key=lambda one: (one.hostname, one.port, one.protocol, one.address or "")))


def _own_places(world: World, service: DRTPService) -> frozenset[Place]:
    """Where the routes that `spec.expose` stands for are attached."""
    uid = service.metadata.uid
    own = (
        route
        for route in surroundings.routes_to(world, service)
        if any(owner.uid == uid for owner in route.metadata.owner_references)
    )
    return frozenset(place for route in own for place in surroundings.places(world, route))


def _connected(connection: DRTPConnection) -> Conclusion:
    held = conditions.find(connection.status.conditions, Aspect.CONNECTED)
    scheduled = conditions.find(connection.status.conditions, Aspect.SCHEDULED)
    if scheduled is not None and scheduled.status is ConditionStatus.FALSE:
        # No agent reaches a server that it is not given.
        return Conclusion(Aspect.CONNECTED, scheduled.status, scheduled.reason, scheduled.message)
    if held is None:
        return conditions.no(Aspect.CONNECTED, Reason.CONNECTING, "The agent is being given its servers.")
    return Conclusion(Aspect.CONNECTED, held.status, held.reason, held.message)


def _paths(connections: Sequence[DRTPConnection]) -> int:
    """Distinct servers through which a visitor can be served now."""
    return len(
        {
            status.server_ref.name
            for one in connections
            if conditions.holds(one.status.conditions, Aspect.CONNECTED)
            for status in one.status.servers
            if readiness.carries(status)
        }
    )


def _pending(
    world: World, service: DRTPService, public: Sequence[Place], refusal: Conclusion | None
) -> Conclusion | None:
    """Why a service that should be exposed has no place yet; what a route was told is told here too."""
    if public:
        return None
    if refusal is not None:
        return refusal._replace(type=Aspect.EXPOSED, status=ConditionStatus.FALSE)
    for route in surroundings.routes_to(world, service):
        for verdict in surroundings.verdicts(world, route):
            claiming = verdict.accepted.reason == Reason.HOSTNAME_CLAIMED and service.spec.expose is not None
            if verdict.accepted.status is ConditionStatus.FALSE and not claiming:
                return verdict.accepted._replace(type=Aspect.EXPOSED)
    if service.spec.expose is None:
        return None
    return conditions.unknown(Aspect.EXPOSED, Reason.PENDING, "The public address is being prepared.")


def _said(world: World, service: DRTPService, place: Place) -> ExposureFacts:
    """What the live gateways say of one place: host or port, and the service's endpoints behind it."""
    where = place.hostname if place.protocol not in attachment.BY_PORT else place.address or "the shared address"
    what = f"{where}:{place.port}"
    front = surroundings.said(
        world, place.address, lambda address: surroundings.place_key(place, address), [service.metadata]
    )
    if front.state is not True:
        return ExposureFacts(what, front.state, front.message)
    back = surroundings.said(
        world, place.address, lambda _: entrykeys.backend(service.metadata.uid), _behind(world, service)
    )
    return ExposureFacts(what, back.state, back.message)


def _behind(world: World, service: DRTPService) -> list[ObjectMeta]:
    """What the gateways' Backend entry must come from: the service, and a connection that carries visitors."""
    where = (service.metadata.namespace, service.metadata.name)
    for one in world.view.indexed(DRTPConnection, "service", where):
        if service.spec.enabled and any(readiness.carries(status) for status in one.status.servers):
            return [service.metadata, one.metadata]
    return [service.metadata]


# ---- which services a change concerns -------------------------------------------------------------------------------


def _of_connection(world: World, change: Change) -> Iterable[Key]:
    for stored in change.versions:
        yield Key(SERVICE, stored.key.namespace, stored.object["spec"]["serviceRef"]["name"])


def _of_kept_secret(world: World, change: Change) -> Iterable[Key]:
    """A Secret that the service owns came or went."""
    for stored in change.versions if change.before is None or change.after is None else ():
        for owner in stored.metadata.get("ownerReferences") or ():
            found = world.view.by_uid(owner["uid"])
            if found is not None and found.key.kind == SERVICE:
                yield found.key


def _of_secret(world: World, change: Change) -> Iterable[Key]:
    """A secret was replayed, or its record went."""
    if len({stored.object["spec"].get("replays", 0) for stored in change.versions}) < 2 and change.after is not None:
        return
    for stored in change.versions:
        owner = world.view.by_uid(stored.object["spec"].get("bound", {}).get("uid") or "")
        if owner is not None and owner.key.kind == SERVICE:
            yield owner.key


def _of_route(world: World, change: Change) -> Iterable[Key]:
    model = next(one for one in surroundings.ROUTES if kind_key(one) == change.key.kind)
    for stored in change.versions:
        route = world.view.typed(model, stored)
        if route is not None:
            for namespace, name in indexes.route_backends(route):
                yield Key(SERVICE, namespace, name)


def _of_parent(world: World, change: Change) -> Iterable[Key]:
    """A Gateway or ListenerSet changed its listeners: whatever is received there."""
    generations = {stored.metadata.get("generation") for stored in change.versions}
    if change.before is not None and change.after is not None and len(generations) == 1:
        return
    parent = (change.key.kind.partition(".")[0], change.key.namespace, change.key.name)
    for model in surroundings.ROUTES:
        for route in world.view.indexed(model, "parent", parent):
            for namespace, name in indexes.route_backends(route):
                yield Key(SERVICE, namespace, name)


def _of_gateway_edge(world: World, change: Change) -> Iterable[Key]:
    """A gateway came, went, or changed its addresses."""
    specs = [stored.object["spec"] for stored in change.versions]
    looks = {(spec.get("role"), tuple(spec.get("addresses") or ()), spec.get("revoked", False)) for spec in specs}
    if any(spec.get("role") == EdgeRole.GATEWAY.value for spec in specs) and (len(looks) > 1 or len(specs) == 1):
        yield from world.view.keys(SERVICE)
