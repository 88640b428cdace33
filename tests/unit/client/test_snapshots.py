"""What a delta does, what the report board gives, and when a certificate is due."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtp.api.drtp import ClientStatus
from drtp.api.feed import SnapshotDelta, digest
from drtp.api.reports import TunnelReport
from drtp.api.snapshots import Entries, Generation, Snapshot, TrustEntry
from drtp.client.renewal import due_at
from drtp.client.reportboard import ReportBoard
from drtp.client.session import WrongBase, after
from drtp.client.snapshotfile import SnapshotFile
from drtp.edgeserver.feed import delta
from drtp.kit.errors import Terminal
from unit.client.test_identity import identity, new_key

TABLES = st.dictionaries(
    st.sampled_from("abcdef"), st.builds(TrustEntry, gateways=st.tuples(st.sampled_from("xyz"))), max_size=6
)


def snapshot(sequence: int, entries: Entries) -> Snapshot:
    return Snapshot(generation=Generation(1, sequence), entries=entries)


@given(TABLES, TABLES)
def test_difference_applied_to_its_base_is_the_new_state(old: Entries, new: Entries):
    before, now = snapshot(1, old), snapshot(2, new)
    change = delta(now.generation, before, now)
    assert after(before, change) == now
    assert set(change.upsert) == {key for key in new if old.get(key) != new[key]}
    assert after(None, delta(now.generation, None, now)) == now


@given(TABLES)
def test_digest_is_of_the_meaning_not_of_the_order(entries: Entries):
    assert digest(dict(reversed(entries.items()))) == digest(entries)


def test_lower_or_equal_generation_is_refused():
    held = snapshot(5, {})
    for sequence in (1, 5):
        assert after(held, SnapshotDelta(generation=Generation(1, sequence), upsert={"a": TrustEntry()})) is None
    assert after(held, SnapshotDelta(generation=Generation(2, 1))) == Snapshot(generation=Generation(2, 1), entries={})


def test_difference_to_another_state_asks_for_the_whole():
    change = SnapshotDelta(generation=Generation(1, 9), base=Generation(1, 7))
    for held in (None, snapshot(5, {})):
        with pytest.raises(WrongBase):
            after(held, change)


def test_persisted_snapshot_is_of_one_identity_private_and_never_fatal(tmp_path: Path):
    file = SnapshotFile(tmp_path)
    assert file.load("a") is None
    file.save("a", snapshot(3, {"trust": TrustEntry(gateways=("g",))}))
    assert file.load("a") == snapshot(3, {"trust": TrustEntry(gateways=("g",))})
    assert file.load("b") is None, "somebody else's snapshot was taken"
    (tmp_path / "snapshot.json").write_bytes(b'{"uid":"a","snap')
    assert file.load("a") is None
    (tmp_path / "snapshot.json").chmod(0o644)
    with pytest.raises(Terminal):
        file.load("a")


def tunnel(millis: float) -> TunnelReport:
    return TunnelReport(server="s", status=ClientStatus.CONNECTED, round_trip_ms=millis)


async def test_board_gives_changes_once_and_the_whole_after_a_reconnect():
    board = ReportBoard()
    board.set("tunnel/a", tunnel(1))
    board.set("tunnel/b", tunnel(1))
    whole = board.take_whole()
    assert whole.whole
    assert set(whole.upsert) == {"tunnel/a", "tunnel/b"}
    board.set("tunnel/a", tunnel(1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(board.changed(), 0.01)
    for millis in range(1000):
        board.set("tunnel/a", tunnel(millis))
    board.remove("tunnel/b")
    await asyncio.wait_for(board.changed(), 1)
    change = board.take()
    assert (change.upsert, change.remove) == ({"tunnel/a": tunnel(999)}, ("tunnel/b",))
    board.replace_all({"tunnel/c": tunnel(1)})
    change = board.take()
    assert (set(change.upsert), change.remove) == ({"tunnel/c"}, ("tunnel/a",))


def test_renewal_is_due_at_a_third_give_or_take_a_tenth():
    mine = identity(new_key())
    moments = [due_at(mine, random.Random(seed)) - mine.not_before for seed in range(200)]
    assert timedelta(hours=7.2) <= min(moments) < timedelta(hours=7.5)
    assert timedelta(hours=8.5) < max(moments) <= timedelta(hours=8.8)
