"""The epoch grows at each start, whatever the clock says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from drtp.client.epoch import next_epoch
from drtp.kit.clock import FakeClock, unix_ms
from drtp.kit.errors import Terminal


def test_the_first_epoch_is_the_time(tmp_path: Path) -> None:
    clock = FakeClock()
    assert next_epoch(tmp_path / "epoch", clock) == unix_ms(clock)


def test_an_epoch_is_never_chosen_twice_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    first = next_epoch(tmp_path / "epoch", FakeClock())
    earlier = FakeClock(datetime(2020, 1, 1, tzinfo=UTC))
    assert next_epoch(tmp_path / "epoch", earlier) == first + 1
    assert (tmp_path / "epoch").read_text() == str(first + 1), "durable before it is used"


def test_a_damaged_file_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "epoch").write_text("x")
    (tmp_path / "epoch").chmod(0o600)
    with pytest.raises(Terminal, match="DRTP-4014"):
        next_epoch(tmp_path / "epoch", FakeClock())
