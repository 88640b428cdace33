"""What there is to say between two views of the agent: one event for each change, none for what only moves. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from drtp.agent.view import AgentView, LocalView, PopView, ServiceView
from drtp.api.drtp import ClientStatus, ServiceAddress
from drtp.main.datum.target import host_port

Event = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """The place that the command line asks for; None: whichever there is."""

    ip: str | None = None
    hostname: str | None = None
    port: int | None = None


def as_asked(service: ServiceView, asked: Asked | None) -> bool:
    """Whether the service is where it was asked to be: a plan from before this start may name a former place."""
    if asked is None:
        return True
    return (asked.hostname is None or any(one.hostname == asked.hostname for one in service.addresses)) and (
        asked.port is None or any(one.port == asked.port for one in service.addresses)
    )


def address_of(service: ServiceView, asked: str | None = None) -> str | None:
    """The address to give to visitors: a URL, or host:port; None if there is no public one."""
    return next(iter(addresses_of(service, asked)), None)


def addresses_of(service: ServiceView, asked: str | None = None) -> list[str]:
    """Every public address of the service, the best one first; `asked` is the IP address that was asked for."""
    ordered = sorted(service.addresses, key=lambda one: asked is not None and one.ip != asked)
    return [written for written in map(_written, ordered) if written]


def connected(view: AgentView) -> list[str]:
    """Names of the tunnel servers that visitors can come through."""
    return [server_name(pop) for pop in view.pops if pop.state is ClientStatus.CONNECTED]


def server_name(pop: PopView) -> str:
    """The DRTPServer's name: what comes before `.tunnel.<suffix>` in the name its certificate carries."""
    return pop.name.partition(".tunnel.")[0]


def ready_event(view: AgentView, service: ServiceView, seconds: float, asked: str | None = None) -> Event:
    """The first event of a service; scripts rely on its members."""
    return {
        "event": "ready",
        "service": service.name,
        "namespace": service.namespace,
        "address": address_of(service, asked),
        "pops": connected(view),
        "seconds": round(seconds, 3),
        "addresses": addresses_of(service, asked),
    }


def changes(before: AgentView, after: AgentView) -> Iterator[Event]:
    """Events for whatever differs, oldest cause first: tunnels, then local services, then services, then the feed."""
    yield from _pop_changes({pop.server: pop for pop in before.pops}, after.pops)
    if connected(before) != connected(after):
        yield {"event": "pops", "pops": connected(after)}
    known = {service.key: service for service in before.services}
    for service in after.services:
        yield from _service_changes(known.get(service.key), service)
    for key in known.keys() - {service.key for service in after.services}:
        yield {"event": "gone", "service": known[key].name, "namespace": known[key].namespace}
    if before.feed.state != after.feed.state:
        yield _without_blanks({"event": "controlplane", "state": after.feed.state, "message": after.feed.message})
    if before.certificate and after.certificate and before.certificate.generation != after.certificate.generation:
        yield {"event": "renewed", "generation": after.certificate.generation}
    if before.phase is not after.phase:
        yield {"event": "phase", "phase": after.phase.value}


def _pop_changes(known: Mapping[str, PopView], present: tuple[PopView, ...]) -> Iterator[Event]:
    for pop in present:
        former = known.get(pop.server)
        if former is None or former.state is not pop.state or (pop.message and former.message != pop.message):
            yield _without_blanks(
                {
                    "event": "pop",
                    "pop": server_name(pop),
                    "state": pop.state.value,
                    "role": pop.role.value,
                    "roundTripMillis": None if pop.round_trip_ms is None else round(pop.round_trip_ms, 2),
                    "way": pop.way,
                    "message": pop.message,
                }
            )
    for server in known.keys() - {pop.server for pop in present}:
        yield {"event": "pop", "pop": server_name(known[server]), "state": "Removed"}


def _service_changes(before: ServiceView | None, after: ServiceView) -> Iterator[Event]:
    who = {"service": after.name, "namespace": after.namespace}
    local = before.local if before else LocalView()
    if local.state is not after.local.state:
        yield _without_blanks(
            {
                "event": "local",
                **who,
                "state": after.local.state.value,
                "target": after.local.target,
                "message": after.local.message,
            }
        )
    if before is None:
        return
    if before.ready != after.ready or (not after.ready and before.reason != after.reason):
        yield _without_blanks(
            {"event": "service", **who, "ready": after.ready, "reason": after.reason, "message": after.message}
        )
    if before.addresses and before.addresses != after.addresses:
        yield {"event": "address", **who, "address": address_of(after), "addresses": addresses_of(after)}
    if before.enabled != after.enabled:
        yield {"event": "enabled" if after.enabled else "disabled", **who}


def _written(address: ServiceAddress) -> str | None:
    if address.url:
        return address.url
    host = address.hostname or address.ip
    if not host:
        return None
    return host_port(host, address.port) if address.port else host


def _without_blanks(event: Event) -> Event:
    return {name: value for name, value in event.items() if value not in (None, "")}
