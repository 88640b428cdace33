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
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.tunnel.edge import SNAPSHOT
from bench.tunnel.load import Address
from bench.tunnel.ways import Opens, Way, answers, answers_datagrams, between, free_port, running
from drtp.api.drtp import Protocol
from drtp.api.snapshots import (
    Backend,
    EndpointMode,
    Entry,
    GatewayListener,
    ListenerProtocol,
    PopEndpoint,
    ProbeTarget,
    TcpExposure,
    TrustEntry,
    UdpExposure,
    WeightedBackend,
)
from drtp.gateway.envoy import find_envoy
from drtp.kit.sockets import directory_mark
from edge_world import ANYONE, Authority, enrolled, plan_server, plan_service, route, snapshot

POP_NAME = "p1.tunnel.test.example"
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
def drtp_by_quic(service: Address, scratch: Path) -> Generator[Way]:
    """As `drtp`, with a QUIC lane in the place of TCP's."""
    with _tunnel(service, scratch, Authority(), Protocol.TCP, quic=True) as tunnel:
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


def whole(mode: EndpointMode) -> Opens:
    """The whole path: Envoy under a gateway host, a hop in this mode to the POP, mutual TLS 1.3 on to the agent."""

    @contextlib.contextmanager
    def open_way(service: Address, scratch: Path) -> Generator[Way]:
        authority = Authority()
        with _tunnel(service, scratch, authority, Protocol.TCP, mode) as tunnel:
            home, at = scratch / "gateway", ("127.0.0.1", free_port())
            enrolled(home, authority.identity("gateway", "g1"))
            _snapshot(home, _behind_envoy(at, tunnel, scratch / "pop" / "endpoints", mode))
            log = scratch / "gateway.log"
            argv = [*EDGE, "envoy", home, str(scratch / "pop" / "endpoints")]
            with running(argv, log, env=_environment()) as gateway:
                envoy = int(str(_said(gateway, log, "envoy")))
                answers(at)
                yield Way(at, (*tunnel.pids, gateway.pid, envoy))

    return open_way


def envoy_alone(service: Address, scratch: Path) -> AbstractContextManager[Way]:
    """The same Envoy, as a TCP proxy straight to the service."""
    return _envoy_alone(service, scratch)


@contextlib.contextmanager
def _envoy_alone(service: Address, scratch: Path) -> Generator[Way]:
    at = ("127.0.0.1", free_port())
    (scratch / "alone.json").write_bytes(msgspec.json.encode(_tcp_proxy(at, service)))
    argv = [find_envoy(None), "-c", scratch / "alone.json", "--use-dynamic-base-id", "--log-level", "error"]
    with running(argv, scratch / "alone.log") as envoy:
        answers(at)
        yield Way(at, (envoy.pid,))


def _tcp_proxy(at: Address, service: Address) -> dict[str, object]:
    def address(of: Address) -> dict[str, object]:
        return {"address": {"socket_address": {"address": of[0], "port_value": of[1]}}}

    kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    proxy = {"name": "tcp", "typed_config": {"@type": kind, "stat_prefix": "alone", "cluster": "service"}}
    ends = [{"lb_endpoints": [{"endpoint": address(service)}]}]
    limits = {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000}]}
    cluster = {
        "name": "service",
        "type": "STATIC",
        "circuit_breakers": limits,
        "load_assignment": {"cluster_name": "service", "endpoints": ends},
    }
    listener = {"name": "in", "enable_reuse_port": False, "filter_chains": [{"filters": [proxy]}], **address(at)}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _behind_envoy(at: Address, tunnel: _Tunnel, sockets: Path, mode: EndpointMode) -> dict[str, Entry]:
    """A gateway's table: the service behind one TCP port, on the one POP."""
    host, _, port = tunnel.endpoint.rpartition(":")
    path = str(sockets / "c1.sock") if mode is EndpointMode.UNIX else ""
    end = PopEndpoint(
        connection="c1",
        server="p1",
        server_name=POP_NAME,
        mode=mode,
        address=host,
        port=int(port),
        path=path,
        introductions=True,
    )
    shares = (WeightedBackend(service="s1"),)
    listener = GatewayListener(address=at[0], port=at[1], protocol=ListenerProtocol.TCP)
    return {
        f"listener/{at[0]}/{at[1]}": listener,
        f"tcp/{at[0]}/{at[1]}": TcpExposure(address=at[0], port=at[1], access=ANYONE, backends=shares),
        "backend/s1": Backend(service="s1", namespace="joe", name="echo", protocol=Protocol.TCP, endpoints=(end,)),
        "pop/p1": ProbeTarget(
            server="p1",
            name=POP_NAME,
            address="127.0.0.1",
            health_port=tunnel.health,
            tunnel_port=tunnel.listener,
            sockets=str(sockets),
            sockets_mark=directory_mark(sockets),
        ),
    }


def _exposed(at: Address, tunnel_port: int) -> dict[str, Entry]:
    """A gateway's table: the service behind one UDP port, on the one POP."""
    end = PopEndpoint(connection="c1", server="p1", server_name=POP_NAME, mode=EndpointMode.MTLS, port=9)
    shares = (WeightedBackend(service="s1"),)
    return {
        f"udp/{at[0]}/{at[1]}": UdpExposure(address=at[0], port=at[1], access=ANYONE, backends=shares),
        "backend/s1": Backend(service="s1", namespace="joe", name="echo", protocol=Protocol.UDP, endpoints=(end,)),
        "pop/p1": ProbeTarget(server="p1", name=POP_NAME, address="127.0.0.1", health_port=9, tunnel_port=tunnel_port),
    }


@dataclass(frozen=True)
class _Tunnel:
    """A POP and an agent: where lanes and visitors come in, and their processes."""

    listener: int
    endpoint: str
    health: int
    pids: tuple[int, ...]


@contextlib.contextmanager
def _tunnel(
    service: Address,
    scratch: Path,
    authority: Authority,
    protocol: Protocol,
    mode: EndpointMode = EndpointMode.PLAIN,
    *,
    quic: bool = False,
) -> Generator[_Tunnel]:
    homes = {role: scratch / role for role in ("pop", "agent")}
    enrolled(homes["pop"], authority.identity("pop", "p1", POP_NAME))
    enrolled(homes["agent"], authority.identity("agent", "a1"))
    there = msgspec.structs.replace(route(mode=mode), protocol=protocol)
    _snapshot(homes["pop"], {"route/c1": there, "trust": TrustEntry(("g1",))})
    log, by = scratch / "pop.log", ["quic"] if quic else []
    argv = [*EDGE, "pop", homes["pop"], str(free_port()), between.get().listens, *by]
    with running(argv, log, env=_environment()) as pop:
        listener, health = (int(str(_said(pop, log, door))) for door in ("listener", "health"))
        here = msgspec.structs.replace(plan_service(service[1]), protocol=protocol)
        dialled = msgspec.structs.replace(plan_server("p1", listener), address=between.get().dialled)
        _snapshot(homes["agent"], {"server/p1": dialled, "service/c1": here})
        with running([*EDGE, "agent", homes["agent"], *by], scratch / "agent.log", env=_environment()) as agent:
            yield _Tunnel(listener, str(_said(pop, log, "endpoint")), health, (pop.pid, agent.pid))


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
