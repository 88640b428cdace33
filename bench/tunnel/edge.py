"""One edge without a control plane, as a process: `python -m bench.tunnel.edge pop|agent|gateway|envoy DIRECTORY …`.

The real hosts and the real core, on a hand-made snapshot: what is measured is the product's own data path. `gateway`
is a gateway's UDP side, which needs no Envoy; `envoy` is the whole of it. DIRECTORY holds the identity and
`by-hand.json`. A last word `quic` lets a POP listen for it, and an agent dial by it. A line on stdout says when it
serves; SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from drtp.agent import AgentHost, AgentSettings
from drtp.api.snapshots import Backend, Snapshot
from drtp.client.feed import Feed
from drtp.client.identity import IdentityStore
from drtp.gateway.flows import FlowBook, RotatingLog
from drtp.gateway.host import GatewayHost
from drtp.gateway.run import credentials_of
from drtp.gateway.settings import GatewaySettings, paths
from drtp.gateway.udp import UdpHost
from drtp.kit.clock import SystemClock
from drtp.pop.run import Pop
from drtp.pop.settings import PopSettings

SNAPSHOT = "by-hand.json"
SETTLED_S = 0.3
"""Envoy takes new endpoints within milliseconds of the host."""


def pop_settings(directory: Path, first_port: int, address: str = "127.0.0.1", *, quic: bool = False) -> PopSettings:
    """One listener at `address`, one endpoint on loopback."""
    return PopSettings(
        directory=directory,
        name="p1.test",
        pop="p1",
        latitude="0",
        longitude="0",
        server_ip=address,
        listeners=(f"{address}:0",),
        endpoint_ports=(first_port, first_port + 9),
        quic=quic,
    )


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def _pop(directory: Path, snapshot: Snapshot, first_port: int, address: str, *, quic: bool) -> None:
    pop = Pop(pop_settings(directory, first_port, address, quic=quic), SystemClock())
    pop.feed.snapshot.set(snapshot)
    async with asyncio.TaskGroup() as group:
        group.create_task(pop.run())
        _say(listener=pop.listener_port)
        _say(health=pop.health_port)
        while True:
            stats = await pop.tunnel.stats()
            live = [connection for connection in stats.connections if connection.live]
            if live:
                break
            await asyncio.sleep(0.01)
        _say(endpoint=live[0].bound)


async def _agent(directory: Path, snapshot: Snapshot, *, quic: bool) -> None:
    settings = AgentSettings(state_dir=directory, quic=quic)
    feed = Feed(IdentityStore(directory), lambda: settings.registration, directory, SystemClock())
    feed.snapshot.set(snapshot)
    host = AgentHost(settings, feed=feed)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, host.stop)
    _say(started=True)
    await host.run()


async def _gateway(directory: Path, snapshot: Snapshot) -> None:
    host = UdpHost(directory / "epoch", FlowBook(RotatingLog(directory / "access.jsonl", 1 << 20, 1)), SystemClock())
    identity = IdentityStore(directory).load()
    assert identity is not None
    host.use(credentials_of(identity))
    host.aim(snapshot.entries)
    _say(started=True)
    await host.run()


async def _envoy(directory: Path, snapshot: Snapshot, sockets: Path) -> None:
    settings = GatewaySettings(directory=directory, name="bench", pop_sockets=(sockets,), drain_timeout_s=0.1)
    host = GatewayHost(settings, paths(directory), SystemClock())
    identity = IdentityStore(directory).load()
    assert identity is not None
    host.use(credentials_of(identity))
    host.apply(snapshot)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        group.create_task(host.run(stop))
        async for envoy in host.serving:
            if any(isinstance(one, Backend) and one.endpoints[0].path for one in snapshot.entries.values()):
                await _near(host)
            _say(envoy=envoy)
            break
        await stop.wait()


async def _near(host: GatewayHost) -> None:
    """Until visitors go over the socket."""
    async for near in host.neighbours.found:
        if near:
            break
    await asyncio.sleep(SETTLED_S)


def main() -> None:
    """Run until SIGTERM."""
    role, where, *rest = sys.argv[1:]
    directory = Path(where)
    snapshot = msgspec.json.decode((directory / SNAPSHOT).read_bytes(), type=Snapshot)
    match role:
        case "pop":
            work = _pop(directory, snapshot, int(rest[0]), rest[1], quic="quic" in rest)
        case "agent":
            work = _agent(directory, snapshot, quic="quic" in rest)
        case "gateway":
            work = _gateway(directory, snapshot)
        case "envoy":
            work = _envoy(directory, snapshot, Path(rest[0]))
        case _:
            raise SystemExit(f"there is no edge {role!r}")
    uvloop.run(work)


if __name__ == "__main__":
    main()
