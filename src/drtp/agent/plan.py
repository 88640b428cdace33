"""The TunnelPlan as this agent reads it: what the core is given, and what is refused here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from drtp.agent.pins import Pins
from drtp.agent.view import server_name
from drtp.api.snapshots import DenyEntry, Entry, MeasureTarget, PlanServer, PlanService, Snapshot
from drtp.client.roundtrips import Target
from drtp.kit.errors import Refused


@dataclass(frozen=True, slots=True)
class Plan:
    """`measured`: servers that this agent may be given. `documents`: entries for the core, by key. `refused`: entries
    that are not in force, by key, with the reason.
    """

    servers: tuple[PlanServer, ...] = ()
    measured: tuple[MeasureTarget, ...] = ()
    services: tuple[PlanService, ...] = ()
    entries: Mapping[str, Entry] = field(default_factory=dict[str, Entry])
    documents: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    refused: dict[str, str] = field(default_factory=dict[str, str])

    def also_refused(self, faults: dict[str, str]) -> Plan:
        """With what the core refused."""
        return replace(self, refused={**self.refused, **faults})


def read_plan(snapshot: Snapshot, pins: Pins, before: Plan | None = None, *, allow_target: bool) -> Plan:
    """Sort a snapshot's entries. One refused service never stops another.

    Documents of entries that are the very ones of `before` are taken over, so that a change costs what has changed.
    """
    known = before or Plan()
    servers: list[PlanServer] = []
    measured: list[MeasureTarget] = []
    services: list[PlanService] = []
    documents: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for key, entry in snapshot.entries.items():
        match entry:
            case PlanServer():
                servers.append(entry)
            case DenyEntry():
                pass
            case MeasureTarget():
                # Not for the core, which keeps sessions.
                measured.append(entry)
                continue
            case PlanService():
                services.append(entry)
                try:
                    pins.judge(entry, allow_target=allow_target)
                except Refused as refusal:
                    refused[key] = f"{refusal.code}: {refusal.what}"
                    continue
            case _:
                refused[key] = "DRTP-4015: this entry is not for an agent."
                continue
        same = known.entries.get(key) is entry and key in known.documents
        documents[key] = known.documents[key] if same else msgspec.to_builtins(entry)
    servers.sort(key=lambda server: (_ORDER[server.role.value], server.name))
    services.sort(key=lambda service: (service.namespace, service.name, service.connection))
    return Plan(tuple(servers), tuple(measured), tuple(services), snapshot.entries, documents, refused)


_ORDER = {"Primary": 0, "Secondary": 1, "Tertiary": 2, "Leaving": 3}


def targets_of(plan: Plan) -> Iterator[Target]:
    """What to measure: those that it may be given, and those that it has, in the same way."""
    for server in plan.servers:
        yield Target(server_name(server.name), server.address, server.port)
    for target in plan.measured:
        yield Target(target.name, target.address, target.port)


def service_key(connection: str) -> str:
    """The plan key of a connection's service."""
    return f"service/{connection}"
