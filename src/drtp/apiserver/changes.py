"""Which writes of people go into the audit log: who gets power, who gets in, what is taken down; never contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drtp.api import drtp, gatewayapi, rbac
from drtp.api.core import ORGANIZATION_LABEL
from drtp.api.jsonvalue import JsonObject, is_object
from drtp.apiserver.calls import Call
from drtp.issuers.audit import AuditLog
from drtp.store.protocol import Stored

_TOLD_MAX = 8
"""Subjects of a binding that a line names."""


class Changes:
    """Writes what happened, once it is stored."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def tell(self, call: Call, new: Stored, old: JsonObject | None) -> None:
        """`call` has stored `new`, or removed it; `old` is what was there."""
        if call.target.subresource:
            return
        judge = _JUDGES.get(call.info.key)
        if judge is None:
            return
        removed = call.verb in {"delete", "deletecollection"}
        event, facts = judge({} if removed else new.object, old or {})
        if not event:
            return
        namespace = new.key.name if call.info.key == "Namespace" else new.key.namespace
        self._audit.write(
            event,
            project=namespace,
            also=_others(call, new.object, old or {}),
            object=f"{call.info.kind} {new.key.name}",
            by=call.user.name,
            remote=call.request.remote or "",
            decision="allowed",
            **facts,
        )

    def refused(self, call: Call, why: str) -> None:
        """A grant was not let through."""
        if call.info.group == rbac.GROUP or call.info.key == "Namespace":
            self._audit.write_paced(
                "grant refused",
                project=call.target.namespace,
                object=f"{call.info.kind} {call.target.name}".rstrip(),
                by=call.user.name,
                remote=call.request.remote or "",
                decision="refused",
                reason=why,
            )


_Judged = tuple[str, dict[str, str]]
_NOTHING: _Judged = ("", {})


def _role(new: JsonObject, old: JsonObject) -> _Judged:
    if new.get("rules") == old.get("rules") and new.get("aggregationRule") == old.get("aggregationRule") and new:
        return _NOTHING
    return _happened("role", new, old), {}


def _binding(new: JsonObject, old: JsonObject) -> _Judged:
    if new.get("subjects") == old.get("subjects") and new:
        return _NOTHING
    role = _member(new or old, "roleRef")
    facts = {"role": f"{role.get('kind', '')} {role.get('name', '')}", "to": _subjects(new or old)}
    return ("role revoked" if not new else "role granted" if not old else "grant changed"), facts


def _subjects(binding: JsonObject) -> str:
    subjects: list[JsonObject] = binding.get("subjects") or []
    told = [f"{one.get('kind', '')} {one.get('name', '')}" for one in subjects[:_TOLD_MAX]]
    return ", ".join(told) + (f" and {len(subjects) - _TOLD_MAX} more" if len(subjects) > _TOLD_MAX else "")


def _service(new: JsonObject, old: JsonObject) -> _Judged:
    before, after = _member(old, "spec"), _member(new, "spec")
    if not new:
        return ("service deleted", {}) if before.get("edgeAllowlist") is not None else _NOTHING
    if before.get("enabled", True) != after.get("enabled", True):
        return ("service enabled" if after.get("enabled", True) else "service disabled"), {}
    if before.get("edgeAllowlist") != after.get("edgeAllowlist"):
        allowed: Any = after.get("edgeAllowlist")
        return "access changed", {"allowlist": "anyone" if allowed is None else f"{len(allowed)} networks"}
    return _NOTHING


def _policy(new: JsonObject, old: JsonObject) -> _Judged:
    return (_happened("access policy", new, old), {}) if new.get("spec") != old.get("spec") or not new else _NOTHING


def _reference_grant(new: JsonObject, old: JsonObject) -> _Judged:
    return (_happened("reference grant", new, old), {}) if new.get("spec") != old.get("spec") or not new else _NOTHING


def _publication(new: JsonObject, old: JsonObject) -> _Judged:
    return (_happened("publication", new, old), {}) if new.get("spec") != old.get("spec") or not new else _NOTHING


def _subscription(new: JsonObject, old: JsonObject) -> _Judged:
    if new and old and new.get("spec") == old.get("spec"):
        return _NOTHING
    reference = _member(_member(new or old, "spec"), "publicationRef")
    asked = {"publication": f"{reference.get('namespace', '')}/{reference.get('name', '')}"}
    return _happened("subscription", new, old), asked


def _approval(new: JsonObject, old: JsonObject) -> _Judged:
    """The publisher's word on a subscription; who gave it is told to the publisher's side alone."""
    before, after = _member(old, "spec"), _member(new, "spec")
    if new and before == after:
        return _NOTHING
    subscriber = _member(after or before, "subscriber")
    facts = {
        "publication": str(_member(after or before, "publicationRef").get("name", "")),
        "subscription": f"{subscriber.get('namespace', '')}/{subscriber.get('name', '')}",
        "said": str(after.get("decision", "")),
        "reason": str(after.get("reason") or ""),
    }
    decided = bool(new) and before.get("decision", "Pending") != after.get("decision", "Pending")
    return ("subscription decided on" if decided else _happened("approval", new, old)), facts


def _namespace(new: JsonObject, old: JsonObject) -> _Judged:
    if new and old and _organization(new) == _organization(old):
        return _NOTHING
    return _happened("project", new, old), {"organization": _organization(new or old)}


def _server(new: JsonObject, old: JsonObject) -> _Judged:
    before, after = _member(old, "spec"), _member(new, "spec")
    if not new:
        return "tunnel server deleted", {}
    if before.get("unschedulable", False) == after.get("unschedulable", False):
        return _NOTHING
    return ("tunnel server drained" if after.get("unschedulable") else "tunnel server taken back"), {}


def _happened(what: str, new: JsonObject, old: JsonObject) -> str:
    return f"{what} {'deleted' if not new else 'created' if not old else 'changed'}"


def _organization(namespace: JsonObject) -> str:
    return str(_member(_member(namespace, "metadata"), "labels").get(ORGANIZATION_LABEL) or "")


def _member(obj: JsonObject, name: str) -> JsonObject:
    """An object inside an object, empty where there is none."""
    held: Any = obj.get(name)
    return held if is_object(held) else {}


def _others(call: Call, new: JsonObject, old: JsonObject) -> tuple[str, ...]:
    """Other projects that a reference grant lets in, or did."""
    if call.info.key != f"ReferenceGrant.{gatewayapi.GROUP}":
        return ()
    said: list[JsonObject] = [one for obj in (new, old) for one in _member(obj, "spec").get("from") or ()]
    return tuple(dict.fromkeys(str(one["namespace"]) for one in said if one.get("namespace")))


_JUDGES: dict[str, Callable[[JsonObject, JsonObject], _Judged]] = {
    f"Role.{rbac.GROUP}": _role,
    f"ClusterRole.{rbac.GROUP}": _role,
    f"RoleBinding.{rbac.GROUP}": _binding,
    f"ClusterRoleBinding.{rbac.GROUP}": _binding,
    f"DRTPService.{drtp.GROUP}": _service,
    f"DRTPAccessPolicy.{drtp.GROUP}": _policy,
    f"DRTPServer.{drtp.GROUP}": _server,
    f"DRTPPublication.{drtp.GROUP}": _publication,
    f"DRTPSubscription.{drtp.GROUP}": _subscription,
    f"DRTPApproval.{drtp.GROUP}": _approval,
    f"ReferenceGrant.{gatewayapi.GROUP}": _reference_grant,
    "Namespace": _namespace,
}
