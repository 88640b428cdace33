"""Manifests: read from files, applied as kubectl does client-side, so that both can be used on the same objects."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml

from drtp.main.shell import Misconfigured

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Object = dict[str, Any]


def read_manifests(path: str) -> list[Object]:
    """Every object in a YAML or JSON file, `-` for stdin; `List` is unfolded. Raises: Misconfigured (DRTP-7013)."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as fault:
        raise Misconfigured("DRTP-7013", f"{path} cannot be read: {unreadable(fault)}.") from fault
    objects = [one for document in documents for one in _unfolded(document)]
    for number, one in enumerate(objects, 1):
        metadata: Object = one.get("metadata", {})
        if not (one.get("apiVersion") and one.get("kind") and (metadata.get("name") or metadata.get("generateName"))):
            raise Misconfigured("DRTP-7013", f"Object {number} in {path} lacks apiVersion, kind or metadata.name.")
    if not objects:
        raise Misconfigured("DRTP-7013", f"{path} holds no object.")
    return objects


def unreadable(fault: OSError | yaml.YAMLError | ValueError) -> str:
    """Why a file could not be read, in one line: the system's sentence, or the place and the parser's."""
    if isinstance(fault, OSError):
        return (fault.strerror or str(fault)).lower()
    if isinstance(fault, yaml.MarkedYAMLError) and fault.problem_mark is not None:
        return f"line {fault.problem_mark.line + 1}: {fault.problem or fault.context}"
    return " ".join(str(fault).split())


def with_last_applied(wanted: Object) -> Object:
    """The object to create, carrying what was applied."""
    metadata: Object = wanted["metadata"]
    annotations: Object = metadata.get("annotations", {})
    applied = {**annotations, LAST_APPLIED: _canonical(wanted)}
    return {**wanted, "metadata": {**metadata, "annotations": applied}}


def apply_patch(present: Object, wanted: Object) -> Object:
    """The merge patch from `present` to `wanted`; members applied before and now left out are removed. May be empty."""
    metadata: Object = present.get("metadata", {})
    annotations: dict[str, str] = metadata.get("annotations", {})
    try:
        before = msgspec.json.decode(annotations.get(LAST_APPLIED, "{}"), type=dict[str, Any])
    except msgspec.DecodeError:
        before = {}
    patch = _difference(before, present, wanted)
    if not patch:
        return {}
    changed: Object = patch.setdefault("metadata", {})
    # kubectl remembers annotations that were none: the patch to remove them would take the memory with it.
    changed["annotations"] = {**(changed.get("annotations") or {}), LAST_APPLIED: _canonical(wanted)}
    return patch


def _difference(before: Object, present: Object, wanted: Object) -> Object:
    patch: Object = {name: None for name in before if name not in wanted and name in present}
    for name, value in wanted.items():
        there = present.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            former = before.get(name)
            inner = _difference(
                cast("Object", former) if isinstance(former, dict) else {},
                cast("Object", there),
                cast("Object", value),
            )
            if inner:
                patch[name] = inner
        elif there != value:
            patch[name] = value
    return patch


def _unfolded(document: Any) -> Iterator[Object]:
    if not isinstance(document, dict):
        raise Misconfigured("DRTP-7013", "A manifest is not an object.")
    one = cast("Object", document)
    if str(one.get("kind", "")).endswith("List") and isinstance(one.get("items"), list):
        for item in one["items"]:
            yield from _unfolded(item)
    else:
        yield one


def _canonical(wanted: Object) -> str:
    return msgspec.json.encode(wanted, order="sorted").decode() + "\n"
