"""DRTP as a way: POP endpoint in mode `plain`, mutual TLS 1.3 to the agent; and no relay at all, for the scale.

For datagrams a gateway stands in front, whose hop to the POP is mutual TLS 1.3 too.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.tunnel.edge import SNAPSHOT
from bench.tunnel.load import Address
from bench.tunnel.ways import Way, answers_datagrams, free_port, running
from drtp.api.drtp import Protocol
from drtp.api.snapshots import (
    Backend,
    EndpointMode,
    Entry,
    PopEndpoint,
    ProbeTarget,
    TrustEntry,
    UdpExposure,
    WeightedBackend,
)
from edge_world import ANYONE, Authority, enrolled, plan_server, plan_service, route, snapshot

EDGE = (sys.executable, "-m", "bench.tunnel.edge")


@contextlib.contextmanager
def direct(service: Address, _scratch: Path) -> Generator[Way]:
    """No relay."""
    yield Way(service)


@contextlib.contextmanager
def drtp(service: Address, scratch: Path) -> Generator[Way]:
    """POP endpoint in mode `plain`, mutual TLS 1.3 to the agent."""
    with _tunnel(service, scratch, Authority(), Protocol.TCP) as tunnel:
        host, _, port = tunnel.endpoint.rpartition(":")
        yield Way((host, int(port)), tunnel.pids)


@contextlib.contextmanager
def drtp_datagrams(service: Address, scratch: Path) -> Generator[Way]:
    """The gateway's listener, mutual TLS 1.3 to the POP and on to the agent."""
    authority = Authority()
    with _tunnel(service, scratch, authority, Protocol.UDP) as tunnel:
        home, at = scratch / "gateway", ("127.0.0.1", free_port())
        enrolled(home, authority.identity("gateway", "g1"))
        _snapshot(home, _exposed(at, tunnel.listener))
        with running([*EDGE, "gateway", home], scratch / "gateway.log", env=_environment()) as gateway:
            answers_datagrams(at)
            yield Way(at, (*tunnel.pids, gateway.pid))


def _exposed(at: Address, tunnel_port: int) -> dict[str, Entry]:
    """A gateway's table: the service behind one UDP port, on the one POP."""
    name = "p1.tunnel.test.example"
    end = PopEndpoint(connection="c1", server="p1", server_name=name, mode=EndpointMode.MTLS, port=9)
    shares = (WeightedBackend(service="s1"),)
    return {
        f"udp/{at[0]}/{at[1]}": UdpExposure(address=at[0], port=at[1], access=ANYONE, backends=shares),
        "backend/s1": Backend(service="s1", namespace="joe", name="echo", protocol=Protocol.UDP, endpoints=(end,)),
        "pop/p1": ProbeTarget(server="p1", name=name, address="127.0.0.1", health_port=9, tunnel_port=tunnel_port),
    }


@dataclass(frozen=True)
class _Tunnel:
    """A POP and an agent: where lanes and visitors come in, and their processes."""

    listener: int
    endpoint: str
    pids: tuple[int, ...]


@contextlib.contextmanager
def _tunnel(service: Address, scratch: Path, authority: Authority, protocol: Protocol) -> Generator[_Tunnel]:
    homes = {role: scratch / role for role in ("pop", "agent")}
    enrolled(homes["pop"], authority.identity("pop", "p1", "p1.tunnel.test.example"))
    enrolled(homes["agent"], authority.identity("agent", "a1"))
    there = msgspec.structs.replace(route(), protocol=protocol)
    _snapshot(homes["pop"], {"route/c1": there, "trust": TrustEntry(("g1",))})
    log = scratch / "pop.log"
    with running([*EDGE, "pop", homes["pop"], str(free_port())], log, env=_environment()) as pop:
        listener = int(str(_said(pop, log, "listener")))
        here = msgspec.structs.replace(plan_service(service[1]), protocol=protocol)
        _snapshot(homes["agent"], {"server/p1": plan_server("p1", listener), "service/c1": here})
        with running([*EDGE, "agent", homes["agent"]], scratch / "agent.log", env=_environment()) as agent:
            yield _Tunnel(listener, str(_said(pop, log, "endpoint")), (pop.pid, agent.pid))


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _snapshot(home: Path, entries: dict[str, Entry]) -> None:
    (home / SNAPSHOT).write_bytes(msgspec.json.encode(snapshot(entries)))


def _said(process: subprocess.Popen[str], log: Path, fact: str) -> object:
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(json.JSONDecodeError):
            said = json.loads(line)
            if fact in said:
                return said[fact]
    raise RuntimeError(f"{process.args} ended before it said {fact}: {log.read_text()[-2000:]}")
