"""When a figure is worth saying, and when it is worth writing: gauges move all the time, and a store is no gauge.

An edge says a figure again when it has moved noteworthily. The control plane writes figures with a transition, or where
one appears; else once in `EVERY` at most, and then only if one has moved noteworthily from what is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from drtp.api.drtp import DRTPConnectionStatus, LocalServiceStatus, ServerStatus

SHARE = 0.2
"""A figure that moved by less than this share of itself has not moved."""

STEP_MS = 1.0
STEP_LOSS = 0.01
"""Nor has one that moved by less than this, for an edge's report."""

EVERY = timedelta(seconds=60)
WRITTEN_STEP = 2
WRITTEN_STEP_PERMILLE = 10
"""Nor, for the store, by less than this (milliseconds, failures; thousandths)."""

MILLIS_MAX = 3_600_000.0
"""What a report may say: a process that was stopped for long measures more."""


def settled(said: float | None, measured: float | None, step: float = STEP_MS, share: float = SHARE) -> float | None:
    """The figure to say: the old one unless the new one differs noteworthily, or is nothing."""
    if said is None or not measured:
        return None if measured is None else _rounded(measured, step)
    moved = abs(measured - said)
    return said if moved < step or moved < said * share else _rounded(measured, step)


def _rounded(measured: float, step: float) -> float:
    return round(min(measured, MILLIS_MAX), 2 if step >= STEP_MS else 3)


class Refresh(NamedTuple):
    """`status` to write, and in how many seconds to look again because a figure waits for its turn."""

    status: DRTPConnectionStatus
    look_again_s: float | None = None


def refreshed(before: DRTPConnectionStatus, fresh: DRTPConnectionStatus, now: datetime) -> Refresh:
    """`fresh` with its figures where they are due, else with those of `before`."""
    written, measured = dict(_figures(before)), dict(_figures(fresh))
    if not measured:
        return Refresh(msgspec.structs.replace(fresh, measured_time=before.measured_time))
    appeared = any(written.get(name) is None for name in measured)
    due = msgspec.structs.replace(fresh, measured_time=now.replace(microsecond=0))
    if appeared or _blank(before) != _blank(fresh):
        return Refresh(
            due if written != measured else msgspec.structs.replace(fresh, measured_time=before.measured_time)
        )
    kept = msgspec.structs.replace(
        fresh, servers=before.servers, local=before.local, measured_time=before.measured_time
    )
    if not any(_moved(name, written[name], value) for name, value in measured.items()):
        return Refresh(kept)
    wait_s = (before.measured_time + EVERY - now).total_seconds() if before.measured_time else 0.0
    return Refresh(kept, wait_s) if wait_s > 0 else Refresh(due)


_Name = tuple[str, str]
"""Whose figure (a server's name, "" for the local service), and which."""

_OF_SERVER = ("round_trip_millis", "round_trip_floor_millis", "jitter_millis", "loss_permille")
_OF_LOCAL = ("connect_millis", "jitter_millis", "failures")


def _figures(status: DRTPConnectionStatus) -> Iterator[tuple[_Name, int]]:
    for server in status.servers:
        yield from _some(server.server_ref.name, server, _OF_SERVER)
    if status.local is not None:
        yield from _some("", status.local, _OF_LOCAL)


def _some(whose: str, holder: ServerStatus | LocalServiceStatus, names: tuple[str, ...]) -> Iterator[tuple[_Name, int]]:
    for name in names:
        value: int | None = getattr(holder, name)
        if value is not None:
            yield (whose, name), value


def _blank(status: DRTPConnectionStatus) -> DRTPConnectionStatus:
    """Everything but figures."""
    nothing = dict.fromkeys(_OF_SERVER)
    local = status.local and msgspec.structs.replace(status.local, **dict.fromkeys(_OF_LOCAL))
    servers = tuple(msgspec.structs.replace(server, **nothing) for server in status.servers)
    return msgspec.structs.replace(status, servers=servers, local=local, measured_time=None)


def _moved(name: _Name, written: int, measured: int) -> bool:
    step = WRITTEN_STEP_PERMILLE if name[1] == "loss_permille" else WRITTEN_STEP
    by = abs(measured - written)
    return by >= step and by >= written * SHARE
