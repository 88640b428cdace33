"""The walk over a structural schema: prune what is unknown, fill in defaults, find every fault at once.

Works on plain JSON values and any structural schema, ours and the upstream ones alike. The order is Kubernetes':
prune, then default, then validate.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

from drtp.api import faults
from drtp.api.faults import Fault
from drtp.api.jsonvalue import is_list, is_object
from drtp.api.schema import Schema

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"

_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


def prune(value: Any, schema: Schema, path: str = "") -> list[str]:
    """Remove members that the schema does not know, in place; gives their paths."""
    dropped: list[str] = []
    if is_object(value):
        properties: Schema = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        open_end = schema.get(PRESERVE) is True or rest is True
        for name in list(value):
            node = properties.get(name, rest if is_object(rest) else None)
            if node is not None:
                dropped += prune(value[name], node, join(path, name))
            elif not open_end:
                dropped.append(join(path, name))
                del value[name]
    elif is_list(value) and "items" in schema:
        for index, item in enumerate(value):
            dropped += prune(item, schema["items"], f"{path}[{index}]")
    return dropped


def default(value: Any, schema: Schema) -> None:
    """Fill in absent members that have a default, in place. A null where none is allowed counts as absent."""
    if is_object(value):
        properties: Schema = schema.get("properties", {})
        for name, node in properties.items():
            if "default" in node and value.get(name) is None and not (name in value and node.get("nullable")):
                value[name] = copy.deepcopy(node["default"])
            if name in value:
                default(value[name], node)
        rest = schema.get("additionalProperties")
        if is_object(rest):
            for name in value.keys() - properties.keys():
                default(value[name], rest)
    elif is_list(value) and "items" in schema:
        for item in value:
            default(item, schema["items"])


def validate(value: Any, schema: Schema, path: str) -> Iterator[Fault]:
    """Every fault of `value`, types and bounds; CEL rules are `cel_rules`'."""
    if value is None and schema.get("nullable"):
        return
    wrong = _type_fault(value, schema, path)
    if wrong is not None:
        yield wrong
        return
    if is_object(value):
        yield from _members(value, schema, path)
    elif is_list(value):
        yield from _items(value, schema, path)
    elif isinstance(value, str):
        yield from _string(value, schema, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number(value, schema, path)
    if "enum" in schema and value not in schema["enum"]:
        yield faults.unsupported(path, value, schema["enum"])
    yield from _combined(value, schema, path)


def join(path: str, name: str) -> str:
    """The path of a member."""
    return f"{path}.{name}" if path else name


def _type_fault(value: Any, schema: Schema, path: str) -> Fault | None:
    if schema.get(INT_OR_STRING):
        fits = isinstance(value, (int, str)) and not isinstance(value, bool)
        return None if fits else faults.wrong_type(path, value, "integer,string")
    match schema.get("type"):
        case "object":
            fits = is_object(value)
        case "array":
            fits = is_list(value)
        case "string":
            fits = isinstance(value, str)
        case "boolean":
            fits = isinstance(value, bool)
        case "integer":
            fits = (isinstance(value, int) and not isinstance(value, bool)) or (
                isinstance(value, float) and value.is_integer()
            )
        case "number":
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        case _:
            fits = True
    return None if fits else faults.wrong_type(path, value, schema["type"])


def _members(value: dict[str, Any], schema: Schema, path: str) -> Iterator[Fault]:
    for name in schema.get("required", ()):
        if name not in value:
            yield faults.required(join(path, name))
    if len(value) > schema.get("maxProperties", math.inf):
        yield faults.too_many(path, len(value), schema["maxProperties"])
    if len(value) < schema.get("minProperties", 0):
        yield faults.invalid(path, value, f"{path} in body should have at least {schema['minProperties']} properties")
    properties: Schema = schema.get("properties", {})
    rest = schema.get("additionalProperties")
    for name, member in value.items():
        node = properties.get(name, rest if is_object(rest) else None)
        if node is not None:
            yield from validate(member, node, join(path, name))


def _items(value: list[Any], schema: Schema, path: str) -> Iterator[Fault]:
    if len(value) > schema.get("maxItems", math.inf):
        yield faults.too_many(path, len(value), schema["maxItems"])
        return
    if len(value) < schema.get("minItems", 0):
        yield faults.invalid(path, len(value), f"{path} in body should have at least {schema['minItems']} items")
    if "items" in schema:
        for index, item in enumerate(value):
            yield from validate(item, schema["items"], f"{path}[{index}]")
    yield from _duplicates(value, schema, path)


def _duplicates(value: list[Any], schema: Schema, path: str) -> Iterator[Fault]:
    match schema.get("x-kubernetes-list-type"):
        case "set":
            identities = list(value)
        case "map":
            names = schema["x-kubernetes-list-map-keys"]
            identities = [
                {name: item[name] for name in names if name in item} if is_object(item) else item for item in value
            ]
        case _:
            return
    seen: set[str] = set()
    for index, identity in enumerate(identities):
        if (mark := repr(identity)) in seen:
            yield faults.duplicate(f"{path}[{index}]", identity)
        seen.add(mark)


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    # Kubernetes' `$` is the end of the text (RE2); Python's also matches before a last line feed.
    return re.compile(text.removesuffix("$") + r"\Z" if text.endswith("$") and not text.endswith(r"\$") else text)


def _string(value: str, schema: Schema, path: str) -> Iterator[Fault]:
    if len(value) > schema.get("maxLength", math.inf):
        yield faults.too_long(path, schema["maxLength"])
        return  # a pattern over an unbounded text is work for nothing
    if len(value) < schema.get("minLength", 0):
        yield faults.invalid(path, value, f"{path} in body should be at least {schema['minLength']} chars long")
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield faults.invalid(path, value, f"{path} in body should match '{schema['pattern']}'")
    if schema.get("format") == "date-time" and not _is_time(value):
        yield faults.invalid(path, value, f"{path} in body must be of type date-time: {faults.shown(value)}")


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _number(value: float, schema: Schema, path: str) -> Iterator[Fault]:
    low, high = _RANGES.get(schema.get("format", ""), (-math.inf, math.inf))
    if not low <= value <= high:
        yield faults.invalid(path, value, f"{path} in body must be of type {schema['format']}")
    if value < schema.get("minimum", -math.inf):
        yield faults.invalid(path, value, f"{path} in body should be greater than or equal to {schema['minimum']}")
    if value > schema.get("maximum", math.inf):
        yield faults.invalid(path, value, f"{path} in body should be less than or equal to {schema['maximum']}")


def _combined(value: Any, schema: Schema, path: str) -> Iterator[Fault]:
    for node in schema.get("allOf", ()):
        yield from validate(value, node, path)
    if "anyOf" in schema and all(any(validate(value, node, path)) for node in schema["anyOf"]):
        yield faults.invalid(path, value, f"{path} in body must validate at least one schema (anyOf)")
    if "oneOf" in schema and sum(not any(validate(value, node, path)) for node in schema["oneOf"]) != 1:
        yield faults.invalid(path, value, f"{path} in body must validate one and only one schema (oneOf)")
    if "not" in schema and not any(validate(value, schema["not"], path)):
        yield faults.invalid(path, value, f"{path} in body must not validate the schema (not)")
