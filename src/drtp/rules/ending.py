"""Entries as an edge carries them out at one moment: without callers whose end has come.

A subscription ends by the clock, and the edge has one. So an end holds with the control plane down, and to the second;
what the core is given names nobody whom it would have to let go by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from drtp.api.snapshots import Caller, Entry, PlanService, RouteEntry
from drtp.rules.timely import Timely


class Ending(Timely):
    """Until the next end in an entry."""

    def __init__(self) -> None:
        super().__init__(_made)


def _made(entry: Entry, now: datetime) -> tuple[Entry, float | None]:
    if not isinstance(entry, RouteEntry | PlanService):
        return entry, None
    ends = [one.until for one in (*entry.callers, *entry.conditional) if one.until is not None]
    if not ends:
        return entry, None
    carried = msgspec.structs.replace(
        entry, callers=_left(entry.callers, now), conditional=_left(entry.conditional, now)
    )
    return carried, min((end.timestamp() for end in ends if now < end), default=None)


def _left(named: Iterable[Caller], now: datetime) -> tuple[Caller, ...]:
    """Those who are let in still, without their ends."""
    return tuple(msgspec.structs.replace(one, until=None) for one in named if one.until is None or now < one.until)
