"""One process for one directory: a lock that the kernel lets go of however the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from drtp.kit.errors import Terminal

_DIGITS_MAX = 20
"""Of a process id."""


@contextmanager
def exclusive(path: Path, code: str, what: str) -> Generator[None, None, None]:
    """Hold the lock file `path`, with our process id in it.

    Raises: Terminal(`code`, `what`, with the process that holds it named), OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, _DIGITS_MAX, 0).decode("ascii", "replace").strip()
            named = f" (process {holder})." if holder.isdecimal() else "."
            raise Terminal(code, what.rstrip(".") + named) from None
        with contextlib.suppress(OSError):  # a full disk: the id is for people, the lock holds without
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
