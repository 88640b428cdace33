"""Who may do what: Kubernetes' roles and the bindings that give them to people (`rbac.authorization.k8s.io/v1`).

Typed as Kubernetes types them, with the rules that its API holds them to; `drtp.rules.permissions` evaluates them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from drtp.api import faults
from drtp.api.faults import Fault
from drtp.api.gatewayapi import LabelSelector
from drtp.api.jsonvalue import is_list, is_object
from drtp.api.kinds import AGE, KindInfo, PrinterColumn
from drtp.api.meta import Model, ObjectMeta

GROUP = "rbac.authorization.k8s.io"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"


class PolicyRule(Model, frozen=True, kw_only=True):
    """What may be done: verbs on resources, of these names only if there are any; or verbs on paths. `*` is all."""

    verbs: tuple[str, ...] = ()
    api_groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = msgspec.field(name="nonResourceURLs", default=())


class AggregationRule(Model, frozen=True, kw_only=True):
    """A cluster role that is the sum of the cluster roles whose labels match any of these."""

    cluster_role_selectors: tuple[LabelSelector, ...] = ()


class Subject(Model, frozen=True, kw_only=True):
    """Whom a binding gives its role to. `kind` is User, Group or ServiceAccount; only the last has a namespace."""

    kind: str
    name: str
    api_group: str = ""
    namespace: str = ""


class RoleRef(Model, frozen=True, kw_only=True):
    """The role that a binding gives. It never changes: whoever may edit the subjects could otherwise swap the role."""

    api_group: str = ""
    kind: str
    name: str


class Role(Model, frozen=True, kw_only=True):
    """What may be done in one namespace."""

    api_version: str = API_VERSION
    kind: str = "Role"
    metadata: ObjectMeta
    rules: tuple[PolicyRule, ...] = ()


class ClusterRole(Model, frozen=True, kw_only=True):
    """What may be done: everywhere by a ClusterRoleBinding, in one namespace by a RoleBinding there."""

    api_version: str = API_VERSION
    kind: str = "ClusterRole"
    metadata: ObjectMeta
    rules: tuple[PolicyRule, ...] = ()
    aggregation_rule: AggregationRule | None = None


class RoleBinding(Model, frozen=True, kw_only=True):
    """Gives a role, or a cluster role, to subjects in its own namespace."""

    api_version: str = API_VERSION
    kind: str = "RoleBinding"
    metadata: ObjectMeta
    role_ref: RoleRef
    subjects: tuple[Subject, ...] = ()


class ClusterRoleBinding(Model, frozen=True, kw_only=True):
    """Gives a cluster role to subjects everywhere."""

    api_version: str = API_VERSION
    kind: str = "ClusterRoleBinding"
    metadata: ObjectMeta
    role_ref: RoleRef
    subjects: tuple[Subject, ...] = ()


_ROLE = PrinterColumn("Role", "string", ".roleRef.name")
_SUBJECTS = tuple(
    PrinterColumn(title, "string", f'.subjects[?(@.kind=="{kind}")].name', priority=1)
    for title, kind in (("Users", "User"), ("Groups", "Group"), ("ServiceAccounts", "ServiceAccount"))
)
_CREATED = PrinterColumn("Created At", "string", ".metadata.creationTimestamp")

KINDS = tuple(
    KindInfo(
        kind=model.__name__,
        group=GROUP,
        version=VERSION,
        plural=f"{model.__name__.lower()}s",
        singular=model.__name__.lower(),
        namespaced=namespaced,
        model=model,
        printer_columns=columns,
    )
    for model, namespaced, columns in (
        (Role, True, (_CREATED,)),
        (RoleBinding, True, (_ROLE, AGE, *_SUBJECTS)),
        (ClusterRole, False, (_CREATED,)),
        (ClusterRoleBinding, False, (_ROLE, AGE, *_SUBJECTS)),
    )
)

_BINDINGS = frozenset({"RoleBinding", "ClusterRoleBinding"})


def complete(obj: dict[str, Any]) -> None:
    """Fill in the one API group that a role reference, a user or a group can have, in place."""
    reference = obj.get("roleRef")
    if is_object(reference) and not reference.get("apiGroup"):
        reference["apiGroup"] = GROUP
    subjects = obj.get("subjects")
    for subject in subjects if is_list(subjects) else ():
        if is_object(subject) and subject.get("kind") in {"User", "Group"} and not subject.get("apiGroup"):
            subject["apiGroup"] = GROUP


def validate(obj: Mapping[str, Any], old: Mapping[str, Any] | None) -> Iterator[Fault]:
    """Every fault beyond the schema's, of an object whose schema holds."""
    if obj["kind"] in _BINDINGS:
        yield from _reference(obj, old)
        for index, subject in enumerate(obj.get("subjects") or ()):
            yield from _subject(subject, f"subjects[{index}]")
        return
    for index, rule in enumerate(obj.get("rules") or ()):
        yield from _rule(rule, f"rules[{index}]", namespaced=obj["kind"] == "Role")


def _rule(rule: Mapping[str, Any], path: str, *, namespaced: bool) -> Iterator[Fault]:
    if not rule.get("verbs"):
        yield faults.required(f"{path}.verbs", "verbs must contain at least one value")
    urls = rule.get("nonResourceURLs")
    if urls:
        if namespaced:
            yield faults.invalid(f"{path}.nonResourceURLs", urls, "namespaced rules cannot apply to non-resource URLs")
        if any(rule.get(name) for name in ("apiGroups", "resources", "resourceNames")):
            yield faults.invalid(
                f"{path}.nonResourceURLs", urls, "rules cannot apply to both regular resources and non-resource URLs"
            )
        return
    if not rule.get("apiGroups"):
        yield faults.required(f"{path}.apiGroups", "resource rules must supply at least one api group")
    if not rule.get("resources"):
        yield faults.required(f"{path}.resources", "resource rules must supply at least one resource")


def _reference(obj: Mapping[str, Any], old: Mapping[str, Any] | None) -> Iterator[Fault]:
    reference: Mapping[str, Any] = obj["roleRef"]
    kinds = ("ClusterRole", "Role") if obj["kind"] == "RoleBinding" else ("ClusterRole",)
    if reference.get("apiGroup") != GROUP:
        yield faults.unsupported("roleRef.apiGroup", reference.get("apiGroup"), (GROUP,))
    if reference["kind"] not in kinds:
        yield faults.unsupported("roleRef.kind", reference["kind"], kinds)
    if not reference["name"]:
        yield faults.required("roleRef.name")
    if old is not None and old.get("roleRef") != reference:
        yield faults.invalid("roleRef", reference, "cannot change roleRef")


def _subject(subject: Mapping[str, Any], path: str) -> Iterator[Fault]:
    group = subject.get("apiGroup") or ""
    if not subject["name"]:
        yield faults.required(f"{path}.name")
    match subject["kind"]:
        case "ServiceAccount":
            if group:
                yield faults.unsupported(f"{path}.apiGroup", group, ("",))
            if not subject.get("namespace"):
                yield faults.required(f"{path}.namespace")
        case "User" | "Group":
            if group != GROUP:
                yield faults.unsupported(f"{path}.apiGroup", group, (GROUP,))
            if subject.get("namespace"):
                yield faults.invalid(f"{path}.namespace", subject["namespace"], "a user or group has no namespace")
        case other:
            yield faults.unsupported(f"{path}.kind", other, ("ServiceAccount", "User", "Group"))
