"""What a write does to an object: pure, and the same in every store that keeps objects itself."""

from __future__ import annotations

import random
import secrets
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, assert_never

import msgspec

from drtp.api.meta import Key
from drtp.kit.errors import Invalid
from drtp.store.protocol import (
    AlreadyExists,
    Conflict,
    Create,
    Delete,
    NotFound,
    Object,
    Stored,
    Update,
    UpdateStatus,
    Write,
    key_of,
)

Find = Callable[[Key], Stored | None]

_OWNED = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
"""Members of metadata that writers cannot set."""

_RANDOM = random.Random(secrets.randbits(256))  # noqa: S311 - uids are unique, not secret
"""Asking the kernel for each uid costs a system call, and the interpreter lock with it, for every new object."""

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' own alphabet for generated names: no vowels, so no words; nothing that looks like something else."""


class Effect(NamedTuple):
    """One change. `result` is what the writer gets; equal to `before` where nothing changes; `after` None: removed."""

    key: Key
    before: Stored | None
    after: Stored | None
    result: Stored

    @property
    def changes(self) -> bool:
        """Whether anything happens at all."""
        return self.after is not self.before


def effect(write: Write, find: Find, revision: int, now: datetime) -> Effect:
    """Judge one write against the present state; `revision` is what a change would get.

    Raises: NotFound, AlreadyExists, Conflict, Invalid.
    """
    match write:
        case Create():
            return _create(_plain(write.object), find, revision, now)
        case Update():
            return _update(_plain(write.object), find, revision)
        case UpdateStatus():
            return _update_status(_plain(write.object), find, revision)
        case Delete():
            return _delete(write, find, revision, now)
        case _:
            assert_never(write)


def _plain(obj: Object) -> dict[str, Any]:
    """`obj` as JSON gives it back: the tuples, enums and datetimes of typed writers compare unequal to their JSON."""
    return msgspec.json.decode(msgspec.json.encode(obj))


def _create(obj: Object, find: Find, revision: int, now: datetime) -> Effect:
    metadata = dict(obj.get("metadata") or {})
    key = key_of(obj)
    prefix = metadata.get("generateName")
    if not key.name and prefix:
        key = key._replace(name=_generated(key, prefix, find))
    if not key.name:
        raise Invalid("DRTP-1005", f"A {key.kind} needs metadata.name or metadata.generateName.")
    if find(key) is not None:
        raise AlreadyExists(key)
    owned = {
        "uid": str(uuid.UUID(int=_RANDOM.getrandbits(128), version=4)),
        "generation": 1,
        "creationTimestamp": _timestamp(now),
    }
    body = {name: value for name, value in obj.items() if name != "status"}
    after = _stored(key, revision, {**body, "metadata": _metadata(key, metadata, owned)})
    return Effect(key, None, after, after)


def _update(obj: Object, find: Find, revision: int) -> Effect:
    before = _existing(key_of(obj), find)
    given: Mapping[str, Any] = obj.get("metadata") or {}
    _check(before, given.get("uid"), given.get("resourceVersion"))
    old = before.object
    body = {name: value for name, value in obj.items() if name not in ("metadata", "status")}
    was = {name: value for name, value in old.items() if name not in ("metadata", "status")}
    metadata = _metadata(before.key, given, before.metadata)
    _refuse_new_finalizers(before, metadata)
    same_body = body == was
    if same_body and metadata == before.metadata:
        return Effect(before.key, before, before, before)
    if not same_body:
        metadata["generation"] = before.metadata.get("generation", 0) + 1
    if "status" in old:
        body["status"] = old["status"]
    after = _stored(before.key, revision, {**body, "metadata": metadata})
    gone = "deletionTimestamp" in metadata and not metadata.get("finalizers")
    return Effect(before.key, before, None if gone else after, after)


def _update_status(obj: Object, find: Find, revision: int) -> Effect:
    before = _existing(key_of(obj), find)
    given: Mapping[str, Any] = obj.get("metadata") or {}
    _check(before, given.get("uid"), given.get("resourceVersion"))
    status = obj.get("status")
    if (before.object.get("status") or {}) == (status or {}):
        return Effect(before.key, before, before, before)
    body = {name: value for name, value in before.object.items() if name != "status"}
    if status:
        body["status"] = status
    after = _stored(before.key, revision, {**body, "metadata": dict(before.metadata)})
    return Effect(before.key, before, after, after)


def _delete(write: Delete, find: Find, revision: int, now: datetime) -> Effect:
    before = _existing(write.key, find)
    _check(before, write.uid, write.resource_version)
    metadata = dict(before.metadata)
    if not metadata.get("finalizers"):
        last = _stored(before.key, revision, {**before.object, "metadata": metadata})
        return Effect(before.key, before, None, last)
    if "deletionTimestamp" in metadata:
        return Effect(before.key, before, before, before)
    metadata |= {"deletionTimestamp": _timestamp(now), "deletionGracePeriodSeconds": 0}
    after = _stored(before.key, revision, {**before.object, "metadata": metadata})
    return Effect(before.key, before, after, after)


def _existing(key: Key, find: Find) -> Stored:
    stored = find(key)
    if stored is None:
        raise NotFound(key)
    return stored


def _check(before: Stored, uid: str | None, resource_version: str | None) -> None:
    if uid and uid != before.uid:
        raise Conflict(before.key, f"the uid given is {uid}, the object's is {before.uid}.")
    if resource_version and resource_version != str(before.revision):
        raise Conflict(before.key, "the object has been modified; please apply your changes to the latest version.")


def _metadata(key: Key, given: Mapping[str, Any], owned: Mapping[str, Any]) -> dict[str, Any]:
    """What the writer may set from `given`, what it may not from `owned`; empty members are left out."""
    metadata: dict[str, Any] = {"name": key.name}
    if key.namespace:
        metadata["namespace"] = key.namespace
    metadata |= {name: value for name, value in given.items() if name not in _OWNED and value not in (None, {}, [], "")}
    metadata |= {name: owned[name] for name in _OWNED[2:] if name in owned}
    return metadata


def _refuse_new_finalizers(before: Stored, metadata: Mapping[str, Any]) -> None:
    known: list[str] = before.metadata.get("finalizers") or []
    wanted: list[str] = metadata.get("finalizers") or []
    added = [name for name in wanted if name not in known]
    if added and "deletionTimestamp" in before.metadata:
        fault = "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted"
        raise Invalid("DRTP-1005", f"{before.key} is being deleted.", faults=(fault,))


def _stored(key: Key, revision: int, obj: dict[str, Any]) -> Stored:
    """Final JSON: type, metadata, then the rest as it came; the revision inside."""
    metadata = obj.pop("metadata")
    metadata["resourceVersion"] = str(revision)
    head = {"apiVersion": obj.pop("apiVersion"), "kind": obj.pop("kind"), "metadata": metadata}
    return Stored(key, revision, msgspec.json.encode(head | obj))


def _generated(key: Key, prefix: str, find: Find) -> str:
    while True:
        # 58 letters leave room for the suffix in a DNS label of 63, as Kubernetes cuts it.
        name = prefix[:58] + "".join(_RANDOM.choice(_SUFFIX_LETTERS) for _ in range(5))
        if find(key._replace(name=name)) is None:
            return name


def _timestamp(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
