"""DRTPAccessPolicy status: which targets took it, and whether it holds at every point where it should."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from drtp.api.drtp import (
    GROUP,
    DRTPAccessPolicy,
    DRTPAccessPolicyStatus,
    DRTPConnection,
    DRTPServer,
    DRTPService,
    EnforcementPoint,
    PolicyAncestor,
    PolicyTarget,
    Protocol,
)
from drtp.api.gatewayapi import GROUP as GATEWAY_GROUP
from drtp.api.gatewayapi import Gateway, HTTPRoute, TCPRoute, TLSRoute, UDPRoute
from drtp.api.internal import EdgeRole
from drtp.api.meta import Condition, Key
from drtp.api.policies import PolicyMode
from drtp.api.reasons import Aspect, Reason
from drtp.api.reports import ExposureReport, RouteReport, ServiceReport
from drtp.api.snapshots import Source
from drtp.controllers import surroundings, writing
from drtp.controllers.runtime import Change, EdgeChange, MapChange, Outcome, World, itself
from drtp.controllers.writing import Turn
from drtp.rules import access, asking, attachment, conditions, entrykeys, indexes
from drtp.rules.conditions import Conclusion, no, unknown, yes
from drtp.store.view import kind_key

_Target = DRTPService | Gateway | HTTPRoute | TCPRoute | TLSRoute | UDPRoute
ABOVE: tuple[type[Gateway | HTTPRoute | TCPRoute | TLSRoute | UDPRoute], ...] = (
    Gateway,
    HTTPRoute,
    TCPRoute,
    TLSRoute,
    UDPRoute,
)

POLICY = kind_key(DRTPAccessPolicy)
KINDS = (POLICY, kind_key(DRTPService), kind_key(DRTPConnection))


class PolicyController:
    """Keyed by DRTPAccessPolicy."""

    name = "policy"

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Policies, and the services they are on."""
        routes = {kind_key(model): _of_route for model in surroundings.ROUTES}
        return {
            POLICY: itself,
            kind_key(DRTPService): _of_service,
            kind_key(DRTPConnection): _of_connection,
            kind_key(Gateway): _of_gateway,
            **routes,
        }

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Edges repeat the sources of what they have in force: the policy itself is among them."""
        if change.part == "" and change.edge.role in {EdgeRole.POP, EdgeRole.GATEWAY}:
            yield from world.view.keys(POLICY)
            return
        if change.part == "" and change.edge.role is EdgeRole.AGENT:
            for connection in world.view.indexed(DRTPConnection, "agent", change.edge.uid):
                yield from _on(world, connection.metadata.namespace, connection.spec.service_ref.name)
            return
        report = world.observed.report(change.edge.uid, change.part)
        if isinstance(report, RouteReport | ExposureReport | ServiceReport):
            for source in report.sources:
                stored = world.view.by_uid(source.uid)
                if stored is not None and stored.key.kind == POLICY:
                    yield stored.key

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """One ancestor for each target."""
        stored, policy = world.view.stored(key), world.view.get(DRTPAccessPolicy, key.namespace, key.name)
        if stored is None or policy is None:
            return Outcome()
        ancestors = tuple(_ancestor(policy, target, world, now) for target in dict.fromkeys(policy.spec.target_refs))
        turns = (Turn(_held(policy, one.ancestor_ref), one.conditions, _at(policy, one)) for one in ancestors)
        return Outcome(
            writing.status(stored, DRTPAccessPolicyStatus(ancestors=ancestors)),
            None,
            writing.transitions(key, *turns),
        )


def _held(policy: DRTPAccessPolicy, target: PolicyTarget) -> tuple[Condition, ...]:
    return next((one.conditions for one in policy.status.ancestors if one.ancestor_ref == target), ())


def _at(policy: DRTPAccessPolicy, ancestor: PolicyAncestor) -> str:
    """Which target is spoken of, where there are several."""
    return f"{ancestor.ancestor_ref.name}: " if len(policy.spec.target_refs) > 1 else ""


def _ancestor(policy: DRTPAccessPolicy, target: PolicyTarget, world: World, now: datetime) -> PolicyAncestor:
    held = _held(policy, target)
    accepted, enforced = _conclusions(policy, target, world)
    before = conditions.find(held, Aspect.ENFORCED)
    if enforced.status is conditions.UNKNOWN and before and before.observed_generation < policy.metadata.generation:
        # What was in force of another generation says nothing of this one, and it must not seem so.
        enforced = enforced._replace(status=conditions.FALSE)
    return PolicyAncestor(
        ancestor_ref=target,
        controller_name=attachment.CONTROLLER_NAME,
        conditions=conditions.merge(held, (accepted, enforced), policy.metadata.generation, now),
    )


def _conclusions(policy: DRTPAccessPolicy, target: PolicyTarget, world: World) -> tuple[Conclusion, Conclusion]:
    model = _model(target)
    if model is None:
        refused = no(
            Aspect.ACCEPTED,
            Reason.TARGET_NOT_SUPPORTED,
            f"A policy on a {target.kind} is not enforced; target a DRTPService, a Gateway or a route.",
        )
        return refused, refused._replace(type=Aspect.ENFORCED)
    found = world.view.get(model, policy.metadata.namespace, target.name)
    if found is None:
        refused = no(Aspect.ACCEPTED, Reason.TARGET_NOT_FOUND, f"{target.kind} {target.name} does not exist.")
        return refused, refused._replace(type=Aspect.ENFORCED)
    faults = access.policy_faults(policy)
    dry_run = policy.spec.mode is PolicyMode.DRY_RUN
    what = "Tunnel servers count whom the policy would refuse." if dry_run else "The policy narrows who may pass."
    if any(rule.organizations or rule.principals for rule in policy.spec.rules):
        what += _HOW_TO_BE_KNOWN[_signs_in(found)]
    if access.is_read_on_the_way(policy, passed_through=_is_passed_through(found)):
        then = "would be refused" if dry_run else "are refused"
        what += f" Visitors {then}: gateways could read their bytes. `datumctl connect` is encrypted from end to end."
    accepted = yes(Aspect.ACCEPTED, Reason.ACCEPTED, what)
    if faults:
        code = "DRTP-6009" if isinstance(faults[0], access.Unreadable) else "DRTP-6031"
        then = "would pass" if dry_run else "passes"
        accepted = no(Aspect.ACCEPTED, Reason.INVALID, f"{faults[0]}; nobody {then} until it is mended ({code}).")
    if dry_run:
        return accepted, no(Aspect.ENFORCED, Reason.DRY_RUN, "Nobody is refused: spec.mode is DryRun.")
    behind = sorted(set(_without_byte_rates(policy, found, world)))
    if behind:
        what = f"Limits in bytes per second are passed over by the program of {', '.join(behind)}; the rest holds."
        return accepted, no(Aspect.ENFORCED, Reason.UNSUPPORTED_VALUE, what)
    return accepted, _enforced(policy, _points(policy, found, target, world))


_HOW_TO_BE_KNOWN = {
    True: " Visitors of https places sign in to be known; programs come by `datumctl connect`.",
    False: " Visitors of these places show no identity: whom a rule names by one comes by `datumctl connect`.",
}


def _signs_in(target: _Target) -> bool:
    """Whether visitors may come by a place where they can sign in: one of a Gateway may be."""
    if isinstance(target, DRTPService):
        return target.spec.protocol in {Protocol.HTTP, Protocol.HTTPS}
    return isinstance(target, Gateway | HTTPRoute)


def _is_passed_through(target: _Target) -> bool:
    """Whether TLS of visitors reaches a service as it is; of a Gateway each listener says so for itself."""
    if isinstance(target, DRTPService):
        return access.is_passed_through(target)
    return isinstance(target, Gateway | TLSRoute)


def _model(target: PolicyTarget) -> type[_Target] | None:
    """The kind that a policy targets, where one may be on it."""
    if (target.group, target.kind) == (GROUP, "DRTPService"):
        return DRTPService
    if target.group != GATEWAY_GROUP:
        return None
    return next((one for one in ABOVE if kind_key(one) == f"{target.kind}.{GATEWAY_GROUP}"), None)


def _points(
    policy: DRTPAccessPolicy, found: _Target, target: PolicyTarget, world: World
) -> Iterable[tuple[str, bool | None]]:
    """Every live point where a target has the policy hold, and whether it has reported this generation."""
    at_gateways = access.holds_at(policy, EnforcementPoint.GATEWAY)
    if isinstance(found, DRTPService):
        if access.holds_at(policy, EnforcementPoint.TUNNEL):
            yield from _at_tunnels(policy, found, world)
        routes = surroundings.routes_to(world, found) if at_gateways else []
        where = [place for route in routes for place in surroundings.places(world, route)]
    elif isinstance(found, Gateway):
        where = surroundings.places_on(world, found, target.section_name) if at_gateways else []
    else:
        where = [*surroundings.places(world, found)] if at_gateways else []
    for place in where:
        said = surroundings.said(
            world, place.address, lambda address, at=place: surroundings.place_key(at, address), [policy.metadata]
        )
        yield f"gateway {place.hostname}:{place.port}", said.state


def _enforced(policy: DRTPAccessPolicy, points: Iterable[tuple[str, bool | None]]) -> Conclusion:
    """True only when each live point has reported this generation; nothing live to enforce it at is Unknown."""
    spoken = list(points)
    waiting = [where for where, good in spoken if not good]
    if not spoken:
        return unknown(Aspect.ENFORCED, Reason.NOTHING_TO_ENFORCE, "No connection and no public place is live yet.")
    if waiting:
        return unknown(Aspect.ENFORCED, Reason.PENDING, f"Not confirmed yet by {', '.join(sorted(set(waiting)))}.")
    return yes(Aspect.ENFORCED, Reason.ENFORCED, "Every enforcement point has this generation.")


def _at_tunnels(policy: DRTPAccessPolicy, service: DRTPService, world: World) -> Iterable[tuple[str, bool]]:
    wanted = Source(policy.metadata.uid, policy.metadata.generation)
    carriage = access.carriage([policy])
    where = (service.metadata.namespace, service.metadata.name)
    for connection in world.view.indexed(DRTPConnection, "service", where):
        for assigned in connection.spec.servers:
            uid = surroundings.server_uid(world, assigned.server_ref.name)
            server = world.view.get(DRTPServer, "", assigned.server_ref.name)
            if server is not None and not asking.may_carry(carriage, access.place_of(server)):
                continue  # It is told nothing of the connection.
            if uid and (said := _said(world, uid, entrykeys.route(connection.metadata.uid), wanted)) is not None:
                yield assigned.server_ref.name, said
        # An agent holds whoever comes by `connect` to the same policies.
        agent = connection.spec.client.agent_id
        if agent and (said := _said(world, agent, entrykeys.service(connection.metadata.uid), wanted)) is not None:
            yield f"the agent of {connection.metadata.name}", said


def _said(world: World, uid: str, part: str, wanted: Source) -> bool | None:
    """Whether an edge has this generation in force; None while it is away."""
    state = world.observed.edge(uid)
    if state is None or not state.connected:
        return None
    report = state.reports.get(part)
    return isinstance(report, RouteReport | ServiceReport) and wanted in report.sources


def _without_byte_rates(policy: DRTPAccessPolicy, found: _Target, world: World) -> Iterable[str]:
    """Tunnel servers that have the policy in force and cannot carry out its limit in bytes per second."""
    limits = policy.spec.limits
    if limits is None or limits.bytes_per_second is None or not isinstance(found, DRTPService):
        return
    wanted = Source(policy.metadata.uid, policy.metadata.generation)
    for connection in world.view.indexed(DRTPConnection, "service", (found.metadata.namespace, found.metadata.name)):
        for assigned in connection.spec.servers:
            uid = surroundings.server_uid(world, assigned.server_ref.name)
            state = world.observed.edge(uid) if uid else None
            if state is None or not state.connected:
                continue
            report = state.reports.get(entrykeys.route(connection.metadata.uid))
            if isinstance(report, RouteReport) and wanted in report.sources and not report.byte_rates:
                yield assigned.server_ref.name


# ---- which policies a change concerns -------------------------------------------------------------------------------


def _on(world: World, namespace: str, name: str) -> Iterable[Key]:
    for policy in world.view.indexed(DRTPAccessPolicy, "service", (namespace, name)):
        yield Key(POLICY, policy.metadata.namespace, policy.metadata.name)


def _of_service(world: World, change: Change) -> Iterable[Key]:
    """Whether it is there, and whether TLS is passed through to it."""
    protocols = [stored.object["spec"].get("protocol") for stored in change.versions]
    if len(protocols) < 2 or protocols[0] != protocols[1]:
        yield from _on(world, change.key.namespace, change.key.name)


def _of_connection(world: World, change: Change) -> Iterable[Key]:
    for stored in change.versions:
        yield from _on(world, change.key.namespace, stored.object["spec"]["serviceRef"]["name"])


def _of_gateway(world: World, change: Change) -> Iterable[Key]:
    if change.before is None or change.after is None:
        yield from _targeting(world, ("Gateway", change.key.namespace, change.key.name))


def _targeting(world: World, target: indexes.Parent) -> Iterable[Key]:
    for policy in world.view.indexed(DRTPAccessPolicy, "target", target):
        yield Key(POLICY, policy.metadata.namespace, policy.metadata.name)


def _of_route(world: World, change: Change) -> Iterable[Key]:
    kind, _, _ = change.key.kind.partition(".")
    yield from _targeting(world, (kind, change.key.namespace, change.key.name))
    model = next(one for one in surroundings.ROUTES if kind_key(one) == change.key.kind)
    for stored in change.versions:
        route = world.view.typed(model, stored)
        for namespace, name in indexes.route_backends(route) if route else ():
            yield from _on(world, namespace, name)
        for parent in indexes.route_parents(route) if route else ():
            yield from _targeting(world, surroundings.gateway_of(world, parent))
