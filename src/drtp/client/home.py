"""Where a state directory is at home: a copy of one says so at its start, before it could fence the original.

Three things are written down when the identity comes in: the directory's inode, its path, and the machine. A directory
that is itself agrees in two of them, whatever else happens to it: renamed, restored in place, mounted into the next
container. A copy agrees in one at most. See docs/decisions/0020.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from pathlib import Path

import msgspec

from drtp.kit.errors import Terminal
from drtp.kit.files import read_private, write_atomic

HOME_FILE = "home.json"
_AGREE_MIN = 2


class Home(msgspec.Struct, frozen=True):
    """What a state directory remembers of where it is. `machine` is a digest: its identifier is nobody's business."""

    inode: int
    path: str
    machine: str

    def agreement(self, other: Home) -> int:
        """In how many of the three they are equal."""
        return (self.inode == other.inode) + (self.path == other.path) + (self.machine == other.machine)


def settle(directory: Path) -> None:
    """This directory is at home where it is now: at its first use, or because it was moved deliberately."""
    write_atomic(directory / HOME_FILE, msgspec.json.encode(_home_of(directory)))


def check(directory: Path) -> None:
    """Raises: Terminal DRTP-4040 if this is the copy of another directory. One that remembers nothing is settled."""
    remembered = _remembered(directory)
    if remembered is None:
        settle(directory)
        return
    now = _home_of(directory)
    if now.agreement(remembered) < _AGREE_MIN:
        raise Terminal("DRTP-4040", f"{directory} is a copy of {remembered.path}.")
    if now != remembered:
        settle(directory)


def _remembered(directory: Path) -> Home | None:
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        return msgspec.json.decode(read_private(directory / HOME_FILE), type=Home)
    return None


def _home_of(directory: Path) -> Home:
    real = directory.resolve()
    return Home(real.stat().st_ino, str(real), _machine())


def _machine() -> str:
    """Its identifier and its name: containers often share the one, never the other."""
    identifier = ""
    with contextlib.suppress(OSError):
        identifier = Path("/etc/machine-id").read_text().strip()
    return hashlib.sha256(f"drtp {identifier} {socket.gethostname()}".encode()).hexdigest()
