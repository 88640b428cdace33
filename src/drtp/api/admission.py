"""Whether an object may be stored, and in which form: the one gate for every writer, the API's and our own.

Pure: nothing is looked up. Kubernetes runs the same checks from our CustomResourceDefinitions.
"""

from __future__ import annotations

import base64
import binascii
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drtp.api import cel_rules, faults, object_meta, quotas, rbac, structural
from drtp.api.faults import Fault, Rejected
from drtp.api.jsonvalue import is_list, is_object
from drtp.api.kinds import KindInfo

LABEL_NAMES = frozenset({"Namespace", "Service"})
"""Core kinds whose names become one DNS label."""

_ROOT = ("apiVersion", "kind", "metadata")


def admit(
    info: KindInfo, obj: Mapping[str, Any], old: Mapping[str, Any] | None = None, unknown: Sequence[str] = ()
) -> dict[str, Any]:
    """`obj` in the form to store: pruned, defaulted, and without fault.

    `old` is the object as stored, for an update; status is judged only if it changes. `unknown`: paths of members that
    its writer would not have dropped in silence; they are listed among the faults, if there are others. Gives a copy.
    Raises: Rejected, with every fault at once.
    """
    admitted = copy.deepcopy(dict(obj))
    tidy(info, admitted)
    structural.default(admitted, info.schema)
    if found := list(_faults(info, admitted, old)):
        found += [Fault(path, "FieldValueForbidden", "Forbidden: unknown field") for path in unknown]
        metadata: dict[str, Any] = admitted.get("metadata") or {}
        raise Rejected(info.key, str(metadata.get("name") or metadata.get("generateName") or ""), found)
    return admitted


def tidy(info: KindInfo, obj: dict[str, Any]) -> list[str]:
    """Drop what the kind does not know, in place; gives the paths. Kubernetes' own kinds keep all they came with."""
    metadata = obj.get("metadata")
    if is_object(metadata):
        object_meta.tidy(metadata)
    if info.kind == "Secret" and not info.group:
        _fold_string_data(obj)
    if info.group == rbac.GROUP:
        rbac.complete(obj)
    if not prunes(info):
        _drop_nulls(obj)
        return []
    schema = {name: node for name, node in info.schema["properties"].items() if name not in _ROOT}
    kept = {name: obj.pop(name) for name in _ROOT if name in obj}
    dropped = structural.prune(obj, info.schema | {"properties": schema})
    rest = dict(obj)
    obj.clear()
    obj.update(kept | rest)
    return dropped


def _drop_nulls(value: Any) -> None:
    """Typed clients send null for what they leave out; Kubernetes' own kinds read it so."""
    if is_object(value):
        for name in [name for name, member in value.items() if member is None]:
            del value[name]
        for member in value.values():
            _drop_nulls(member)
    elif is_list(value):
        for item in value:
            _drop_nulls(item)


def prunes(info: KindInfo) -> bool:
    """Whether unknown members are dropped: for kinds that are CustomResourceDefinitions on Kubernetes."""
    return ("." in info.group and not info.group.endswith("k8s.io")) or info.load_schema is not None


def _faults(info: KindInfo, obj: dict[str, Any], old: Mapping[str, Any] | None) -> Iterator[Fault]:
    if obj.get("kind") != info.kind:
        yield faults.invalid("kind", obj.get("kind"), f"must be {info.kind}")
    if obj.get("apiVersion") != info.api_version:
        yield faults.invalid("apiVersion", obj.get("apiVersion"), f"must be {info.api_version}")
    metadata = obj.get("metadata")
    if not is_object(metadata):
        yield faults.required("metadata")
        return
    if not metadata.get("name") and not metadata.get("generateName"):
        yield faults.required("metadata.name", "name or generateName is required")
        return
    yield from object_meta.validate(metadata, _naming(info))
    yield from _body(info, obj, old)
    if info.kind == "Secret" and not info.group:
        yield from _secret(obj, old)
    if info.kind == "ResourceQuota" and not info.group and is_object(obj.get("spec") or {}):
        yield from quotas.validate(obj)


def _naming(info: KindInfo) -> object_meta.Naming:
    if info.group == rbac.GROUP:
        return object_meta.Naming.SEGMENT
    label = not info.group and info.kind in LABEL_NAMES
    return object_meta.Naming.LABEL if label else object_meta.Naming.SUBDOMAIN


def _body(info: KindInfo, obj: dict[str, Any], old: Mapping[str, Any] | None) -> Iterator[Fault]:
    judged = dict(obj)
    if info.status_subresource and old is not None and old.get("status") == obj.get("status"):
        # What a controller wrote under an older schema must not stop its owner from changing the spec.
        judged.pop("status", None)
    found = list(structural.validate(judged, info.schema, ""))
    yield from found
    yield from cel_rules.check(judged, old, info.schema, "", sound=not found)
    if not found and info.group == rbac.GROUP:
        yield from rbac.validate(obj, old)


def _fold_string_data(obj: dict[str, Any]) -> None:
    texts = obj.pop("stringData", None)
    if is_object(texts):
        data = obj.setdefault("data", {})
        for name, text in texts.items() if is_object(data) else ():
            data[name] = base64.b64encode(str(text).encode()).decode()
    obj.setdefault("type", "Opaque")
    if obj.get("data") is None:
        obj.pop("data", None)


def _secret(obj: dict[str, Any], old: Mapping[str, Any] | None) -> Iterator[Fault]:
    data = obj.get("data")
    for name, value in data.items() if is_object(data) else ():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError, TypeError):
            # The value itself is never said: it may be a secret in the wrong encoding.
            yield Fault(f"data[{name}]", "FieldValueInvalid", "Invalid value: must be base64")
    if old is not None and old.get("type") != obj.get("type"):
        yield faults.invalid("type", obj.get("type"), "field is immutable")
    if old is not None and old.get("immutable") and obj.get("data") != old.get("data"):
        yield Fault("data", "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set")
