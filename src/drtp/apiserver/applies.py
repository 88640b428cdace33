"""Server-side apply: each applier owns the fields it said last time, and what it no longer says goes away.

Ownership is kept in `metadata.managedFields` (FieldsV1), as Kubernetes does. Only appliers own fields here: a plain
update changes values without taking them over, so the next apply sets them again instead of reporting a conflict.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from drtp.api.jsonvalue import JsonObject, is_list, is_object
from drtp.api.schema import Schema
from drtp.apiserver.failures import Failure, bad_request

Path = tuple[str, ...]
"""Steps as FieldsV1 writes them: `f:<member>`, `k:<keys of an item>`, `v:<value in a set>`, `.` for the item itself."""

METADATA: Schema = {
    "properties": {
        "finalizers": {"x-kubernetes-list-type": "set"},
        "ownerReferences": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"], "items": {}},
    }
}

_NOT_OWNED = frozenset(
    ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "generateName")
)


class Applier(NamedTuple):
    """Who applies: `manager` names the tool, `force` takes fields over from others."""

    manager: str
    force: bool
    subresource: str
    api_version: str
    now: datetime


def applied(live: JsonObject, said: JsonObject, schema: Schema, applier: Applier) -> JsonObject:
    """`live` after `said` has been applied; `live` is {} where nothing exists yet.

    Raises: Failure 409 with every field that another applier owns and that would change.
    """
    schema = schema | {"properties": schema.get("properties", {}) | {"metadata": METADATA}}
    tree = _owned_part(said, schema)
    metadata: JsonObject = live.get("metadata") or {}
    entries: list[JsonObject] = metadata.get("managedFields") or []
    mine = next((entry for entry in entries if _is_mine(entry, applier)), None)
    others = [entry for entry in entries if entry is not mine]
    wanted = set(_paths(tree))
    others = _settle(live, said, wanted, others, applier)
    held = {path for entry in others for path in _paths(entry.get("fieldsV1") or {})}
    result = copy.deepcopy(live)
    before = set(_paths(mine.get("fieldsV1") or {})) if mine else set[Path]()
    for path in sorted(before - wanted - held, key=lambda path: (-len(path), path)):
        _remove(result, path)
    result = _merged(result, said, schema)
    entry = mine if mine and before == wanted else _entry(tree, applier)
    result.setdefault("metadata", {})["managedFields"] = [*others, entry]
    return result


def _is_mine(entry: JsonObject, applier: Applier) -> bool:
    wanted = (applier.manager, "Apply", applier.subresource)
    return (entry.get("manager"), entry.get("operation"), entry.get("subresource", "")) == wanted


def _entry(tree: JsonObject, applier: Applier) -> JsonObject:
    entry: JsonObject = {
        "manager": applier.manager,
        "operation": "Apply",
        "apiVersion": applier.api_version,
        "time": applier.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "fieldsType": "FieldsV1",
        "fieldsV1": tree,
    }
    return entry | ({"subresource": applier.subresource} if applier.subresource else {})


def _settle(
    live: JsonObject, said: JsonObject, wanted: set[Path], others: list[JsonObject], applier: Applier
) -> list[JsonObject]:
    """The other appliers' entries, without what is taken over. Raises: Failure 409."""
    causes: list[JsonObject] = []
    settled: list[JsonObject] = []
    for entry in others:
        theirs = set(_paths(entry.get("fieldsV1") or {}))
        taken = {path for path in theirs & wanted if _changes(_at(live, path), _at(said, path))}
        causes += [
            {
                "reason": "FieldManagerConflict",
                "message": f'conflict with "{entry.get("manager")}"',
                "field": _dotted(path),
            }
            for path in sorted(taken)
        ]
        kept = theirs - taken
        if kept:
            settled.append(entry if not taken else entry | {"fieldsV1": _tree(kept)})
    if causes and not applier.force:
        noun = "conflict" if len(causes) == 1 else "conflicts"
        listed = ", ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
        message = f"Apply failed with {len(causes)} {noun}: {listed}"
        raise Failure(409, "DRTP-1003", message, details={"causes": causes})
    return settled


def _changes(live: Any, said: Any) -> bool:
    """An empty object asks for an object to be there, and for nothing in it."""
    return live != said and not (said == {} and is_object(live))


# ---- fields as trees and paths -------------------------------------------------------------------------------------


def _owned_part(said: JsonObject, schema: Schema) -> JsonObject:
    whole: JsonObject = said.get("metadata") or {}
    metadata = {name: value for name, value in whole.items() if name not in _NOT_OWNED}
    part = {name: value for name, value in said.items() if name not in {"apiVersion", "kind", "metadata"}}
    return _fields(part | ({"metadata": metadata} if metadata else {}), schema)


def _fields(value: Any, schema: Schema) -> JsonObject:
    if is_object(value) and schema.get("x-kubernetes-map-type") != "atomic":
        return {f"f:{name}": _fields(member, _child(schema, name)) for name, member in value.items()}
    if is_list(value):
        match schema.get("x-kubernetes-list-type"):
            case "set":
                return {_value_step(item): {} for item in value}
            case "map":
                items: Schema = schema.get("items", {})
                return {_key_step(item, schema): {".": {}} | _fields(item, items) for item in value if is_object(item)}
            case _:
                return {}
    return {}


def _child(schema: Schema, name: str) -> Schema:
    rest = schema.get("additionalProperties")
    node: Schema = schema.get("properties", {}).get(name, rest if is_object(rest) else {})
    return node


def _value_step(value: Any) -> str:
    return f"v:{msgspec.json.encode(value).decode()}"


def _key_step(item: JsonObject, schema: Schema) -> str:
    keys = {name: item[name] for name in sorted(schema["x-kubernetes-list-map-keys"]) if name in item}
    return f"k:{msgspec.json.encode(keys).decode()}"


def _paths(tree: JsonObject, above: Path = ()) -> Iterator[Path]:
    for step, below in tree.items():
        if below:
            yield from _paths(below, (*above, step))
        else:
            yield (*above, step)


def _tree(paths: set[Path]) -> JsonObject:
    tree: JsonObject = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
    return tree


def _dotted(path: Path) -> str:
    said = ""
    for step in path:
        kind, _, name = step.partition(":")
        said += f".{name}" if kind == "f" else f"[{name}]" if name else ""
    return said


# ---- values at paths -----------------------------------------------------------------------------------------------


def _find(value: Any, step: str) -> Any:
    """The member or item that a step names; None where there is none."""
    kind, _, name = step.partition(":")
    if kind == "f":
        return value.get(name) if is_object(value) else None
    if step == ".":
        return True if value is not None else None
    if not is_list(value):
        return None
    wanted: Any = msgspec.json.decode(name)
    if kind == "v":
        return wanted if wanted in value else None
    return next((item for item in value if is_object(item) and wanted.items() <= item.items()), None)


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = _find(value, step)
    return value


def _remove(value: Any, path: Path) -> None:
    """Take away what `path` names, and whatever is left empty by that."""
    step, rest = path[0], path[1:]
    if rest and rest != (".",):
        below = _find(value, step)
        if below is None:
            return
        _remove(below, rest)
        if below not in ({}, []):
            return
    if step.startswith("f:") and is_object(value):
        value.pop(step[2:], None)
    elif is_list(value):
        gone = _find(value, step)
        if gone is not None:
            value.remove(gone)


def _merged(live: Any, said: Any, schema: Schema) -> Any:
    if is_object(said) and is_object(live) and schema.get("x-kubernetes-map-type") != "atomic":
        members = {name: _merged(live.get(name), member, _child(schema, name)) for name, member in said.items()}
        return live | members
    if is_list(said) and is_list(live):
        match schema.get("x-kubernetes-list-type"):
            case "set":
                return [*live, *(item for item in said if item not in live)]
            case "map":
                return _merged_items(live, said, schema)
            case _:
                return said
    return said


def _merged_items(live: list[Any], said: list[Any], schema: Schema) -> list[Any]:
    result = list(live)
    for item in said:
        found = _find(result, _key_step(item, schema)) if is_object(item) else None
        if found is None:
            result.append(item)
        else:
            result[result.index(found)] = _merged(found, item, schema.get("items", {}))
    return result


def applier_of(manager: str, *, force: bool, subresource: str, api_version: str, now: datetime) -> Applier:
    """Raises: Failure 400 without a name, or with one that is too long."""
    if not manager or len(manager) > 128 or not manager.isprintable():
        raise bad_request(
            "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch"
        )
    return Applier(manager, force, subresource, api_version, now)
