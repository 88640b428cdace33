"""What is wrong with an object, in the words and reasons of the Kubernetes API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from drtp.api.jsonvalue import is_list, is_object
from drtp.kit import errors


class Fault(NamedTuple):
    """One fault: where, the machine-readable reason, and the sentence."""

    path: str
    reason: str
    message: str

    def __str__(self) -> str:
        """`path: message`, as kubectl shows it."""
        return f"{self.path}: {self.message}" if self.path else self.message


class Rejected(errors.Invalid):
    """An object that cannot be taken, with everything that is wrong with it."""

    def __init__(self, kind_key: str, name: str, faults: Sequence[Fault]) -> None:
        said = [str(fault) for fault in faults]
        listed = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
        super().__init__("DRTP-1010", f'{kind_key} "{name}" is invalid: {listed}', faults=tuple(said))
        self.kind_key = kind_key
        self.name = name
        self.causes = tuple(faults)


def shown(value: Any) -> str:
    """A value as Kubernetes quotes it in messages; objects and lists by their type only."""
    if is_object(value):
        return '"object"'
    if is_list(value):
        return '"array"'
    return json.dumps(value, ensure_ascii=False)


def invalid(path: str, value: Any, detail: str) -> Fault:
    """The value is wrong."""
    return Fault(path, "FieldValueInvalid", f"Invalid value: {shown(value)}: {detail}")


def required(path: str, detail: str = "") -> Fault:
    """The value is missing."""
    return Fault(path, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def unsupported(path: str, value: Any, supported: Iterable[Any]) -> Fault:
    """The value is not one of a closed list."""
    listed = ", ".join(shown(item) for item in supported)
    return Fault(path, "FieldValueNotSupported", f"Unsupported value: {shown(value)}: supported values: {listed}")


def duplicate(path: str, value: Any) -> Fault:
    """The value is in the list twice."""
    return Fault(path, "FieldValueDuplicate", f"Duplicate value: {json.dumps(value, ensure_ascii=False)}")


def too_long(path: str, limit: int) -> Fault:
    """A string beyond its bound."""
    return Fault(path, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def too_many(path: str, count: int, limit: int) -> Fault:
    """A list beyond its bound."""
    return Fault(path, "FieldValueTooMany", f"Too many: {count}: must have at most {limit} items")


def wrong_type(path: str, value: Any, wanted: str) -> Fault:
    """The value is of another JSON type."""
    found = _json_type(value)
    return Fault(
        path, "FieldValueTypeInvalid", f'Invalid value: "{found}": {path} in body must be of type {wanted}: "{found}"'
    )


def _json_type(value: Any) -> str:
    if is_object(value):
        return "object"
    if is_list(value):
        return "array"
    names: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "null")
