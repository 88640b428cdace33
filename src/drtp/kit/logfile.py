"""Where log lines go: never a reason to fail, and a file that its process keeps below a size.

A full disk or a closed pipe costs lines, which are counted, and nothing else. A process whose standard error is a log
file of its own (named in the environment by whoever started it) moves the file aside and goes on in a new one: it is
the only writer, so no line is lost between the two, as would be if somebody else copied the file and cut it off.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TextIO, cast

from prometheus_client import Counter

BYTES_MAX = 8 << 20
KEPT = 3
"""Older files beside the current one: 32 MiB for each process at most."""

LOG_FILE = "DRTP_LOG_FILE"
"""Environment variable: the file to which standard error of this process is appended."""

LINES_LOST = Counter("drtp_log_lines_lost", "Log lines that could not be written.", registry=None)


class LogStream(io.TextIOBase):
    """A text stream for whole lines on the descriptor `descriptor`, which `path` names if it is a file to rotate."""

    def __init__(self, descriptor: int, path: Path | None = None, bytes_max: int = BYTES_MAX, kept: int = KEPT) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._path = path
        self._bytes_max = bytes_max
        self._kept = kept
        self._torn = False

    def write(self, text: str, /) -> int:
        """Append; whatever happens to the disk, the caller goes on."""
        data = text.encode(errors="backslashreplace")
        if self._torn:
            data = b"\n" + data
        try:
            self._make_room(len(data))
            self._torn = os.write(self._descriptor, data) < len(data)
        except OSError:
            LINES_LOST.inc()
        else:
            LINES_LOST.inc(self._torn)
        return len(text)

    def _make_room(self, wanted: int) -> None:
        if self._path is None or os.fstat(self._descriptor).st_size + wanted <= self._bytes_max:
            return
        with contextlib.suppress(OSError):
            self._rotate(self._path)

    def _rotate(self, path: Path) -> None:
        names = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, self._kept + 1))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)
        fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # The same number, so that whatever else writes to standard error follows.
            os.dup2(fresh, self._descriptor)
        finally:
            os.close(fresh)


def own_stderr() -> TextIO:
    """Standard error of this process. The variable is taken out: a grandchild has another file."""
    written = os.environ.pop(LOG_FILE, "")
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):
        return sys.stderr  # No file at all: somebody in this process reads it.
    return cast("TextIO", LogStream(descriptor, Path(written) if written else None))
