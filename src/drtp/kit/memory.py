"""Memory that a crowd has left behind goes back to the system.

Connections that ended before they came to anything are cycles, which wait for the collector, and the C library keeps
what they held, in pieces.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

CROWD_MIN = 64
"""Fewer are not worth it."""


class HighWater:
    """Watches a number of connections. Once it has fallen to a quarter of its peak, free memory is given back."""

    def __init__(self) -> None:
        self._peak = 0

    def note(self, connections: int) -> bool:
        """How many there are now. True: memory was given back."""
        self._peak = max(self._peak, connections)
        if self._peak < CROWD_MIN or connections > self._peak // 4:
            return False
        self._peak = connections
        give_back()
        return True


def give_back() -> None:
    """Return what is free; some tens of milliseconds. Other C libraries than glibc have their own ways."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
