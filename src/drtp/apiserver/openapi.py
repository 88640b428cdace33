"""OpenAPI v3: what `kubectl explain` reads, and what tells kubectl that `dryRun` and `fieldValidation` are understood.

Without the `patch` operations below, kubectl asks for OpenAPI v2, which exists as protobuf only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from drtp.api import admission
from drtp.api.jsonvalue import JsonObject, is_list, is_object
from drtp.api.kinds import KindInfo
from drtp.apiserver.discovery import Review, reviews_of, served

_META: JsonObject = {
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {
        "description": "ObjectMeta is metadata that all persisted resources must have.",
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Name, unique within a namespace."},
            "generateName": {"type": "string", "description": "Prefix of a name that the server completes."},
            "namespace": {"type": "string", "description": "The project that the object belongs to."},
            "uid": {"type": "string", "description": "Identity over time; set by the server."},
            "resourceVersion": {"type": "string", "description": "Changes with every write; set by the server."},
            "generation": {
                "type": "integer",
                "format": "int64",
                "description": "Changes with every change of what is desired; set by the server.",
            },
            "creationTimestamp": {"type": "string", "format": "date-time", "description": "Set by the server."},
            "deletionTimestamp": {"type": "string", "format": "date-time", "description": "Set when deletion began."},
            "labels": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "What selectors choose by.",
            },
            "annotations": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Notes of tools.",
            },
            "finalizers": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Who must act before the object goes.",
            },
            "ownerReferences": {
                "type": "array",
                "items": {"type": "object", "additionalProperties": True},
                "description": "Objects that this one goes away with.",
            },
        },
    }
}

_STRING: JsonObject = {"type": "string", "uniqueItems": True}
_WHOLE: JsonObject = {"type": "integer", "uniqueItems": True}
_YES_OR_NO: JsonObject = {"type": "boolean", "uniqueItems": True}


def _asked(**schemas: JsonObject) -> list[JsonObject]:
    return [{"name": name, "in": "query", "schema": schema} for name, schema in schemas.items()]


_WRITING = _asked(dryRun=_STRING, fieldManager=_STRING, fieldValidation=_STRING)
_APPLYING = [*_WRITING, *_asked(force=_YES_OR_NO)]
_DELETING = _asked(dryRun=_STRING, gracePeriodSeconds=_WHOLE, propagationPolicy=_STRING)
_SELECTING = _asked(labelSelector=_STRING, fieldSelector=_STRING)
_LISTING = [
    *_SELECTING,
    *_asked(limit=_WHOLE, resourceVersion=_STRING, resourceVersionMatch=_STRING, timeoutSeconds=_WHOLE),
    *_asked(watch=_YES_OR_NO, allowWatchBookmarks=_YES_OR_NO, sendInitialEvents=_YES_OR_NO),
    {"name": "continue", "in": "query", "schema": _STRING},
]
_PATCHES = ("json-patch+json", "merge-patch+json", "apply-patch+yaml")
_STRATEGIC = "strategic-merge-patch+json"


def _root(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


@cache
def index() -> bytes:
    """`/openapi/v3`: one document for each group and version, with a hash that lets clients keep it."""
    paths: JsonObject = {}
    for group, versions in served().items():
        for version in versions:
            digest = hashlib.sha256(document(group, version)).hexdigest()[:32].upper()
            paths[_root(group, version)] = {"serverRelativeURL": f"/openapi/v3/{_root(group, version)}?hash={digest}"}
    return msgspec.json.encode({"paths": paths})


@cache
def document(group: str, version: str) -> bytes:
    """One group's document. Raises: KeyError for a group or version that is not served."""
    kinds = served()[group][version]
    schemas: JsonObject = dict(_META)
    paths: JsonObject = {}
    for info in kinds:
        schemas[_schema_name(info, version)] = _schema(info, version)
        paths |= _paths(info, version)
    paths |= dict(_review_path(review) for review in reviews_of(group, version))
    return msgspec.json.encode(
        {
            "openapi": "3.0.0",
            "info": {"title": "DRTP", "version": "v1"},
            "paths": paths,
            "components": {"schemas": schemas},
        }
    )


def _schema_name(info: KindInfo, version: str) -> str:
    prefix = ".".join(reversed(info.group.split("."))) if info.group else "io.k8s.api.core"
    return f"{prefix}.{version}.{info.kind}"


def _gvk(info: KindInfo, version: str) -> JsonObject:
    return {"group": info.group, "version": version, "kind": info.kind}


def _schema(info: KindInfo, version: str) -> JsonObject:
    schema: JsonObject = _plain(info.schema)
    properties: JsonObject = {
        "apiVersion": {"type": "string", "description": "Group and version of this representation."},
        "kind": {"type": "string", "description": "The kind of object."},
        "metadata": {
            "description": "Standard object's metadata.",
            "allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}],
        },
    }
    rest = {name: node for name, node in schema.get("properties", {}).items() if name not in properties}
    return schema | {"properties": properties | rest, "x-kubernetes-group-version-kind": [_gvk(info, version)]}


def _plain(node: Any) -> Any:
    """Without CEL rules, which clients do not run."""
    if is_object(node):
        return {name: _plain(member) for name, member in node.items() if name != "x-kubernetes-validations"}
    if is_list(node):
        return [_plain(item) for item in node]
    return node


def _paths(info: KindInfo, version: str) -> JsonObject:
    """Every path of a kind, with what may be done there."""
    root = f"/{_root(info.group, version)}"
    scope = root + ("/namespaces/{namespace}" if info.namespaced else "")
    body = {"schema": {"$ref": f"#/components/schemas/{_schema_name(info, version)}"}}
    does = _Operations(_gvk(info, version), body)
    many, one = f"{scope}/{info.plural}", f"{scope}/{info.plural}/{{name}}"
    listed = does.plain("list", _LISTING)
    if info.computed:
        return {many: _at(many, get=listed), one: _at(one, get=does.plain("get"))}
    reading, changing = does.plain("get"), {"put": does.taking("put", _WRITING), "patch": does.patch(_patches(info))}
    some = does.plain("deletecollection", [*_DELETING, *_SELECTING])
    found = {
        many: _at(many, get=listed, post=does.taking("post", _WRITING), delete=some),
        one: _at(one, get=reading, **changing, delete=does.plain("delete", _DELETING)),
    }
    if info.namespaced:
        found[f"{root}/{info.plural}"] = _at(root, get=does.plain("list", _LISTING, of="AllNamespaces"))
    if info.status_subresource:
        found[f"{one}/status"] = _at(one, get=reading, **changing)
    if info.key == "ServiceAccount":
        asked = {"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"}
        found[f"{one}/token"] = _at(one, post=_Operations(asked, {"schema": _posted_schema(asked)}).taking("post", []))
    return found


def _patches(info: KindInfo) -> Sequence[str]:
    """Strategic merge is for Kubernetes' own kinds; kubectl sends it wherever it is offered."""
    return _PATCHES if admission.prunes(info) else (*_PATCHES, _STRATEGIC)


def _review_path(review: Review) -> tuple[str, JsonObject]:
    """Where a question is posted."""
    asked = {"group": review.group, "version": review.version, "kind": review.kind}
    scope = f"/{_root(review.group, review.version)}" + ("/namespaces/{namespace}" if review.namespaced else "")
    does = _Operations(asked, {"schema": _posted_schema(asked)})
    return f"{scope}/{review.plural}", _at(scope, post=does.taking("post", []))


def _posted_schema(asked: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string", "enum": [f"{asked['group']}/{asked['version']}"]},
            "kind": {"type": "string", "enum": [asked["kind"]]},
            "spec": {"type": "object", "additionalProperties": True},
        },
    }


def _at(path: str, **operations: JsonObject) -> JsonObject:
    """A path item: its operations, and the parts of its path that the caller fills in."""
    parts = [
        {"name": name, "in": "path", "required": True, "schema": _STRING}
        for name in ("namespace", "name")
        if f"{{{name}}}" in path
    ]
    return operations | ({"parameters": parts} if parts else {})


class _Operations:
    """What may be done with one kind; `body` is the kind's own schema."""

    def __init__(self, gvk: JsonObject, body: JsonObject) -> None:
        self._gvk = gvk
        self._body = body

    def plain(self, action: str, parameters: Sequence[JsonObject] = (), of: str = "") -> JsonObject:
        """An operation without a body."""
        return {
            "operationId": f"{action}{self._gvk['kind']}{self._gvk['version']}{of}",
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self._gvk,
            "parameters": list(parameters),
            "responses": {"200": {"description": "OK", "content": {"application/json": self._body}}},
        }

    def taking(self, action: str, parameters: Sequence[JsonObject]) -> JsonObject:
        """An operation that is sent the kind itself."""
        return self.plain(action, parameters) | {"requestBody": {"content": {"*/*": self._body}}}

    def patch(self, kinds: Sequence[str]) -> JsonObject:
        """What tells kubectl that `dryRun` and `fieldValidation` are understood, and what its `apply` may send."""
        content: JsonObject = {f"application/{kind}": {"schema": {"type": "object"}} for kind in kinds}
        content["application/json-patch+json"] = {"schema": {"type": "array", "items": {"type": "object"}}}
        return self.plain("patch", _APPLYING) | {"requestBody": {"content": content}}
