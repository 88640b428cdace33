"""Who may reach a service: lists and policies compiled into what both enforcement points evaluate.

Exposing is the explicit act. Exposed without a list means anyone, an empty list means nobody, and whatever cannot be
read denies. Policies come on top and can only narrow, because every compiled list must allow.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from drtp.api.drtp import GROUP as DRTP_GROUP
from drtp.api.drtp import (
    AccessRule,
    Action,
    DRTPAccessPolicy,
    DRTPServer,
    DRTPService,
    EnforcementPoint,
    PolicyTarget,
    Protocol,
)
from drtp.api.gatewayapi import GROUP as GATEWAY_GROUP
from drtp.api.policies import Encryption, PolicyLimits, PolicyMode
from drtp.api.snapshots import Access, AccessClause, AccessList, AccessListRule, AccessThrough, Limits, PopPlace
from drtp.rules import asking, schedules
from drtp.rules.indexes import Parent

ANYONE = AccessList(default=Action.ALLOW)
NOBODY = AccessList(default=Action.DENY)


class Unreadable(NamedTuple):
    """A part of a list that cannot be read, so that the list denies. `where` is its path in the object."""

    where: str
    value: str

    def __str__(self) -> str:
        """Where, what, and what is wrong with it: in one sentence's beginning."""
        try:
            meant = ipaddress.ip_network(self.value, strict=False)
        except ValueError:
            return f"{self.where} is no CIDR: {self.value!r}"
        return f"{self.where} has host bits set: {self.value!r}, where the network would be {meant}"


class Meaningless(NamedTuple):
    """A part of a policy that can be read and cannot be carried out, so that the policy denies."""

    where: str
    why: str

    def __str__(self) -> str:
        """In one sentence's beginning."""
        return f"{self.where} {self.why}"


def unreadable_cidrs(cidrs: Iterable[str], where: str) -> tuple[Unreadable, ...]:
    """Each value that is no address and no network."""
    return tuple(Unreadable(f"{where}[{index}]", value) for index, value in enumerate(cidrs) if not readable(value))


def readable(cidr: str) -> bool:
    """An address or a network. Host bits are not forgiven: `10.1.2.3/8` may mean either, so it denies."""
    return asking.network(cidr) is not None


def allowlist(cidrs: Sequence[str] | None, *, exposed: bool, protocol: Protocol) -> AccessList:
    """The service's own list. None: anyone where exposed, nobody where not, and nobody for UDP (amplification)."""
    if cidrs is None:
        return ANYONE if exposed and protocol is not Protocol.UDP else NOBODY
    if not cidrs or unreadable_cidrs(cidrs, ""):
        return NOBODY
    return AccessList(default=Action.DENY, rules=(AccessListRule(action=Action.ALLOW, cidrs=tuple(cidrs)),))


def policy_list(policy: DRTPAccessPolicy) -> AccessList:
    """A policy as one list; first match wins. Anything that cannot be read and the whole policy denies."""
    dry_run = policy.spec.mode is PolicyMode.DRY_RUN
    if policy_faults(policy):
        return AccessList(dry_run=dry_run)
    rules = policy.spec.rules
    if not any(_asks_more(rule) for rule in rules):
        plain = tuple(AccessListRule(action=rule.action, cidrs=rule.client_cidrs) for rule in rules)
        return AccessList(default=policy.spec.default_action, rules=plain, dry_run=dry_run)
    return AccessList(
        clauses=tuple(_clause(rule) for rule in rules), otherwise=policy.spec.default_action, dry_run=dry_run
    )


def _asks_more(rule: AccessRule) -> bool:
    """Whether a rule asks for more than addresses."""
    return bool(rule.countries or rule.organizations or rule.principals or rule.schedule or rule.through)


def _clause(rule: AccessRule) -> AccessClause:
    through = rule.through
    return AccessClause(
        action=rule.action,
        cidrs=rule.client_cidrs,
        countries=rule.countries,
        organizations=rule.organizations,
        principals=rule.principals,
        schedule=schedules.compiled(rule.schedule) if rule.schedule else None,
        through=AccessThrough(pops=through.pops, regions=through.regions, countries=through.countries)
        if through
        else None,
    )


def policy_faults(policy: DRTPAccessPolicy) -> tuple[Unreadable | Meaningless, ...]:
    """Everything in a policy that cannot be read, or not be carried out where it is to hold."""
    found: list[Unreadable | Meaningless] = []
    for index, rule in enumerate(policy.spec.rules):
        found.extend(_faults(rule, f"spec.rules[{index}]"))
    if _at_gateways_alone(policy):
        found.extend(Meaningless(where, _NOT_AT_GATEWAYS) for where in _for_tunnels(policy))
    return tuple(found)


_NOT_AT_GATEWAYS = "is for tunnel servers, and targetRefs or enforcementPoints have the policy hold at gateways"


def _faults(rule: AccessRule, where: str) -> Iterator[Unreadable | Meaningless]:
    yield from unreadable_cidrs(rule.client_cidrs, f"{where}.clientCIDRs")
    if rule.schedule is not None:
        try:
            schedules.compiled(rule.schedule)
        except ValueError as error:
            yield Meaningless(f"{where}.schedule", f"cannot be read: {error}")
    if rule.through is not None and not (rule.through.pops or rule.through.regions or rule.through.countries):
        yield Meaningless(f"{where}.through", "names nothing")


def _for_tunnels(policy: DRTPAccessPolicy) -> Iterator[str]:
    """What of a policy tunnel servers alone can carry out."""
    for index, rule in enumerate(policy.spec.rules):
        for name, given in (("countries", rule.countries), ("through", rule.through)):
            if given:
                yield f"spec.rules[{index}].{name}"
    if policy.spec.limits is not None:
        yield "spec.limits"
    if policy.spec.mode is PolicyMode.DRY_RUN:
        yield "spec.mode"


def _at_gateways_alone(policy: DRTPAccessPolicy) -> bool:
    """Whether no tunnel server holds the policy: by its own word, or because of what it is attached to."""
    points, targets = policy.spec.enforcement_points, policy.spec.target_refs
    return points == (EnforcementPoint.GATEWAY,) or any(target.kind in ABOVE for target in targets)


ABOVE = frozenset({"Gateway", "HTTPRoute", "TCPRoute", "TLSRoute", "UDPRoute"})
"""Kinds of Gateway API that a policy may be on. A tunnel server does not learn by which of them a visitor came."""


def holds_at(policy: DRTPAccessPolicy, point: EnforcementPoint) -> bool:
    """Whether the policy is for that point; naming none means both."""
    return not policy.spec.enforcement_points or point in policy.spec.enforcement_points


def place_of(server: DRTPServer) -> PopPlace:
    """Where a tunnel server is, for rules that name carriers."""
    return PopPlace(pop=server.spec.pop, region=server.spec.region, country=server.spec.country)


def carriage(policies: Iterable[DRTPAccessPolicy]) -> Access:
    """Those of the policies' lists that name carriers, for `asking.may_carry`."""
    held = (policy_list(policy) for policy in policies if holds_at(policy, EnforcementPoint.TUNNEL))
    return Access(lists=tuple(one for one in held if asks_carriage(one)))


def asks_carriage(one: AccessList) -> bool:
    """Whether a rule of the list names carriers."""
    return any(clause.through is not None for clause in one.clauses)


def narrowed(limits: Limits, policies: Iterable[DRTPAccessPolicy]) -> Limits:
    """The lowest cap of each kind, of those that policies enforce at tunnel servers and `limits`; 0 is none."""
    for _, asked in limiting(policies):
        limits = msgspec.structs.replace(
            limits,
            streams_max=_lower(limits.streams_max, asked.connections),
            new_streams_per_s=_lower(limits.new_streams_per_s, asked.connections_per_second),
            bytes_per_s=_lower(limits.bytes_per_s, asked.bytes_per_second),
        )
    return limits


def limiting(policies: Iterable[DRTPAccessPolicy]) -> Iterator[tuple[DRTPAccessPolicy, PolicyLimits]]:
    """Each policy whose limits tunnel servers enforce, with them."""
    for policy in policies:
        asked, held = policy.spec.limits, holds_at(policy, EnforcementPoint.TUNNEL)
        if asked is not None and held and policy.spec.mode is PolicyMode.ENFORCE:
            yield policy, asked


def _lower(present: int, asked: int | None) -> int:
    return min(filter(None, (present, asked)), default=0)


def is_on(policy: DRTPAccessPolicy, target: Parent, listeners: Container[str]) -> bool:
    """Whether the policy targets that object of Gateway API; one of its `listeners`, where a target names a section.

    A section of a route is not told apart: the policy is on the whole of it.
    """
    kind, namespace, name = target
    return policy.metadata.namespace == namespace and any(
        one.group == GATEWAY_GROUP
        and (one.kind, one.name) == (kind, name)
        and (kind != "Gateway" or one.section_name is None or one.section_name in listeners)
        for one in policy.spec.target_refs
    )


def targets_service(target: PolicyTarget, name: str) -> bool:
    """Whether a target is that DRTPService (of the policy's own namespace)."""
    return target.group == DRTP_GROUP and target.kind == "DRTPService" and target.name == name


def attached(policies: Iterable[DRTPAccessPolicy], service: DRTPService) -> tuple[DRTPAccessPolicy, ...]:
    """The policies of the service's namespace that target it, by name."""
    found = (
        policy
        for policy in policies
        if policy.metadata.namespace == service.metadata.namespace
        and any(targets_service(target, service.metadata.name) for target in policy.spec.target_refs)
    )
    return tuple(sorted(found, key=lambda policy: policy.metadata.name))


def compile_access(
    service: DRTPService, policies: Iterable[DRTPAccessPolicy], point: EnforcementPoint, *, exposed: bool
) -> Access:
    """What `point` evaluates: the service's own list first, then one list for each attached policy. All must allow."""
    own = allowlist(service.spec.edge_allowlist, exposed=exposed, protocol=service.spec.protocol)
    passed_through = is_passed_through(service)
    held = (visitors_lists(one, passed_through=passed_through) for one in policies if holds_at(one, point))
    return Access(lists=(own, *itertools.chain.from_iterable(held)))


def visitors_lists(policy: DRTPAccessPolicy, *, passed_through: bool) -> Iterator[AccessList]:
    """A policy for visitors of public places. `passed_through`: their TLS reaches the service as it is."""
    yield policy_list(policy)
    if is_read_on_the_way(policy, passed_through=passed_through):
        yield msgspec.structs.replace(NOBODY, dry_run=policy.spec.mode is PolicyMode.DRY_RUN)


def is_passed_through(service: DRTPService) -> bool:
    """Whether TLS of visitors reaches the service as it is."""
    return service.spec.protocol is Protocol.TLS


def is_read_on_the_way(policy: DRTPAccessPolicy, *, passed_through: bool) -> bool:
    """Whether the policy demands encryption from end to end of visitors who do not have it."""
    return policy.spec.encryption is Encryption.END_TO_END and not passed_through


def every(accesses: Iterable[Access]) -> Access:
    """Several services behind one rule: the visitor must pass all of them. None at all: anyone (nothing to guard)."""
    lists: list[AccessList] = []
    for access in accesses:
        lists.extend(one for one in (access.lists or (NOBODY,)) if one not in lists)
    narrowed = tuple(one for one in lists if one != ANYONE)
    return Access(lists=narrowed or (ANYONE,))


def permits(access: Access, visitor: str) -> bool:
    """Whether somebody of whom the address alone is known may pass. An unreadable visitor is nobody."""
    return asking.address(visitor) is not None and asking.decide(access, asking.Asking(visitor)).allowed
