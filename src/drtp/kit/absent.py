"""Leaves out what a library would load although nobody here uses it."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def absent(name: str) -> Generator[None]:
    """While the block runs, importing `name` fails as if it were not installed; unless it is loaded already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # pyright: ignore[reportArgumentType] - how Python spells it
    try:
        yield
    finally:
        del sys.modules[name]
