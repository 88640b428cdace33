"""The RouteTable as this POP reads it: every route with its own endpoint, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from drtp.api.snapshots import DenyEntry, EndpointMode, MeasureTarget, RouteEntry, Snapshot, TrustEntry
from drtp.kit.sockets import PATH_BYTES_MAX
from drtp.pop.ports import Place


@dataclass(frozen=True, slots=True)
class Table:
    """By entry key: routes, documents for the core, and reasons of those that are not in force; and whom to measure."""

    routes: dict[str, RouteEntry] = field(default_factory=dict[str, RouteEntry])
    documents: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    gateways: frozenset[str] = frozenset()
    peers: list[MeasureTarget] = field(default_factory=list[MeasureTarget])


def port_users(snapshot: Snapshot) -> set[str]:
    """Connections whose endpoint has a TCP port: all of them, a `unix` one for gateways elsewhere."""
    return {entry.connection for entry in snapshot.entries.values() if isinstance(entry, RouteEntry)}


def read_table(
    snapshot: Snapshot, places: Mapping[str, Place | None], sockets: Path, before: Table | None = None
) -> Table:
    """Give each route its bind address. One refused entry never stops another.

    Documents of entries that are the very ones of `before` are taken over, so that a change costs what has changed.
    """
    known = before or Table()
    table = Table(gateways=_trusted(snapshot))
    for key, entry in snapshot.entries.items():
        match entry:
            case RouteEntry():
                table.routes[key] = entry
                bind = _bind(entry, places, sockets)
                if isinstance(bind, str):
                    table.refused[key] = bind
                elif known.routes.get(key) is entry and known.documents.get(key, {}).get("bind") == bind:
                    table.documents[key] = known.documents[key]
                else:
                    table.documents[key] = {**msgspec.to_builtins(entry), "bind": bind}
            case TrustEntry() | DenyEntry():
                table.documents[key] = msgspec.to_builtins(entry)
            case MeasureTarget():
                table.peers.append(entry)
            case _:
                table.refused[key] = "DRTP-4024: this entry is not for a POP."
    return table


def _bind(entry: RouteEntry, places: Mapping[str, Place | None], sockets: Path) -> dict[str, str | int] | str:
    """Where the endpoint is bound, or why nowhere."""
    place = places.get(entry.connection)
    if place is None:
        return "DRTP-4020: every endpoint port of this POP is in use or resting."
    if entry.mode is not EndpointMode.UNIX:
        return {"address": place.address, "port": place.port}
    path = sockets / f"{entry.connection}.sock"
    if "/" in entry.connection or len(bytes(path)) > PATH_BYTES_MAX:
        return f"DRTP-4023: {path} cannot be the path of a socket."
    return {"address": place.address, "port": place.port, "path": str(path)}


def _trusted(snapshot: Snapshot) -> frozenset[str]:
    return frozenset(
        uid for entry in snapshot.entries.values() if isinstance(entry, TrustEntry) for uid in entry.gateways
    )
