"""OpenAPI v3: what `kubectl explain` reads, and what tells kubectl that `dryRun` and `fieldValidation` are understood.

Without the `patch` operations below, kubectl asks for OpenAPI v2, which exists as protobuf only.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import msgspec

from drtp.api.jsonvalue import JsonObject, is_list, is_object
from drtp.api.kinds import KindInfo
from drtp.apiserver.discovery import served

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

_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation")
]


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
    scope = f"/{_root(info.group, version)}" + ("/namespaces/{namespace}" if info.namespaced else "")
    body = {"schema": {"$ref": f"#/components/schemas/{_schema_name(info, version)}"}}
    answer = {"200": {"description": "OK", "content": {"application/json": body}}}

    def operation(action: str, *, takes_body: bool = True) -> JsonObject:
        said: JsonObject = {
            "operationId": f"{action}{info.kind}{version}",
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": _gvk(info, version),
            "parameters": _PARAMETERS,
            "responses": answer,
        }
        return said | ({"requestBody": {"content": {"*/*": body}}} if takes_body else {})

    if info.computed:
        return {
            f"{scope}/{info.plural}": {"get": operation("list", takes_body=False)},
            f"{scope}/{info.plural}/{{name}}": {"get": operation("get", takes_body=False)},
        }
    patch = operation("patch")
    patch["requestBody"] = {
        "content": {
            kind: {"schema": {"type": "object"}}
            for kind in ("application/json-patch+json", "application/merge-patch+json")
        }
    }
    return {
        f"{scope}/{info.plural}": {"get": operation("list", takes_body=False), "post": operation("post")},
        f"{scope}/{info.plural}/{{name}}": {
            "get": operation("get", takes_body=False),
            "put": operation("put"),
            "patch": patch,
            "delete": operation("delete", takes_body=False),
        },
    }
