"""What a request asks for, read from its path and method alone, before anything is looked up."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

from drtp.api.kinds import KindInfo
from drtp.api.registry import REGISTRY
from drtp.apiserver.failures import Failure, not_served

SUBRESOURCES = frozenset({"status"})


class Target(NamedTuple):
    """One resource path: `name` "" is the collection, `namespace` "" all namespaces or a cluster-scoped kind."""

    group: str
    version: str
    plural: str
    namespace: str
    name: str
    subresource: str


def target_of(raw_path: str) -> Target | None:
    """The target of `/api/v1/…` or `/apis/<group>/<version>/…`; None for every other path."""
    parts = [unquote(part) for part in raw_path.strip("/").split("/")]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    # `/namespaces/x` is the Namespace itself, `/namespaces/x/status` its subresource; all else lies inside it.
    if rest[0] == "namespaces" and len(rest) >= 3 and (rest[2] not in SUBRESOURCES or len(rest) > 3):
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3 or any("/" in part or not part for part in rest):
        return None
    plural, name, subresource = (*rest, "", "")[:3]
    return Target(group, version, plural, namespace, name, subresource)


def kind_at(target: Target) -> KindInfo:
    """The kind served there. Raises: Failure 404, for internal kinds too."""
    info = REGISTRY.resource(target.group, target.plural)
    if info is None or info.internal or target.version not in (info.version, *info.also_versions):
        raise not_served()
    if target.namespace and not info.namespaced:
        raise not_served()
    if target.subresource and not (target.subresource == "status" and info.status_subresource):
        raise not_served()
    return info


def verb_of(method: str, target: Target, *, watching: bool) -> str:
    """Kubernetes' verb. Raises: Failure 405."""
    match method, bool(target.name):
        case (("GET" | "HEAD"), named):
            if watching:
                return "watch"
            return "get" if named else "list"
        case "POST", False:
            return "create"
        case "PUT", True:
            return "update"
        case "PATCH", True:
            return "patch"
        case "DELETE", named:
            return "delete" if named else "deletecollection"
        case _:
            raise Failure(405, "DRTP-1018", "the server does not allow this method on the requested resource")
