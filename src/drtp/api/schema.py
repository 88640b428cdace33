"""From a typed model to the structural schema (OpenAPI v3 as CustomResourceDefinitions take it).

The models are the one source: what Kubernetes validates, what `kubectl explain` tells and what Python decodes are the
same thing. Struct docstrings become descriptions; `msgspec.Meta` gives bounds, patterns, field descriptions, list types
and CEL rules (`extra_json_schema`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import inspect

from drtp.api.meta import ObjectMeta

Schema = dict[str, Any]
"""One node of a structural schema."""


def object_schema(model: type[msgspec.Struct]) -> Schema:
    """The schema of a whole object, `apiVersion`, `kind` and `metadata` as Kubernetes wants them."""
    schema = _node(inspect.type_info(model))
    properties = schema["properties"]
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {"type": "object"}
    required = [name for name in schema.get("required", []) if name not in {"apiVersion", "kind", "metadata"}]
    schema.pop("required", None)
    if required:
        schema["required"] = required
    return schema


def _node(kind: inspect.Type) -> Schema:  # noqa: PLR0911 - one line for each type there is
    match kind:
        case inspect.Metadata():
            return _node(kind.type) | cast("Schema", kind.extra_json_schema or {})
        case inspect.UnionType():
            return _union(kind)
        case inspect.StructType():
            return _struct(kind)
        case inspect.EnumType():
            return {"type": "string", "enum": [member.value for member in kind.cls]}
        case inspect.VarTupleType():
            return _array(kind)
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _node(kind.value_type)}
        case inspect.StrType():
            return _string(kind)
        case inspect.IntType():
            return _integer(kind)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.DateTimeType():
            return {"type": "string", "format": "date-time"}
        case _:
            raise TypeError(f"{kind} has no place in a structural schema")


def _union(kind: inspect.UnionType) -> Schema:
    members = [member for member in kind.types if not isinstance(member, inspect.NoneType)]
    if len(members) == 1:
        return _node(members[0])
    if {type(member) for member in members} == {inspect.IntType, inspect.StrType}:
        return {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    raise TypeError(f"{kind}: a structural schema has no unions")


def _struct(kind: inspect.StructType) -> Schema:
    if kind.cls is ObjectMeta:
        return {"type": "object"}
    node: Schema = {"type": "object"}
    if text := (kind.cls.__doc__ or "").strip():
        node = {"description": " ".join(text.split()), "type": "object"}
    node["properties"] = {field.encode_name: _field(field) for field in kind.fields}
    if required := [field.encode_name for field in kind.fields if field.required]:
        node["required"] = required
    return node


def _field(field: inspect.Field) -> Schema:
    node = _node(field.type)
    default: Any = field.default.value if isinstance(field.default, enum.Enum) else field.default
    # Zero, the empty string and None stand for "not said"; a default that means something is said to the API.
    if isinstance(default, bool) or (isinstance(default, (int, str)) and default):
        node["default"] = default
    return node


def _array(kind: inspect.VarTupleType) -> Schema:
    node: Schema = {"type": "array", "items": _node(kind.item_type), "x-kubernetes-list-type": "atomic"}
    return node | _present({"minItems": kind.min_length, "maxItems": kind.max_length})


def _string(kind: inspect.StrType) -> Schema:
    bounds = {"minLength": kind.min_length, "maxLength": kind.max_length, "pattern": kind.pattern}
    return {"type": "string"} | _present(bounds)


def _integer(kind: inspect.IntType) -> Schema:
    return {"type": "integer", "format": "int32"} | _present({"minimum": kind.ge, "maximum": kind.le})


def _present(bounds: Mapping[str, object]) -> Schema:
    return {name: bound for name, bound in bounds.items() if bound is not None}
