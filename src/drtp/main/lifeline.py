"""A child's thread to its supervisor: a pipe that ends when the supervisor does, however it ends.

Children of a supervisor that was killed would go on without anybody to stop them. So each watches a descriptor that
only the supervisor holds the other end of, and stops in order, as at SIGTERM, when that end closes.
"""

from __future__ import annotations

import os
import signal
import threading

LIFELINE_FD = "DRTP_LIFELINE_FD"
"""Environment variable with the number of the inherited descriptor."""


def hold_lifeline() -> None:
    """Watch the lifeline named in the environment, if any. The variable is removed: grandchildren have none."""
    written = os.environ.pop(LIFELINE_FD, "")
    if not written.isdecimal():
        return
    descriptor = int(written)
    try:
        os.set_inheritable(descriptor, False)
    except OSError:
        return
    threading.Thread(target=_watch, args=(descriptor,), name="lifeline", daemon=True).start()


def _watch(descriptor: int) -> None:
    try:
        while os.read(descriptor, 64):
            continue
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGTERM)
