"""Ctrl-C before a command has begun: no traceback, and the exit status that shells know. Imported first of all.

A command that has something to finish handles the signal itself; from the first import until then this holds.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

INTERRUPTED = 130
"""128 and the signal's number, as shells count."""

_tell, _tell_unraisable = sys.excepthook, sys.unraisablehook


def _uncaught(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    _tell(kind, fault, trace)


def _unraisable(told: sys.UnraisableHookArgs) -> None:
    """In a destructor, where Python could only print it and go on."""
    if issubclass(told.exc_type, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    _tell_unraisable(told)


sys.excepthook, sys.unraisablehook = _uncaught, _unraisable
