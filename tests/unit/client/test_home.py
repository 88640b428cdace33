"""Where a state directory is at home: two of inode, path and machine."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from drtp.client import home
from drtp.client.home import HOME_FILE, Home
from drtp.kit.errors import Terminal


def remembered(directory: Path) -> Home:
    return msgspec.json.decode((directory / HOME_FILE).read_bytes(), type=Home)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    home.settle(path)
    return path


@pytest.mark.parametrize("other", ["inode", "path", "machine"])
def test_one_difference_is_forgiven_and_remembered(directory: Path, other: str) -> None:
    now = remembered(directory)
    was = msgspec.structs.replace(now, **{other: 1 if other == "inode" else "/elsewhere"})
    (directory / HOME_FILE).write_bytes(msgspec.json.encode(was))
    home.check(directory)
    assert remembered(directory) == now


@pytest.mark.parametrize("same", ["inode", "path", "machine"])
def test_two_differences_are_a_copy(directory: Path, same: str) -> None:
    was = Home(inode=1, path="/elsewhere", machine="other")
    was = msgspec.structs.replace(was, **{same: getattr(remembered(directory), same)})
    (directory / HOME_FILE).write_bytes(msgspec.json.encode(was))
    with pytest.raises(Terminal, match="DRTP-4040"):
        home.check(directory)
    assert remembered(directory) == was


@pytest.mark.parametrize("content", [None, b"", b'{"inode": "x"}'])
def test_a_directory_that_remembers_nothing_is_at_home(directory: Path, content: bytes | None) -> None:
    """It was made by an earlier version."""
    (directory / HOME_FILE).unlink()
    if content is not None:
        (directory / HOME_FILE).touch(mode=0o600)
        (directory / HOME_FILE).write_bytes(content)
    home.check(directory)
    assert remembered(directory).path == str(directory)


def test_the_machine_is_a_digest_that_follows_its_name(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = remembered(directory).machine
    monkeypatch.setattr(socket, "gethostname", lambda: "the-next-container")
    home.settle(directory)
    assert remembered(directory).machine != before
    assert len(before) == 64
