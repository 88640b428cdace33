"""The patches that Kubernetes takes: JSON merge patch, JSON patch, and strategic merge patch for its own kinds."""

from __future__ import annotations

import copy
from typing import Any

from drtp.api.jsonvalue import JsonObject, is_list, is_object
from drtp.apiserver.failures import Failure

OPERATIONS_MAX = 10_000
"""Kubernetes' own bound on the operations of a JSON patch."""

MERGE_KEYS = {
    "ports": ("port", "containerPort"),
    "ownerReferences": ("uid",),
    "conditions": ("type",),
    "endpoints": (),
}
"""Lists of our core kinds that merge by a member; an empty tuple replaces as a whole."""

PRIMITIVE_SETS = frozenset({"finalizers"})
"""Lists of plain values that merge as sets."""


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not is_object(patch):
        return patch
    merged: JsonObject = dict(target) if is_object(target) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


# ---- JSON patch ----------------------------------------------------------------------------------------------------


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902, but `replace` of a missing member succeeds, as on Kubernetes. Raises: Failure."""
    if not is_list(operations) or len(operations) > OPERATIONS_MAX:
        raise Failure(400, "DRTP-1014", "a JSON patch is a list of operations, of bounded length")
    result = copy.deepcopy(target)
    for operation in operations:
        if not is_object(operation) or not isinstance(operation.get("path"), str):
            raise Failure(400, "DRTP-1014", "each operation of a JSON patch has `op` and `path`")
        result = _operate(result, operation)
    return result


def _operate(target: Any, operation: JsonObject) -> Any:
    path = _pointer(operation["path"])
    match operation.get("op"):
        case "add":
            return _put(target, path, copy.deepcopy(operation.get("value")), insert=True)
        case "replace":
            return _put(target, path, copy.deepcopy(operation.get("value")), insert=False)
        case "remove":
            return _remove(target, path)
        case "test":
            if _get(target, path) != operation.get("value"):
                raise Failure(422, "DRTP-1010", f"testing path {operation['path']} failed: value differs")
            return target
        case "copy":
            return _put(target, path, copy.deepcopy(_get(target, _from(operation))), insert=True)
        case "move":
            source = _from(operation)
            moved = _get(target, source)
            return _put(_remove(target, source), path, moved, insert=True)
        case other:
            raise Failure(400, "DRTP-1014", f"unknown JSON patch operation {other!r}")


def _from(operation: JsonObject) -> list[str]:
    source = operation.get("from")
    if not isinstance(source, str):
        raise Failure(400, "DRTP-1014", "copy and move need `from`")
    return _pointer(source)


def _pointer(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise Failure(400, "DRTP-1014", f"{path!r} is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _missing(path: list[str]) -> Failure:
    return Failure(422, "DRTP-1010", f"the path /{'/'.join(path)} of the JSON patch does not exist")


def _index(items: list[Any], part: str, path: list[str], *, end: bool) -> int:
    if part == "-" and end:
        return len(items)
    if not part.isascii() or not part.isdigit() or int(part) > len(items) - (0 if end else 1):
        raise _missing(path)
    return int(part)


def _get(target: Any, path: list[str]) -> Any:
    for part in path:
        if is_object(target) and part in target:
            target = target[part]
        elif is_list(target):
            target = target[_index(target, part, path, end=False)]
        else:
            raise _missing(path)
    return target


def _put(target: Any, path: list[str], value: Any, *, insert: bool) -> Any:
    if not path:
        return value
    holder = _get(target, path[:-1])
    if is_object(holder):
        holder[path[-1]] = value
    elif is_list(holder):
        index = _index(holder, path[-1], path, end=insert)
        holder[index : index if insert else index + 1] = [value]
    else:
        raise _missing(path)
    return target


def _remove(target: Any, path: list[str]) -> Any:
    holder = _get(target, path[:-1]) if path else None
    if is_object(holder) and path[-1] in holder:
        del holder[path[-1]]
    elif is_list(holder):
        del holder[_index(holder, path[-1], path, end=False)]
    else:
        raise _missing(path)
    return target


# ---- strategic merge -----------------------------------------------------------------------------------------------


def strategic_merge(target: Any, patch: Any, field: str = "") -> Any:
    """Strategic merge patch, as far as our core kinds have lists that merge. Raises: Failure."""
    if is_object(patch):
        return _merged_object(target, patch)
    if is_list(patch):
        return _merged_list(target if is_list(target) else [], patch, field)
    return patch


def _merged_object(target: Any, patch: JsonObject) -> Any:
    match patch.get("$patch"):
        case None | "merge":
            merged: JsonObject = dict(target) if is_object(target) else {}
        case "replace":
            return {name: value for name, value in patch.items() if name != "$patch"}
        case "delete":
            return {}
        case other:
            raise Failure(400, "DRTP-1014", f"unknown strategic merge directive $patch: {other}")
    kept = patch.get("$retainKeys")
    if is_list(kept):
        merged = {name: value for name, value in merged.items() if name in kept}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.partition("/")[2]
            present = merged.get(field)
            if is_list(present) and is_list(value):
                merged[field] = [item for item in present if item not in value]
        elif name.startswith("$"):
            continue  # orders of lists are for people's eyes; nothing of ours depends on them
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = strategic_merge(merged.get(name), value, name)
    return merged


def _merged_list(target: list[Any], patch: list[Any], field: str) -> list[Any]:
    if field in PRIMITIVE_SETS:
        return [*target, *(item for item in patch if item not in target)]
    keys = MERGE_KEYS.get(field, ())
    items = [item for item in patch if is_object(item)]
    key = next((key for key in keys if any(key in item for item in items)), None)
    if key is None or any(item.get("$patch") == "replace" for item in items):
        return [item for item in patch if not (is_object(item) and "$patch" in item)]
    merged = list(target)
    for item in items:
        at = next((i for i, old in enumerate(merged) if is_object(old) and old.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del merged[at]
        elif at is None:
            merged.append(item)
        else:
            merged[at] = strategic_merge(merged[at], item)
    return merged
