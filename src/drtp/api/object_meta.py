"""Metadata rules that hold for every object, whatever its kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

from drtp.api import faults
from drtp.api.faults import Fault
from drtp.api.jsonvalue import is_object


class Naming(Enum):
    """What a kind's names may be: host names, one label of them, or any part of a path, such as `system:discovery`."""

    SUBDOMAIN = "subdomain"
    LABEL = "label"
    SEGMENT = "segment"


ANNOTATIONS_BYTES_MAX = 256 * 1024
"""Kubernetes' own bound on all annotations of an object."""

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SEGMENT = re.compile(r"(?!\.\.?$)[^/%\x00-\x20\x7f]+")
_NAME_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")

_SUBDOMAIN_SAID = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_SAID = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)

MEMBERS: dict[str, type] = {
    "name": str,
    "generateName": str,
    "namespace": str,
    "uid": str,
    "resourceVersion": str,
    "generation": int,
    "creationTimestamp": str,
    "deletionTimestamp": str,
    "deletionGracePeriodSeconds": int,
    "labels": dict,
    "annotations": dict,
    "finalizers": list,
    "ownerReferences": list,
    "managedFields": list,
}
"""What metadata may hold; `selfLink` is dropped, nobody here keeps it."""


def tidy(metadata: dict[str, Any]) -> None:
    """Drop members that are null or unknown, in place."""
    for name in list(metadata):
        if metadata[name] is None or name not in MEMBERS:
            del metadata[name]


def validate(metadata: dict[str, Any], naming: Naming) -> Iterator[Fault]:
    """Every fault."""
    for name, kind in MEMBERS.items():
        if name in metadata and not isinstance(metadata[name], kind):
            yield faults.wrong_type(f"metadata.{name}", metadata[name], _JSON[kind])
            return
    if "name" in metadata:
        yield from _object_name("metadata.name", metadata["name"], naming)
    else:
        yield from _object_name("metadata.generateName", f"{metadata.get('generateName', '')}x", naming)
    yield from _labels(metadata.get("labels", {}))
    yield from _annotations(metadata.get("annotations", {}))
    for index, finalizer in enumerate(metadata.get("finalizers", [])):
        if not isinstance(finalizer, str) or not _qualified(finalizer):
            yield faults.invalid(f"metadata.finalizers[{index}]", finalizer, "name part must be a qualified name")
    yield from _owners(metadata.get("ownerReferences", []))


_JSON = {str: "string", int: "integer", dict: "object", list: "array"}


_NAMES = {
    Naming.SUBDOMAIN: (_SUBDOMAIN, _SUBDOMAIN_SAID, 253),
    Naming.LABEL: (_LABEL, _LABEL_SAID, 63),
    Naming.SEGMENT: (_SEGMENT, "must be a part of a path: not `.` or `..`, without `/` and `%`", 253),
}


def _object_name(path: str, name: str, naming: Naming) -> Iterator[Fault]:
    pattern, said, limit = _NAMES[naming]
    if len(name) > limit:
        yield faults.invalid(path, name[:64], f"must be no more than {limit} characters")
    elif not pattern.fullmatch(name):
        yield faults.invalid(path, name, said)


def _qualified(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and not (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix)):
        return False
    return len(name) <= 63 and _NAME_PART.fullmatch(name) is not None


def _labels(labels: dict[str, Any]) -> Iterator[Fault]:
    for key, value in labels.items():
        if not _qualified(key):
            yield faults.invalid("metadata.labels", key, "name part must be a qualified name")
        if not isinstance(value, str) or len(value) > 63 or (value and not _NAME_PART.fullmatch(value)):
            yield faults.invalid("metadata.labels", value, "must be a valid label value of 63 characters or less")


def _annotations(annotations: dict[str, Any]) -> Iterator[Fault]:
    size = 0
    for key, value in annotations.items():
        if not _qualified(key.lower()):
            yield faults.invalid("metadata.annotations", key, "name part must be a qualified name")
        if not isinstance(value, str):
            yield faults.wrong_type(f"metadata.annotations.{key}", value, "string")
        else:
            size += len(key) + len(value)
    if size > ANNOTATIONS_BYTES_MAX:
        yield faults.too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX)


def _owners(owners: list[Any]) -> Iterator[Fault]:
    for index, owner in enumerate(owners):
        for name in ("apiVersion", "kind", "name", "uid"):
            if not is_object(owner) or not isinstance(owner.get(name), str) or not owner[name]:
                yield faults.required(f"metadata.ownerReferences[{index}].{name}")
