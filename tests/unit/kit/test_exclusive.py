"""One process for one directory, and who it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drtp.kit.errors import Terminal
from drtp.kit.exclusive import exclusive


def test_whoever_comes_second_is_told_which_process_has_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        exclusive(lock, "DRTP-4010", "demo is being served already."),
        pytest.raises(Terminal, match=rf"demo is being served already \(process {os.getpid()}\)\."),
        exclusive(lock, "DRTP-4010", "demo is being served already."),
    ):
        pass
    with exclusive(lock, "DRTP-4010", "Free again."):
        pass


def test_a_lock_of_a_version_that_wrote_no_process_holds_too(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive(lock, "DRTP-4010", "In use."):
        lock.write_text("")
        with pytest.raises(Terminal, match=r"In use\. "), exclusive(lock, "DRTP-4010", "In use."):
            pass
