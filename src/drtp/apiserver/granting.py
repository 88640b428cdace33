"""Writes that give power: roles, bindings, and the label that says whose a project is. Nobody gives what they lack."""

from __future__ import annotations

import msgspec

from drtp.api import rbac
from drtp.api.core import ORGANIZATION_LABEL
from drtp.api.jsonvalue import JsonObject
from drtp.api.rbac import ClusterRole, Role, RoleRef
from drtp.apiserver.calls import Call
from drtp.apiserver.failures import Failure
from drtp.apiserver.rbac import Rbac
from drtp.rules.permissions import EVERYTHING, ORGANIZATION_ROLES

_ROLES: dict[str, type[Role | ClusterRole]] = {"Role": Role, "ClusterRole": ClusterRole}
_BINDINGS = frozenset({"RoleBinding", "ClusterRoleBinding"})


class Granting:
    """Judges an admitted object before it is stored."""

    def __init__(self, authoriser: Rbac) -> None:
        self._authoriser = authoriser

    def judges(self, call: Call) -> bool:
        """Whether writes of this kind can give power."""
        return call.info.key == "Namespace" or call.info.group == rbac.GROUP

    def check(self, call: Call, new: JsonObject, old: JsonObject | None) -> None:
        """Whether the caller may give what `new` gives beyond `old`. Raises: Refused DRTP-1030, Failure 403."""
        if call.info.key == "Namespace":
            self._organization(call, new, old or {})
        elif call.info.group == rbac.GROUP:
            if call.info.kind in _BINDINGS:
                self._binding(call, new, old)
            else:
                self._role(call, new, old)

    def check_removal(self, call: Call, before: JsonObject) -> None:
        """Who is no owner of an organisation takes nobody's ownership away. Raises: Refused DRTP-1030."""
        if call.info.kind != "RoleBinding":
            return
        reference = msgspec.convert(before["roleRef"], RoleRef)
        if reference.name == ORGANIZATION_ROLES["owner"]:
            self._authoriser.check_role(call.user, call.target.namespace, reference)

    def _organization(self, call: Call, new: JsonObject, old: JsonObject) -> None:
        """Projects of one organisation trust each other more: only who may update `namespaces/organization` says so."""
        if _label(new) == _label(old):
            return
        name = str(new["metadata"].get("name") or "")
        if not self._authoriser.decide(call.user, "update", "", "namespaces", "organization", name, name).allowed:
            message = f'namespaces "{name}" is forbidden: the label {ORGANIZATION_LABEL} is the operator\'s to write'
            raise Failure(403, "DRTP-1012", message, details={"name": name, "kind": "namespaces"})

    def _role(self, call: Call, new: JsonObject, old: JsonObject | None) -> None:
        model = _ROLES[call.info.kind]
        role = msgspec.convert(new, model)
        if old is not None and role.rules == msgspec.convert(old, model).rules and _sum(new) == _sum(old):
            return
        if self._may(call, "escalate", call.info.plural, role.metadata.name):
            return
        self._authoriser.check_grant(call.user, call.target.namespace, role.rules)
        if _sum(new):  # a sum grows with roles that others will write
            self._authoriser.check_grant(call.user, call.target.namespace, EVERYTHING)

    def _binding(self, call: Call, new: JsonObject, old: JsonObject | None) -> None:
        if old is not None and old.get("subjects") == new.get("subjects"):
            return
        reference = msgspec.convert(new["roleRef"], RoleRef)
        if self._may(call, "bind", f"{reference.kind.lower()}s", reference.name):
            return
        readable = self._may(call, "get", f"{reference.kind.lower()}s", reference.name)
        self._authoriser.check_role(call.user, call.target.namespace, reference, tell=readable)

    def _may(self, call: Call, verb: str, plural: str, name: str) -> bool:
        namespace = call.target.namespace
        return self._authoriser.decide(call.user, verb, rbac.GROUP, plural, "", namespace, name).allowed


def _label(obj: JsonObject) -> str | None:
    metadata: JsonObject = obj.get("metadata") or {}
    labels: JsonObject = metadata.get("labels") or {}
    return labels.get(ORGANIZATION_LABEL)


def _sum(role: JsonObject) -> object:
    return role.get("aggregationRule")
