"""A neighbour one version newer or older: unknown things are left out by themselves, old recordings stay readable.

`tests/vectors/v1` holds what this version says and stores. Later versions must read it: files are added there, never
changed. Objects come from a running store (no Secrets), snapshots from the edges of that time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drtp.api import internal, skew
from drtp.api.admission import admit
from drtp.api.feed import ReportDelta, SnapshotDelta
from drtp.api.registry import REGISTRY
from drtp.api.reports import PopReport
from drtp.api.snapshots import DenyEntry, Generation, Snapshot, TrustEntry

VECTORS = Path(__file__).parents[2] / "vectors"
KINDS = {info.key: info for info in REGISTRY}
FOLDERS = sorted(path for path in VECTORS.iterdir() if path.is_dir())


def recorded(name: str) -> list[tuple[str, dict[str, Any]]]:
    return [(folder.name, one) for folder in FOLDERS for one in json.loads((folder / name).read_text())]


def ids(value: Any) -> str | None:
    return str(value.get("type") or value.get("kind") or "") if isinstance(value, dict) else None


@pytest.mark.parametrize(("folder", "message"), recorded("to-edge.json"), ids=ids)
def test_an_edge_reads_every_recorded_message(folder: str, message: dict[str, Any]) -> None:
    read = skew.to_edge(json.dumps(message))
    assert read.said is not None
    assert read.unreadable == {}
    assert _includes(msgspec.to_builtins(read.said), message)


@pytest.mark.parametrize(("folder", "message"), recorded("from-edge.json"), ids=ids)
def test_a_control_plane_reads_every_recorded_message(folder: str, message: dict[str, Any]) -> None:
    read = skew.from_edge(json.dumps(message))
    assert read.said is not None
    assert read.unreadable == {}
    assert _includes(msgspec.to_builtins(read.said), message)


@pytest.mark.parametrize(("folder", "stored"), recorded("objects.json"), ids=ids)
def test_every_recorded_object_is_valid_still(folder: str, stored: dict[str, Any]) -> None:
    group = stored["apiVersion"].rpartition("/")[0]
    info = KINDS.get(f"{stored['kind']}.{group}" if group else stored["kind"])
    if info is not None:
        admit(info, stored, stored)
    model: Any = info.model if info else getattr(internal, stored["kind"])
    if model is not None:
        assert msgspec.convert(stored, model).metadata.name == stored["metadata"]["name"]


def _includes(held: Any, wanted: Any) -> bool:
    """Whether nothing of `wanted` was lost; what `held` has beside it are defaults."""
    if isinstance(wanted, dict):
        return isinstance(held, dict) and all(name in held and _includes(held[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return len(held) == len(wanted) and all(map(_includes, held, wanted))
    return held == wanted


NEWER: dict[str, Any] = {
    "type": "snapshot",
    "generation": [2, 7],
    "sentBy": "a newer control plane",
    "upsert": {
        "trust": {"type": "trust", "gateways": ["g"], "sinceVersion": 9},
        "quota/a": {"type": "quota", "limit": 3},
        "route/b": {"type": "route", "connection": "b"},
    },
}


def test_an_entry_of_an_unknown_kind_or_shape_is_left_out_by_itself() -> None:
    read = skew.to_edge(json.dumps(NEWER))
    assert read.said == SnapshotDelta(generation=Generation(2, 7), upsert={"trust": TrustEntry(gateways=("g",))})
    assert set(read.unreadable) == {"quota/a", "route/b"}
    assert all(reason.startswith("DRTP-1040") for reason in read.unreadable.values())


def test_a_persisted_snapshot_of_a_newer_version_is_read_as_far_as_it_goes() -> None:
    written = {"generation": NEWER["generation"], "entries": NEWER["upsert"]}
    read = skew.snapshot(json.dumps(written).encode())
    assert read.said == Snapshot(generation=Generation(2, 7), entries={"trust": TrustEntry(gateways=("g",))})
    assert set(read.unreadable) == {"quota/a", "route/b"}


def test_missing_members_have_their_defaults() -> None:
    read = skew.to_edge(json.dumps({"type": "snapshot", "generation": [1, 1], "upsert": {"deny": {"type": "deny"}}}))
    assert read.said == SnapshotDelta(generation=Generation(1, 1), upsert={"deny": DenyEntry()})


def test_messages_and_reports_of_unknown_types_are_passed_over() -> None:
    unknown = json.dumps({"type": "rebalance", "to": "elsewhere"})
    assert skew.to_edge(unknown) == skew.from_edge(unknown) == skew.Read(None, {})
    said = {"type": "report", "whole": False, "upsert": {"self": {"type": "pop", "health": 90}, "x": {"type": "new"}}}
    read = skew.from_edge(json.dumps(said))
    assert read.said == ReportDelta(whole=False, upsert={"self": PopReport(health=90)}, remove=("x",))


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "report", "whole": "perhaps"},
        {"type": "report", "whole": True, "upsert": {"self": {"type": "pop", "health": 900}}},
        {"type": "applied"},
    ],
)
def test_what_breaks_a_known_message_is_an_error(broken: dict[str, Any]) -> None:
    with pytest.raises(msgspec.DecodeError):
        skew.from_edge(json.dumps(broken))
