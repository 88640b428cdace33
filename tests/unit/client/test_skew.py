"""An edge under a newer control plane: what it cannot read is gone and reported; who was denied stays denied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drtp.api import skew
from drtp.api.feed import SnapshotDelta
from drtp.api.snapshots import DenyEntry, Generation, Snapshot, TrustEntry
from drtp.client.session import after, readable
from drtp.client.snapshotfile import SnapshotFile

HELD = Snapshot(
    generation=Generation(1, 1),
    entries={"deny": DenyEntry(minimum_generation={"thief": -1}), "trust": TrustEntry(gateways=("g",))},
)


def newer(**upsert: Any) -> tuple[SnapshotDelta, dict[str, str]]:
    said = {"type": "snapshot", "generation": [1, 2], "base": [1, 1], "upsert": upsert}
    read = skew.to_edge(json.dumps(said))
    assert isinstance(read.said, SnapshotDelta)
    return read.said, read.unreadable


def test_an_entry_that_became_unreadable_is_gone() -> None:
    delta, unreadable = newer(trust={"type": "trust", "gateways": "everybody"})
    assert after(HELD, readable(delta, unreadable, HELD)) == Snapshot(
        generation=Generation(1, 2), entries={"deny": HELD.entries["deny"]}
    )


def test_who_was_denied_stays_denied() -> None:
    delta, unreadable = newer(deny={"type": "deny", "minimumGeneration": "see the other list"})
    assert after(HELD, readable(delta, unreadable, HELD)) == Snapshot(generation=Generation(1, 2), entries=HELD.entries)


def test_a_rolled_back_edge_goes_on_with_what_it_understands(tmp_path: Path) -> None:
    file = SnapshotFile(tmp_path)
    file.save("uid", HELD)
    path = tmp_path / "snapshot.json"
    written = json.loads(path.read_text())
    written["snapshot"]["entries"]["quota"] = {"type": "quota"}
    path.write_text(json.dumps(written))
    assert file.load("uid") == HELD
    assert file.load("another") is None
