"""Who may reach a service: lists and policies compiled into what both enforcement points evaluate.

Exposing is the explicit act. Exposed without a list means anyone, an empty list means nobody, and whatever cannot be
read denies. Policies come on top and can only narrow, because every compiled list must allow.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from drtp.api.drtp import GROUP as DRTP_GROUP
from drtp.api.drtp import Action, DRTPAccessPolicy, DRTPService, EnforcementPoint, PolicyTarget, Protocol
from drtp.api.snapshots import Access, AccessList, AccessListRule

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


def unreadable_cidrs(cidrs: Iterable[str], where: str) -> tuple[Unreadable, ...]:
    """Each value that is no address and no network."""
    return tuple(Unreadable(f"{where}[{index}]", value) for index, value in enumerate(cidrs) if not readable(value))


def readable(cidr: str) -> bool:
    """An address or a network. Host bits are not forgiven: `10.1.2.3/8` may mean either, so it denies."""
    try:
        ipaddress.ip_network(cidr)
    except ValueError:
        return False
    return True


def allowlist(cidrs: Sequence[str] | None, *, exposed: bool, protocol: Protocol) -> AccessList:
    """The service's own list. None: anyone where exposed, nobody where not, and nobody for UDP (amplification)."""
    if cidrs is None:
        return ANYONE if exposed and protocol is not Protocol.UDP else NOBODY
    if not cidrs or unreadable_cidrs(cidrs, ""):
        return NOBODY
    return AccessList(default=Action.DENY, rules=(AccessListRule(action=Action.ALLOW, cidrs=tuple(cidrs)),))


def policy_list(policy: DRTPAccessPolicy) -> AccessList:
    """A policy as one list; first match wins. One unreadable CIDR and the whole policy denies."""
    if policy_faults(policy):
        return NOBODY
    rules = tuple(AccessListRule(action=rule.action, cidrs=rule.client_cidrs) for rule in policy.spec.rules)
    return AccessList(default=policy.spec.default_action, rules=rules)


def policy_faults(policy: DRTPAccessPolicy) -> tuple[Unreadable, ...]:
    """Everything in a policy that cannot be read."""
    return tuple(
        fault
        for index, rule in enumerate(policy.spec.rules)
        for fault in unreadable_cidrs(rule.client_cidrs, f"spec.rules[{index}].clientCIDRs")
    )


def holds_at(policy: DRTPAccessPolicy, point: EnforcementPoint) -> bool:
    """Whether the policy is for that point; naming none means both."""
    return not policy.spec.enforcement_points or point in policy.spec.enforcement_points


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
    return Access(lists=(own, *(policy_list(policy) for policy in policies if holds_at(policy, point))))


def every(accesses: Iterable[Access]) -> Access:
    """Several services behind one rule: the visitor must pass all of them. None at all: anyone (nothing to guard)."""
    lists: list[AccessList] = []
    for access in accesses:
        lists.extend(one for one in (access.lists or (NOBODY,)) if one not in lists)
    narrowed = tuple(one for one in lists if one != ANYONE)
    return Access(lists=narrowed or (ANYONE,))


def permits(access: Access, visitor: str) -> bool:
    """The reference meaning of `Access`, as the native core and Envoy implement it. An unreadable visitor is nobody."""
    try:
        address = ipaddress.ip_address(visitor)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return bool(access.lists) and all(_allows(one, address) for one in access.lists)


def _allows(one: AccessList, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if not all(readable(cidr) for rule in one.rules for cidr in rule.cidrs):
        return False
    for rule in one.rules:
        if not rule.cidrs or any(_inside(address, cidr) for cidr in rule.cidrs):
            return rule.action is Action.ALLOW
    return one.default is Action.ALLOW


def _inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address, cidr: str) -> bool:
    return address in ipaddress.ip_network(cidr)
