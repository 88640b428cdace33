"""Files that survive a crash: written beside, synced, then switched; directories and files kept private."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from drtp.kit.errors import Terminal


def private_directory(path: Path) -> Path:
    """Make `path` (0700), or refuse one that others may enter. Raises: Terminal."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_loose(path, 0o077)
    return path


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` with `data`, durable when this returns; a crash leaves the old or the new, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)  # what a crash left, or somebody's link: never written through (CVE-2026-42275)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path) -> bytes:
    """Read a file that only its owner may read. Raises: Terminal for looser modes, FileNotFoundError."""
    _refuse_loose(path, 0o077)
    return path.read_bytes()


def _refuse_loose(path: Path, forbidden: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & forbidden:
        raise Terminal(
            "DRTP-7001",
            f"{path} may be used by others (mode {mode:04o}).",
            f"Run `chmod go-rwx {path}`; if others could read it, replace the keys in it.",
        )
