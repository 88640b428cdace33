"""Ctrl-C and SIGTERM, for commands that drain at the first and end at the second."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Generator[None]:
    """Calls `stop` at each of these signals while the block runs, and ignores them after it."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            # All is over but for the interpreter's own end, in which one Ctrl-C too many is only noise.
            signal.signal(number, signal.SIG_IGN)
