"""`datumctl servers`: the tunnel servers near here, with distance and measured round trip."""

from __future__ import annotations

import asyncio

import click
import msgspec

from drtp.api.drtp import API_VERSION, DRTPServer, Location
from drtp.api.meta import Model
from drtp.client.roundtrips import handshake
from drtp.kit.clock import SystemClock
from drtp.main.commands.options import Location as LocationOption
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import api_of
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.tables import table
from drtp.main.datum.target import host_port
from drtp.main.shell import run_async
from drtp.rules.placement import distance_km, position_of

_MEASUREMENTS = 3
_MEASURE_WITHIN_S = 2.0


class ServerLine(Model, frozen=True, omit_defaults=False):
    """One tunnel server. `round_trip_millis` None: it could not be reached from here."""

    name: str
    pop: str
    address: str
    ready: str
    unschedulable: bool
    health: int | None = None
    distance_km: float | None = None
    round_trip_millis: float | None = None


@click.command()
@context_option
@click.option("--location", type=LocationOption(), envvar="DRTP_LOCATION", help="Where this machine is, for distances.")
@output_option
def servers(location: tuple[str, str] | None, output: OutputForm) -> int:
    """List tunnel servers, the nearest first."""
    return run_async(_servers(Invocation.current(), location, output))


async def _servers(invocation: Invocation, location: tuple[str, str] | None, output: OutputForm) -> int:
    async with api_of(invocation) as api:
        listed = (await api.list(API_VERSION, "drtpservers"))["items"]
    found = msgspec.convert(listed, type=list[DRTPServer])
    async with asyncio.TaskGroup() as together:
        measuring = [together.create_task(_round_trip_ms(server)) for server in found]
    lines = sorted(
        (_line(server, location, task.result()) for server, task in zip(found, measuring, strict=True)),
        key=_nearness,
    )
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(lines).decode())
        return 0
    titles = ("name", "pop", "address", "ready", "health", "distance", "round trip")
    click.echo(table(titles, [_cells(line) for line in lines]))
    return 0


def _line(server: DRTPServer, location: tuple[str, str] | None, round_trip_ms: float | None) -> ServerLine:
    here = position_of(Location(latitude=location[0], longitude=location[1])) if location else None
    there = position_of(server.spec.location)
    return ServerLine(
        name=server.metadata.name,
        pop=server.spec.pop,
        address=host_port(*_address(server)),
        ready=next((c.status.value for c in server.status.conditions if c.type == "Ready"), "Unknown"),
        unschedulable=server.spec.unschedulable,
        health=server.status.health,
        distance_km=round(distance_km(here, there), 1) if here and there else None,
        round_trip_millis=None if round_trip_ms is None else round(round_trip_ms, 2),
    )


def _nearness(line: ServerLine) -> tuple[bool, float, float, str]:
    return line.round_trip_millis is None, line.round_trip_millis or 0.0, line.distance_km or 0.0, line.name


def _cells(line: ServerLine) -> tuple[str, ...]:
    return (
        line.name,
        line.pop,
        line.address,
        f"{line.ready},drained" if line.unschedulable else line.ready,
        "-" if line.health is None else str(line.health),
        "-" if line.distance_km is None else f"{line.distance_km:.0f} km",
        "unreachable" if line.round_trip_millis is None else f"{line.round_trip_millis:.1f} ms",
    )


def _address(server: DRTPServer) -> tuple[str, int]:
    return server.spec.server_ip, next((listener.port for listener in server.spec.listeners), 443)


async def _round_trip_ms(server: DRTPServer) -> float | None:
    """The best of a few TCP handshakes; None if none was answered."""
    clock = SystemClock()
    until_s = clock.monotonic() + _MEASURE_WITHIN_S
    times: list[float] = []
    for _ in range(_MEASUREMENTS):
        left_s = until_s - clock.monotonic()
        found = await handshake(*_address(server), clock, left_s) if left_s > 0 else None
        if found is not None and found.round_trip_ms is not None:
            times.append(found.round_trip_ms)
    return min(times, default=None)
