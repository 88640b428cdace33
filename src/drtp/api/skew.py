"""Reading what a neighbour of another version wrote: one version apart in either direction must do.

Members that are not known are passed over, and members that are missing have their defaults: the models see to that.
Here is the rest. A message, or a report, of an unknown type is passed over. An entry that cannot be read for whatever
reason is left out by itself and named. A report of a known type that breaks its own rules is an error as ever: the edge
that sent it is broken, or no friend.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar, get_args

import msgspec

from drtp.api.feed import FromEdge, ReportDelta, SnapshotDelta, ToEdge
from drtp.api.meta import Model
from drtp.api.reports import Report
from drtp.api.snapshots import Entries, Entry, Generation, Snapshot

T = TypeVar("T")
M = TypeVar("M")
Raws = dict[str, msgspec.Raw]


class Read(NamedTuple, Generic[T]):
    """`said` None: a message of a type that is not known here. `unreadable`: key -> reason, left out of `said`."""

    said: T | None
    unreadable: dict[str, str]


class _Typed(msgspec.Struct):
    type: str = ""


class _Snapshot(Model, frozen=True, tag="snapshot", tag_field="type"):
    generation: Generation
    base: Generation | None = None
    upsert: Raws = {}
    remove: tuple[str, ...] = ()


class _Reports(Model, frozen=True, tag="report", tag_field="type"):
    whole: bool
    upsert: Raws = {}
    remove: tuple[str, ...] = ()


class _Whole(Model, frozen=True):
    generation: Generation
    entries: Raws


_TO_EDGE: msgspec.json.Decoder[ToEdge] = msgspec.json.Decoder(ToEdge)
_FROM_EDGE: msgspec.json.Decoder[FromEdge] = msgspec.json.Decoder(FromEdge)


def _tags(union: Any) -> frozenset[str]:
    return frozenset(one.__struct_config__.tag for one in get_args(union))


_TO_EDGE_TYPES, _FROM_EDGE_TYPES, _REPORT_TYPES = _tags(ToEdge), _tags(FromEdge), _tags(Report)


def to_edge(data: str | bytes) -> Read[ToEdge]:
    """A message of the control plane. Raises: msgspec.DecodeError."""
    try:
        return Read(_TO_EDGE.decode(data), {})
    except msgspec.ValidationError:
        kind = _type_of(data)
        if kind not in _TO_EDGE_TYPES:
            return Read(None, {})
        if kind != "snapshot":
            raise
    loose = msgspec.json.decode(data, type=_Snapshot)
    entries, unreadable = _entries(loose.upsert)
    return Read(SnapshotDelta(loose.generation, loose.base, entries, loose.remove), unreadable)


def from_edge(data: str | bytes) -> Read[FromEdge]:
    """A message of an edge. Raises: msgspec.DecodeError."""
    try:
        return Read(_FROM_EDGE.decode(data), {})
    except msgspec.ValidationError:
        kind = _type_of(data)
        if kind not in _FROM_EDGE_TYPES:
            return Read(None, {})
        if kind != "report":
            raise
    loose = msgspec.json.decode(data, type=_Reports)
    unreadable = {key: "DRTP-1040" for key, raw in loose.upsert.items() if _type_of(raw) not in _REPORT_TYPES}
    reports = {key: msgspec.json.decode(raw, type=Report) for key, raw in loose.upsert.items() if key not in unreadable}
    # What cannot be read says nothing: what was said before under its key is withdrawn.
    return Read(ReportDelta(loose.whole, reports, (*loose.remove, *unreadable)), unreadable)


def snapshot(raw: bytes) -> Read[Snapshot]:
    """A whole snapshot, as it was persisted. Raises: msgspec.DecodeError."""
    try:
        return Read(msgspec.json.decode(raw, type=Snapshot), {})
    except msgspec.ValidationError:
        loose = msgspec.json.decode(raw, type=_Whole)
    entries, unreadable = _entries(loose.entries)
    return Read(Snapshot(loose.generation, entries), unreadable)


def _type_of(data: str | bytes | msgspec.Raw) -> str:
    return msgspec.json.decode(data, type=_Typed).type


def _entries(raws: Raws) -> tuple[Entries, dict[str, str]]:
    read: Entries = {}
    unreadable: dict[str, str] = {}
    for key, raw in raws.items():
        try:
            read[key] = msgspec.json.decode(raw, type=Entry)
        except msgspec.ValidationError as error:
            unreadable[key] = f"DRTP-1040: {error}"
    return read, unreadable
