"""Directories of Unix sockets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtp.kit.errors import Terminal
from drtp.kit.sockets import PATH_BYTES_MAX, directory_mark, is_own_private, socket_directory, socket_path

LONGEST = "x" * 41


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path, for pytest's own are long."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        yield Path(made)


def test_a_directory_that_is_short_enough_is_taken_as_it_is(place: Path) -> None:
    found = socket_directory(place / "a", LONGEST, "test")
    assert found == (place / "a").resolve()
    assert found.stat().st_mode & 0o777 == 0o700
    assert is_own_private(found)


def test_a_sockets_path_is_its_own_until_it_is_too_long(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place))
    room = PATH_BYTES_MAX - len(os.fsencode(place)) - len("//a.sock")
    whole, deeper = place / ("d" * room), place / ("d" * (room + 1))
    assert socket_path(whole, "a.sock", "test") == whole / "a.sock"
    assert not whole.exists(), "who only asks makes nothing"
    moved = socket_path(deeper, "a.sock", "test")
    assert moved.parent.parent == place.resolve()
    assert moved == socket_path(deeper, "a.sock", "test")


def test_one_that_is_too_deep_is_replaced_by_the_same_short_one_each_time(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place))
    deep = place / ("d" * 60) / "endpoints"
    found = socket_directory(deep, LONGEST, "test")
    assert found == socket_directory(deep, LONGEST, "test")
    assert found != socket_directory(place / ("e" * 60) / "endpoints", LONGEST, "test")
    assert len(os.fsencode(found / LONGEST)) <= PATH_BYTES_MAX
    assert not deep.exists()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(Terminal, match="DRTP-5020"):
        socket_directory(deep, LONGEST, "test")


def test_one_that_others_may_enter_is_refused(place: Path) -> None:
    (place / "loose").mkdir(mode=0o755)
    with pytest.raises(Terminal, match="DRTP-7001"):
        socket_directory(place / "loose", LONGEST, "test")
    assert not is_own_private(place / "loose")


def test_a_mark_is_the_directorys_own_whatever_its_path_is(place: Path) -> None:
    first, second = (socket_directory(place / name, LONGEST, "test") for name in ("a", "b"))
    mark = directory_mark(first)
    assert mark != directory_mark(second)
    first.rename(place / "moved")
    assert directory_mark(place / "moved") == mark
    with pytest.raises(FileNotFoundError):
        directory_mark(first)


def test_a_link_is_nobodys_own(place: Path) -> None:
    found = socket_directory(place / "a", LONGEST, "test")
    (place / "link").symlink_to(found)
    assert not is_own_private(place / "link")
    assert not is_own_private(place / "absent")
