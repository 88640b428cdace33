"""One process for one directory: a lock that the kernel lets go of however the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from drtp.kit.errors import Terminal


@contextmanager
def exclusive(path: Path, code: str, what: str) -> Generator[None, None, None]:
    """Hold the lock file `path`. Raises: Terminal(`code`, `what`) if another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Terminal(code, what) from None
        yield
    finally:
        os.close(descriptor)
