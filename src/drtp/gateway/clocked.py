"""Entries as a gateway carries them out at one moment: access by addresses alone, with the schedules looked at.

A gateway knows a visitor's address and the time. Countries and carriers are left to the POP, which decides again; what
is left here lets in everybody whom the POP might (`rules.asking.by_address`). Live connections are the POP's to cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from drtp.api.snapshots import Access, Entry, HttpHost, SniExposure, TcpExposure, UdpExposure
from drtp.rules import asking


class _Made(NamedTuple):
    """Of an entry, until the next edge of a schedule in it."""

    entry: Entry
    carried: Entry
    until: int | None


class Clocked:
    """Remembers what it has made, so that an entry that stays the same stays the very same object."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}

    def at(self, entries: Mapping[str, Entry], now: datetime) -> dict[str, Entry]:
        """Every entry as it is to be carried out at `now`."""
        moment = int(now.timestamp())
        made: dict[str, _Made] = {}
        for key, entry in entries.items():
            known = self._made.get(key)
            if known is not None and known.entry is entry and (known.until is None or moment < known.until):
                made[key] = known
            else:
                made[key] = _made(entry, moment)
        self._made = made
        return {key: one.carried for key, one in made.items()}

    def is_due(self, now: datetime) -> bool:
        """Whether a schedule has begun or ended since."""
        moment = int(now.timestamp())
        return any(one.until is not None and moment >= one.until for one in self._made.values())


def _made(entry: Entry, moment: int) -> _Made:
    if isinstance(entry, HttpHost):
        rules = tuple(
            msgspec.structs.replace(rule, access=asking.by_address(rule.access, moment)) for rule in entry.rules
        )
        carried, accesses = msgspec.structs.replace(entry, rules=rules), [rule.access for rule in entry.rules]
    elif isinstance(entry, TcpExposure | UdpExposure | SniExposure):
        carried = msgspec.structs.replace(entry, access=asking.by_address(entry.access, moment))
        accesses = [entry.access]
    else:
        return _Made(entry, entry, None)
    if not any(_asks_more(access) for access in accesses):
        return _Made(entry, entry, None)
    edges = (asking.edge(access, moment) for access in accesses)
    return _Made(entry, carried, min((edge for edge in edges if edge is not None), default=None))


def _asks_more(access: Access) -> bool:
    return any(one.clauses or one.dry_run for one in access.lists)
