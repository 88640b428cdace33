"""Memory that is free is used again, or goes back to the system.

Connections that ended before they came to anything are cycles, which wait for the collector, and the C library keeps
what they held, in pieces; what one thread makes and another lets go stays with the first one's arena.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

CROWD_MIN = 64
"""Fewer are not worth it."""
ARENAS_MAX = 2
"""One for the loop, one for the tunnel's driver."""
_M_ARENA_MAX = -8
"""glibc's `malloc.h`."""


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


def share_arenas() -> None:
    """From now on threads share a few arenas of the C library, not eight for each core: bytes that pass from one thread
    to another would leave holes in every one of them, for hours. For the start of a process; glibc alone has arenas.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS_MAX)


def give_back() -> None:
    """Return what is free; some tens of milliseconds. Other C libraries than glibc have their own ways."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
