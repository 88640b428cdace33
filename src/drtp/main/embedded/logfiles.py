"""One log file for each child, which it keeps below a size by itself (`drtp.kit.logfile`)."""

from __future__ import annotations

import os
from pathlib import Path


def open_log(path: Path) -> int:
    """A descriptor that appends; children write to it by themselves, so a dead supervisor breaks no child."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def last_lines(path: Path, count: int = 5) -> list[str]:
    """The end of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
