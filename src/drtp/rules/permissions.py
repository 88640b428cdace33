"""Whether roles permit a request, and whether one set of rules holds all that another gives: pure, as in Kubernetes.

Roles only add: whatever no rule permits is refused, so a role or binding that cannot be read refuses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from drtp.api.people import User
from drtp.api.rbac import GROUP, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject
from drtp.rules.attachment import selects

ALL = "*"
EVERYTHING = (
    PolicyRule(verbs=(ALL,), api_groups=(ALL,), resources=(ALL,)),
    PolicyRule(verbs=(ALL,), non_resource_urls=(ALL,)),
)
"""The rules of whoever may do everything."""

ORGANIZATION_ROLES = {role: f"organization-{role}" for role in ("owner", "admin", "editor", "viewer")}
"""What members of an organisation are called, to the cluster role that they get."""

BREAKDOWN_MAX = 10_000
"""Single permissions that a rule may stand for where it has to be looked at one by one."""

_SERVICE_ACCOUNT = "system:serviceaccount:"


class Wanted(NamedTuple):
    """What a request is about, in the order Kubernetes lists it."""

    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str


Grantee = tuple[str, str]
"""Kind and name of a subject; a service account's name is that of its user."""


class Grants(Protocol):
    """Where roles and bindings are found; what cannot be read is left out."""

    def given_in(self, namespace: str, grantee: Grantee) -> Sequence[RoleBinding]:
        """The bindings of one namespace that name `grantee`."""
        ...

    def given_everywhere(self, grantee: Grantee) -> Sequence[ClusterRoleBinding]:
        """The cluster role bindings that name `grantee`."""
        ...

    def role(self, namespace: str, name: str) -> Role | None:
        """A role of a namespace."""
        ...

    def cluster_role(self, name: str) -> ClusterRole | None:
        """A cluster role."""
        ...

    def cluster_roles(self) -> Sequence[ClusterRole]:
        """Every cluster role, for those that are sums of others."""
        ...

    def home_of(self, namespace: str) -> str:
        """The own project of the organisation that a project is of; "" where there is none."""
        ...


def grantees_of(binding: RoleBinding | ClusterRoleBinding) -> Iterator[Grantee]:
    """Whom a binding names."""
    for subject in binding.subjects:
        yield _grantee(subject, binding.metadata.namespace)


def _grantee(subject: Subject, namespace: str) -> Grantee:
    if subject.kind == "ServiceAccount":
        return ("User", f"{_SERVICE_ACCOUNT}{subject.namespace or namespace}:{subject.name}")
    return (subject.kind, subject.name)


def _grantees(user: User) -> Iterator[Grantee]:
    yield ("User", user.name)
    for group in user.groups:
        yield ("Group", group)


def rules_for(user: User, namespace: str, grants: Grants) -> Iterator[PolicyRule]:
    """Every rule that holds for `user` in `namespace`; "" is the cluster, where no RoleBinding counts.

    A role of an organisation, bound in the organisation's own project, holds in each of its projects.
    """
    home = grants.home_of(namespace) if namespace else ""
    for grantee in _grantees(user):
        for binding in grants.given_everywhere(grantee):
            yield from rules_behind(binding.role_ref, "", grants)
        for binding in grants.given_in(namespace, grantee) if namespace else ():
            yield from rules_behind(binding.role_ref, namespace, grants)
        for binding in grants.given_in(home, grantee) if home not in {"", namespace} else ():
            if is_of_organization(binding.role_ref):
                yield from rules_behind(binding.role_ref, namespace, grants)


def rules_across(user: User, home: str, grants: Grants) -> Iterator[PolicyRule]:
    """Every rule that holds for `user` in each project of the organisation whose own project is `home`."""
    for grantee in _grantees(user):
        for binding in grants.given_everywhere(grantee):
            yield from rules_behind(binding.role_ref, "", grants)
        for binding in grants.given_in(home, grantee):
            if is_of_organization(binding.role_ref):
                yield from rules_behind(binding.role_ref, home, grants)


def is_of_organization(reference: RoleRef) -> bool:
    """Whether a role is one that an organisation has: `organization-owner` and the like."""
    return reference.kind == "ClusterRole" and reference.name in ORGANIZATION_ROLES.values()


def rules_behind(reference: RoleRef, namespace: str, grants: Grants) -> Sequence[PolicyRule]:
    """The rules that a binding in `namespace` ("" the cluster) gives; none where the role is missing or unreadable."""
    if reference.api_group not in {"", GROUP}:
        return ()
    if reference.kind == "Role":
        role = grants.role(namespace, reference.name) if namespace else None
        return role.rules if role is not None else ()
    found = grants.cluster_role(reference.name) if reference.kind == "ClusterRole" else None
    if found is None or found.aggregation_rule is None:
        return found.rules if found is not None else ()
    return _aggregated(found, grants)


def _aggregated(role: ClusterRole, grants: Grants) -> Sequence[PolicyRule]:
    """The sum of the chosen roles' own rules; a sum of sums is not looked through, so that no circle can be made."""
    selectors = role.aggregation_rule.cluster_role_selectors if role.aggregation_rule is not None else ()
    return [
        rule
        for one in grants.cluster_roles()
        if one.aggregation_rule is None and any(selects(selector, one.metadata.labels) for selector in selectors)
        for rule in one.rules
    ]


READS = frozenset({"get", "list", "watch"})
_QUESTIONS = frozenset({"authentication.k8s.io", "authorization.k8s.io"})
"""Groups whose objects are questions: posting one changes nothing."""


def reading(rules: Iterable[PolicyRule]) -> Iterator[PolicyRule]:
    """What is left of `rules` for whoever may change nothing."""
    for rule in rules:
        if rule.api_groups and _QUESTIONS.issuperset(rule.api_groups):
            yield rule
            continue
        verbs = tuple(sorted(READS if ALL in rule.verbs else READS.intersection(rule.verbs)))
        if verbs:
            yield msgspec.structs.replace(rule, verbs=verbs)


# ---- one request ---------------------------------------------------------------------------------------------------


def permits(rule: PolicyRule, wanted: Wanted) -> bool:
    """Whether the rule alone permits a request for a resource."""
    return (
        _has(rule.verbs, wanted.verb)
        and _has(rule.api_groups, wanted.group)
        and _has_resource(rule.resources, wanted.resource, wanted.subresource)
        and (not rule.resource_names or wanted.name in rule.resource_names)
    )


def permits_path(rule: PolicyRule, verb: str, path: str) -> bool:
    """Whether the rule alone permits a request for a document."""
    return _has(rule.verbs, verb) and _has_path(rule.non_resource_urls, path)


def _has(said: Sequence[str], wanted: str) -> bool:
    return wanted in said or ALL in said


def _has_resource(said: Sequence[str], resource: str, subresource: str) -> bool:
    if not subresource:
        return _has(said, resource)
    return _has(said, f"{resource}/{subresource}") or f"{ALL}/{subresource}" in said


def _has_path(said: Sequence[str], path: str) -> bool:
    return any(url in {ALL, path} or (url.endswith("/*") and path.startswith(url[:-1])) for url in said)


# ---- one set of rules against another ------------------------------------------------------------------------------


def lacking(held: Iterable[PolicyRule], wanted: Iterable[PolicyRule]) -> list[PolicyRule]:
    """What of `wanted` is not in `held`, one permission a rule; a rule too wide to be looked through is lacking."""
    own = list(held)
    missing: list[PolicyRule] = []
    for rule in wanted:
        if any(_covers(one, rule) for one in own):
            continue
        parts = _parts(rule)
        missing += [rule] if parts is None else [part for part in parts if not any(_covers(one, part) for one in own)]
    return missing


def _covers(held: PolicyRule, wanted: PolicyRule) -> bool:
    """Whether the one rule alone holds all of the other."""
    if not all(_has(held.verbs, verb) for verb in wanted.verbs):
        return False
    if wanted.non_resource_urls:
        return all(_has_path(held.non_resource_urls, url) for url in wanted.non_resource_urls)
    names = set(held.resource_names)
    return (
        all(_has(held.api_groups, group) for group in wanted.api_groups)
        and all(_has_resource(held.resources, *_split(resource)) for resource in wanted.resources)
        and (not names or (bool(wanted.resource_names) and names.issuperset(wanted.resource_names)))
    )


def _split(resource: str) -> tuple[str, str]:
    name, _, subresource = resource.partition("/")
    return name, subresource


def _parts(rule: PolicyRule) -> list[PolicyRule] | None:
    """One rule for each single permission; None if there are too many."""
    names = rule.resource_names or ("",)
    resources = (rule.verbs, rule.api_groups, rule.resources, names)
    axes = (rule.verbs, rule.non_resource_urls) if rule.non_resource_urls else resources
    if math.prod(len(axis) for axis in axes) > BREAKDOWN_MAX:
        return None
    if rule.non_resource_urls:
        return [
            PolicyRule(verbs=(verb,), non_resource_urls=(url,))
            for verb, url in itertools.product(rule.verbs, rule.non_resource_urls)
        ]
    return [
        PolicyRule(verbs=(verb,), api_groups=(group,), resources=(resource,), resource_names=(name,) if name else ())
        for verb, group, resource, name in itertools.product(*resources)
    ]
