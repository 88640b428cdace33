"""Entries as an edge carries them out at one moment: without callers whose end has come.

A subscription ends by the clock, and the edge has one. So an end holds with the control plane down, and to the second;
what the core is given names nobody whom it would have to let go by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from drtp.api.snapshots import Caller, Entry, PlanService, RouteEntry


class _Made(NamedTuple):
    """Of an entry, until the next end in it."""

    entry: Entry
    carried: Entry
    until: datetime | None


class Ending:
    """Remembers what it has made, so that an entry that stays the same stays the very same object."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}

    def at(self, entries: Mapping[str, Entry], now: datetime) -> dict[str, Entry]:
        """Every entry as it is to be carried out at `now`."""
        made: dict[str, _Made] = {}
        for key, entry in entries.items():
            known = self._made.get(key)
            same = known is not None and known.entry is entry and (known.until is None or now < known.until)
            made[key] = known if known is not None and same else _made(entry, now)
        self._made = made
        return {key: one.carried for key, one in made.items()}

    def is_due(self, now: datetime) -> bool:
        """Whether an end has come since."""
        return any(one.until is not None and now >= one.until for one in self._made.values())


def _made(entry: Entry, now: datetime) -> _Made:
    if not isinstance(entry, RouteEntry | PlanService):
        return _Made(entry, entry, None)
    ends = [one.until for one in (*entry.callers, *entry.conditional) if one.until is not None]
    if not ends:
        return _Made(entry, entry, None)
    carried = msgspec.structs.replace(
        entry, callers=_left(entry.callers, now), conditional=_left(entry.conditional, now)
    )
    return _Made(entry, carried, min((end for end in ends if now < end), default=None))


def _left(named: Iterable[Caller], now: datetime) -> tuple[Caller, ...]:
    """Those who are let in still, without their ends."""
    return tuple(msgspec.structs.replace(one, until=None) for one in named if one.until is None or now < one.until)
