"""Questions about who one is and what one may: `kubectl auth whoami` and `can-i`, answered by the seam that decides."""

from __future__ import annotations

from typing import Any

import msgspec

from drtp.api.jsonvalue import JsonObject, is_list, is_object
from drtp.api.people import AUTHENTICATED, User
from drtp.api.registry import REGISTRY
from drtp.apiserver.failures import Failure
from drtp.apiserver.rbac import Rbac

_ATTRIBUTES = ("verb", "group", "resource", "subresource", "namespace", "name")


def groups_of(user: User) -> list[str]:
    """The user's groups, the one of all authenticated users among them."""
    return sorted({*user.groups, AUTHENTICATED})


def answer(plural: str, body: JsonObject, user: User, authoriser: Rbac, namespace: str = "") -> JsonObject:
    """The posted review with its status; `namespace`: where it was posted. Raises: Failure 422."""
    given: Any = body.get("spec")
    spec: JsonObject = given if is_object(given) else {}
    match plural:
        case "selfsubjectreviews":
            info: JsonObject = {"username": user.name, "groups": groups_of(user)} | (
                {"uid": user.uid} if user.uid else {}
            )
            status: JsonObject = {"userInfo": info}
        case "selfsubjectaccessreviews":
            status = _access(spec, user, authoriser)
        case "subjectaccessreviews":
            status = _access(spec, _subject(spec), authoriser)
        case "localsubjectaccessreviews":
            status = _local(spec, namespace, authoriser)
        case _:
            status = _rules(spec, user, authoriser)
    metadata = {"namespace": namespace} if namespace else {}
    return body | {"metadata": metadata, "spec": spec, "status": status}


def _subject(spec: JsonObject) -> User:
    """Whom somebody else asks about: no more than the question says. Raises: Failure 422."""
    groups: Any = spec.get("groups") or []
    if not is_list(groups) or not all(isinstance(group, str) for group in groups):
        raise Failure(422, "DRTP-1010", "spec.groups: Invalid value: must be a list of names")
    name = spec.get("user") or ""
    if not isinstance(name, str) or not (name or groups):
        raise Failure(422, "DRTP-1010", "spec.user: Required value: at least one of user or group must be given")
    return User(name, groups=tuple(groups))


def _access(spec: JsonObject, user: User, authoriser: Rbac) -> JsonObject:
    asked: Any = spec.get("resourceAttributes")
    path: Any = spec.get("nonResourceAttributes")
    if is_object(asked) == is_object(path):
        message = "spec: exactly one of resourceAttributes and nonResourceAttributes must be given"
        raise Failure(422, "DRTP-1010", message)
    if is_object(path):
        decision = authoriser.reaches(user, str(path.get("verb") or ""), str(path.get("path") or ""))
        return {"allowed": decision.allowed}
    verb, group, resource, subresource, namespace, name = (str(asked.get(one) or "") for one in _ATTRIBUTES)
    # Asked as the request itself would be: a kind of the cluster is in no namespace, a Namespace in itself.
    info = REGISTRY.resource(group, resource)
    if info is not None and not info.namespaced:
        namespace = name if info.key == "Namespace" else ""
    return {"allowed": authoriser.decide(user, verb, group, resource, subresource, namespace, name).allowed}


def _local(spec: JsonObject, namespace: str, authoriser: Rbac) -> JsonObject:
    """What somebody may do in this namespace, for whoever administers it: about nothing else, the cluster included."""
    asked: Any = spec.get("resourceAttributes")
    if not is_object(asked) or spec.get("nonResourceAttributes"):
        message = "spec.nonResourceAttributes: Invalid value: disallowed on this kind of request"
        raise Failure(422, "DRTP-1010", message)
    if asked.get("namespace") != namespace:
        message = f"spec.resourceAttributes.namespace: Invalid value: must be {namespace}, as the review's own"
        raise Failure(422, "DRTP-1010", message)
    info = REGISTRY.resource(str(asked.get("group") or ""), str(asked.get("resource") or ""))
    if info is not None and not info.namespaced and info.key != "Namespace":
        message = f"spec.resourceAttributes.resource: Invalid value: {info.plural} are in no namespace"
        raise Failure(422, "DRTP-1010", message)
    if info is not None and info.key == "Namespace" and asked.get("name") != namespace:
        message = f"spec.resourceAttributes.name: Invalid value: must be {namespace}"
        raise Failure(422, "DRTP-1010", message)
    return _access(spec, _subject(spec), authoriser)


def _rules(spec: JsonObject, user: User, authoriser: Rbac) -> JsonObject:
    rules: list[JsonObject] = [
        msgspec.to_builtins(rule)
        for rule in dict.fromkeys(authoriser.rules_for(user, str(spec.get("namespace") or "")))
    ]
    return {
        "resourceRules": [rule for rule in rules if "nonResourceURLs" not in rule],
        "nonResourceRules": [rule for rule in rules if "nonResourceURLs" in rule],
        "incomplete": False,
    }
