"""Entries as a gateway carries them out at one moment: access by what it knows, with the schedules looked at.

A gateway knows a visitor's address and the time, and at HTTP hosts who has signed in. Countries and carriers are
left to the POP, which decides again; what is left here lets in everybody whom the POP might (`rules.asking.by_address`,
`by_visitor`). Live connections are the POP's to cut.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from drtp.api.snapshots import Access, Entry, HttpHost, SniExposure, TcpExposure, UdpExposure
from drtp.rules import asking
from drtp.rules.timely import Timely


class Clocked(Timely):
    """Until the next edge of a schedule in an entry."""

    def __init__(self) -> None:
        super().__init__(_made)


def _made(entry: Entry, now: datetime) -> tuple[Entry, float | None]:
    moment = int(now.timestamp())
    if isinstance(entry, HttpHost):
        rules = tuple(
            msgspec.structs.replace(rule, access=asking.by_visitor(rule.access, moment)) for rule in entry.rules
        )
        carried, accesses = msgspec.structs.replace(entry, rules=rules), [rule.access for rule in entry.rules]
    elif isinstance(entry, TcpExposure | UdpExposure | SniExposure):
        carried = msgspec.structs.replace(entry, access=asking.by_address(entry.access, moment))
        accesses = [entry.access]
    else:
        return entry, None
    if not any(_asks_more(access) for access in accesses):
        return entry, None
    edges = (asking.edge(access, moment) for access in accesses)
    return carried, min((edge for edge in edges if edge is not None), default=None)


def _asks_more(access: Access) -> bool:
    return any(one.clauses or one.dry_run for one in access.lists)
