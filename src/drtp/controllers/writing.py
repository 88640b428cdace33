"""From conclusions to writes: status, owned objects, events of transitions. Nothing new, nothing written."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec

from drtp.api.meta import Condition, Key, Model, ObjectMeta
from drtp.controllers.runtime import Emit, EventKind, Update, UpdateStatus, Write
from drtp.rules import advice
from drtp.rules.advice import Speaks
from drtp.rules.conditions import TRUE, UNKNOWN, find
from drtp.store.protocol import Object, Stored


def plain(model: Model) -> dict[str, Any]:
    """A model as JSON gives it."""
    return msgspec.json.decode(msgspec.json.encode(model))


def status(stored: Stored, model: Model) -> tuple[Write, ...]:
    """The write that makes `model` the status of `stored`; none where it is already.

    Raises: msgspec.ValidationError for a status that could not be read again: it would take the whole object away.
    """
    held: dict[str, Any] = stored.object.get("status") or {}
    known = _fields(type(model))
    wanted = {name: value for name, value in held.items() if name not in known} | plain(model)
    if held == wanted:
        return ()
    msgspec.convert(plain(model), type=type(model))
    metadata = {"name": stored.key.name, "namespace": stored.key.namespace, "uid": stored.uid}
    head = {"apiVersion": stored.object["apiVersion"], "kind": stored.object["kind"]}
    return (UpdateStatus({**head, "metadata": metadata, "status": wanted}),)


@cache
def _fields(model: type[Model]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(model))


def respec(stored: Stored, spec: Mapping[str, Any], annotations: Mapping[str, str] | None = None) -> tuple[Write, ...]:
    """The write that changes members of `spec` (None removes one) and adds annotations; none where they are so already.

    Conditional on the revision that was read, because people write specs too.
    """
    wanted = copy.deepcopy(stored.object)
    target: dict[str, Any] = wanted.setdefault("spec", {})
    for name, value in spec.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = value
    if annotations:
        wanted["metadata"].setdefault("annotations", {}).update(annotations)
    return () if wanted == stored.object else (Update(wanted),)


def owned_metadata(owner: ObjectMeta, api_version: str, kind: str, name: str) -> dict[str, Any]:
    """Metadata of an object that a controller makes for `owner` and that goes away with it."""
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": {"app.kubernetes.io/managed-by": "drtp.datumapis.com"},
        "ownerReferences": [
            {"apiVersion": api_version, "kind": kind, "name": owner.name, "uid": owner.uid, "controller": True}
        ],
    }


def owned_by(obj: Object, uid: str) -> bool:
    """Whether an object names `uid` among its owners."""
    return any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences") or ())


class Turn(NamedTuple):
    """The conditions of one object, or of one part of it, before and after. `where`: what begins its messages."""

    before: Sequence[Condition]
    after: Sequence[Condition]
    where: str = ""


def transitions(key: Key, *turns: Turn) -> tuple[Emit, ...]:
    """An event for each condition that began, turned True or False, or has another reason for being bad.

    What was wrong from the beginning is told too. A fault that several conditions repeat is told once, by the first.
    """
    emits: dict[Emit, None] = {}
    told: set[str] = set()
    for before, after, where in turns:
        for one in after:
            bad = advice.is_bad(one)
            if not _is_news(find(before, one.type), one) or (bad and one.message in told):
                continue
            told.add(one.message)
            reason = one.type if one.status is TRUE else f"{one.type}{one.reason}" if bad else one.reason
            kind = EventKind.WARNING if bad else EventKind.NORMAL
            emits[Emit(key, kind, reason, f"{where}{one.message or one.reason}")] = None
    return tuple(emits)


def _is_news(before: Condition | None, after: Condition) -> bool:
    if after.status is UNKNOWN:
        return False
    if (
        before is not None
        and before.status is after.status
        and (not advice.is_bad(after) or before.reason == after.reason)
    ):
        return False
    if not advice.is_bad(after):
        return before is not None or after.status is TRUE
    known = advice.find(after.type, after.reason)
    speaks = known.speaks if known else Speaks.ALWAYS
    return speaks is Speaks.ALWAYS or (speaks is Speaks.LATER and before is not None)
