"""`datumctl status [SERVICE]`: what is reachable, and what stands in the way of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from drtp.api.drtp import API_VERSION, DRTPConnection, DRTPService, ServiceAddress
from drtp.api.meta import ConditionStatus, Model
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import api_of, namespace_option
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.tables import table, wrapped
from drtp.main.datum.target import host_port
from drtp.main.shell import Exit, run_async


class PathLine(Model, frozen=True, omit_defaults=False):
    """One way in: an agent's connection over one tunnel server."""

    agent: str
    server: str
    role: str
    endpoint: str
    agent_state: str
    round_trip_millis: int | None = None
    round_trip_floor_millis: int | None = None
    jitter_millis: int | None = None
    loss_permille: int | None = None


class LocalLine(Model, frozen=True, omit_defaults=False):
    """A local service, as one agent sees it."""

    agent: str
    state: str
    connect_millis: int | None = None
    jitter_millis: int | None = None
    failures: int | None = None


class ServiceLine(Model, frozen=True, omit_defaults=False):
    """One service. `obstacle` is the first condition that is not true, in its own words."""

    service: str
    ready: bool
    addresses: tuple[str, ...]
    obstacle: str
    paths: tuple[PathLine, ...]
    local: tuple[LocalLine, ...] = ()


@click.command()
@click.argument("service", required=False)
@context_option
@namespace_option
@output_option
def status(service: str | None, namespace: str | None, output: OutputForm) -> int:
    """Show services with their addresses, and each path to them. Exit 69 if SERVICE is not ready."""
    return run_async(_status(Invocation.current(), service, namespace, output))


async def _status(invocation: Invocation, service: str | None, namespace: str | None, output: OutputForm) -> int:
    async with api_of(invocation) as api:
        where = namespace or api.namespace
        if service:
            raw = [await api.get(API_VERSION, "drtpservices", service, namespace=where)]
        else:
            raw = (await api.list(API_VERSION, "drtpservices", namespace=where))["items"]
        listed = (await api.list(API_VERSION, "drtpconnections", namespace=where))["items"]
    connections = msgspec.convert(listed, type=list[DRTPConnection])
    lines = [line_of(one, connections) for one in msgspec.convert(raw, type=list[DRTPService])]
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(lines).decode())
    else:
        _print(lines, where)
    return Exit.UNAVAILABLE if service and not lines[0].ready else Exit.CLEAN


def line_of(service: DRTPService, connections: Sequence[DRTPConnection]) -> ServiceLine:
    """One service with its paths, from the objects of its namespace."""
    conditions = service.status.conditions
    ready = any(one.type == "Ready" and one.status is ConditionStatus.TRUE for one in conditions)
    obstacle = next((c for c in conditions if c.status is not ConditionStatus.TRUE and c.type != "Ready"), None)
    mine = [one for one in connections if one.spec.service_ref.name == service.metadata.name]
    return ServiceLine(
        service=service.metadata.name,
        ready=ready,
        addresses=tuple(map(_written, service.status.addresses)),
        obstacle="" if ready or obstacle is None else f"{obstacle.reason}: {obstacle.message}",
        paths=tuple(
            PathLine(
                agent=connection.spec.client.hostname or "",
                server=server.server_ref.name,
                role=server.role.value,
                endpoint=server.programming_status.value,
                agent_state=server.client_status.value,
                round_trip_millis=server.round_trip_millis,
                round_trip_floor_millis=server.round_trip_floor_millis,
                jitter_millis=server.jitter_millis,
                loss_permille=server.loss_permille,
            )
            for connection in mine
            for server in connection.status.servers
        ),
        local=tuple(
            LocalLine(
                agent=connection.spec.client.hostname or "",
                state=local.state.value,
                connect_millis=local.connect_millis,
                jitter_millis=local.jitter_millis,
                failures=local.failures,
            )
            for connection in mine
            if (local := connection.status.local) is not None
        ),
    )


def nothing_in(project: str) -> str:
    """What is said of a project without services: others may have some."""
    return f"No services in project {project}. `datumctl serve localhost:8080` makes one, --namespace names another."


def _written(address: ServiceAddress) -> str:
    host = address.hostname or address.ip or ""
    return address.url or (host_port(host, address.port) if address.port else host)


def _print(lines: list[ServiceLine], project: str) -> None:
    if not lines:
        click.echo(nothing_in(project), err=True)
        return
    rows = [
        (one.service if first else "", ("yes" if one.ready else "no") if first else "", address)
        for one in lines
        for first, address in zip((True, *[False] * len(one.addresses)), one.addresses or ("-",), strict=False)
    ]
    click.echo(table(("service", "ready", "address"), rows))
    obstacles = [wrapped(f"{one.service}: {one.obstacle}") for one in lines if one.obstacle]
    if obstacles:
        click.echo("\n" + "\n".join(obstacles))
    paths = [
        (one.service, path.agent, path.server, path.role, path.agent_state, *_measures(path))
        for one in lines
        for path in one.paths
    ]
    if paths:
        click.echo("\n" + table(("service", "agent", "pop", "role", "state", "round trip", "jitter", "loss"), paths))
    locals_ = [
        (
            one.service,
            local.agent,
            local.state,
            _millis(local.connect_millis),
            _millis(local.jitter_millis),
            "-" if local.failures is None else str(local.failures),
        )
        for one in lines
        for local in one.local
    ]
    if locals_:
        click.echo("\n" + table(("service", "agent", "local service", "connect", "jitter", "failures"), locals_))


def _measures(path: PathLine) -> tuple[str, str, str]:
    loss = "-" if path.loss_permille is None else f"{path.loss_permille / 10:.1f} %"
    return _millis(path.round_trip_millis), _millis(path.jitter_millis), loss


def _millis(value: int | None) -> str:
    return "-" if value is None else f"{value} ms"
