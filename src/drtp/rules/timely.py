"""Entries as an edge carries them out at one moment: made anew where they have changed or their moment has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from drtp.api.snapshots import Entry

Make = Callable[[Entry, datetime], tuple[Entry, float | None]]
"""(entry, now) -> the entry as it is carried out, and when (Unix s) it becomes another one; None: not by the clock."""


class _Made(NamedTuple):
    entry: Entry
    carried: Entry
    until_s: float | None


class Timely:
    """Remembers what it has made, so that an entry that stays the same stays the very same object."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._made: dict[str, _Made] = {}

    def at(self, entries: Mapping[str, Entry], now: datetime) -> dict[str, Entry]:
        """Every entry as it is to be carried out at `now`."""
        moment_s = now.timestamp()
        made: dict[str, _Made] = {}
        for key, entry in entries.items():
            known = self._made.get(key)
            same = known is not None and known.entry is entry and not _is_over(known, moment_s)
            made[key] = known if known is not None and same else _Made(entry, *self._make(entry, now))
        self._made = made
        return {key: one.carried for key, one in made.items()}

    def is_due(self, now: datetime) -> bool:
        """Whether the moment of one has come since."""
        moment_s = now.timestamp()
        return any(_is_over(one, moment_s) for one in self._made.values())


def _is_over(one: _Made, moment_s: float) -> bool:
    return one.until_s is not None and moment_s >= one.until_s
