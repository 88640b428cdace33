"""UDP at the gateway: what the core is told, and a visitor's datagrams through a real gateway core, POP and agent."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from drtp.api.drtp import EndpointMode, LocalService, Protocol, ProxyProtocol
from drtp.api.reports import ExposureState
from drtp.api.snapshots import (
    Access,
    Backend,
    Entry,
    GatewayListener,
    ListenerProtocol,
    PopEndpoint,
    ProbeTarget,
    Source,
    TrustEntry,
    UdpExposure,
    WeightedBackend,
)
from drtp.client.identity import Identity
from drtp.gateway.flows import FlowBook, RotatingLog
from drtp.gateway.program import Credentials
from drtp.gateway.udp import UdpHost, aim_of
from drtp.kit.clock import SystemClock
from drtp.kit.files import write_atomic
from drtp.tunnel import AgentConfig, Delta, ServerConfig, Target, TunnelAgent, TunnelIdentity, TunnelServer
from edge_world import ANYONE, NOBODY, Authority, plan_server, plan_service, route, until


def of(identity: Identity) -> TunnelIdentity:
    return TunnelIdentity(identity.chain_pem, identity.key_pem, identity.bundle_pem)


def exposure(port: int, access: Access = ANYONE, *, enabled: bool = True) -> dict[str, Entry]:
    shares = (WeightedBackend(service="s1"),)
    entry = UdpExposure(
        address="127.0.0.1", port=port, access=access, backends=shares, enabled=enabled, sources=(Source("r1", 1),)
    )
    return {f"udp/127.0.0.1/{port}": entry}


def behind(tunnel_port: int) -> dict[str, Entry]:
    """The service `s1` on the POP `p1`."""
    end = PopEndpoint(
        connection="c1", server="p1", server_name="p1.tunnel.test.example", mode=EndpointMode.MTLS, port=9
    )
    backend = Backend(
        service="s1", namespace="joe", name="echo", protocol=Protocol.UDP, endpoints=(end,), sources=(Source("s1", 1),)
    )
    target = ProbeTarget(
        server="p1", name="p1.tunnel.test.example", address="127.0.0.1", health_port=9, tunnel_port=tunnel_port
    )
    return {"backend/s1": backend, "pop/p1": target}


def test_without_an_exposure_nobody_is_dialled() -> None:
    assert aim_of(behind(443)).documents == {}


def test_a_listener_names_the_connections_behind_its_services() -> None:
    documents = aim_of({**exposure(5353), **behind(443)}).documents
    assert documents["server/p1"]["port"] == 443
    (share,) = documents["udp/127.0.0.1/5353"]["backends"]
    assert share["endpoints"] == [{"connection": "c1", "server": "p1", "priority": 0}]
    assert documents["udp/127.0.0.1/5353"]["access"]["lists"] == ({"default": "Allow"},)


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Answering(asyncio.DatagramProtocol):
    """A local service, or a visitor: keeps what came, and answers if it is to."""

    def __init__(self, *, echo: bool) -> None:
        self.echo = echo
        self.came: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.came.put_nowait(data)
        if self.echo:
            self.transport.sendto(data, addr)


class World:
    """A POP, an agent and the UDP side of a gateway host."""

    def __init__(self, tmp_path: Path) -> None:
        self.authority = Authority()
        self.path = tmp_path
        self.access_log = tmp_path / "access.jsonl"
        self.flows = FlowBook(RotatingLog(self.access_log, 1 << 20, 1))
        self.host = UdpHost(tmp_path / "epoch", self.flows, SystemClock())
        self.tunnel_port = 0

    def tell(self, entries: dict[str, Entry]) -> None:
        self.flows.name_services(self.host.aim(entries))

    def states(self) -> dict[str, tuple[ExposureState, str]]:
        return {key: (report.state, report.message) for key, report in self.host.conclude().items()}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[int]:
        """Gives the local service's port."""
        loop = asyncio.get_running_loop()
        transport, _service = await loop.create_datagram_endpoint(
            lambda: Answering(echo=True), local_addr=("127.0.0.1", 0)
        )
        service_port = int(transport.get_extra_info("sockname")[1])
        pop = TunnelServer(
            ServerConfig(listeners=("127.0.0.1:0",)), of(self.authority.identity("pop", "p1", "p1.tunnel.test.example"))
        )
        self.tunnel_port = int(pop.agent_addresses[0].rpartition(":")[2])
        target = Target(host="127.0.0.1", port=service_port)
        agent = TunnelAgent(
            AgentConfig(epoch=1, targets={"joe/echo": target}), of(self.authority.identity("agent", "a1"))
        )
        chain = self.authority.identity("gateway", "g1")
        self.host.use(Credentials(chain.chain_pem, chain.key_pem.reveal(), chain.bundle_pem))
        try:
            at_pop = msgspec.structs.replace(route(), protocol=Protocol.UDP)
            document = {**built(at_pop), "bind": {"path": str(self.path / "c1.sock")}, "mode": "unix"}
            await pop.apply(Delta(whole=True, upsert={"route/c1": document, "trust": built(TrustEntry(("g1",)))}))
            served = msgspec.structs.replace(
                plan_service(service_port),
                protocol=Protocol.UDP,
                local=LocalService(host="127.0.0.1", port=service_port),
            )
            assert served.proxy_protocol is ProxyProtocol.NONE
            plan: dict[str, Mapping[str, Any]] = {
                "server/p1": built(plan_server("p1", self.tunnel_port)),
                "service/c1": built(served),
            }
            await agent.apply(Delta(whole=True, upsert=plan))
            async with asyncio.TaskGroup() as group:
                running = group.create_task(self.host.run())
                yield service_port
                running.cancel()
        finally:
            await self.host.close()
            await agent.close()
            await pop.close()
            transport.close()


def built(entry: Entry) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(entry)
    return document


@asynccontextmanager
async def visitor(port: int) -> AsyncGenerator[Answering]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Answering(echo=False), remote_addr=("127.0.0.1", port)
    )
    try:
        yield protocol
    finally:
        transport.close()


async def asked(someone: Answering, question: bytes) -> bytes:
    """The answer. Asked once a second: the agent may still be on its way, and datagrams may be lost."""
    async with asyncio.timeout(15):
        while True:
            someone.transport.sendto(question)
            try:
                async with asyncio.timeout(1):
                    return await someone.came.get()
            except TimeoutError:
                continue


async def test_a_visitor_is_answered_counted_and_logged(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        port = free_udp_port()
        world.tell({**exposure(port), **behind(world.tunnel_port)})
        await until(lambda: set(world.states()) == {f"udp/127.0.0.1/{port}", "backend/s1"})
        assert {state for state, _ in world.states().values()} == {ExposureState.PROGRAMMED}
        async with visitor(port) as someone:
            assert await asked(someone, b"question") == b"question"
            sent_from = someone.transport.get_extra_info("sockname")[1]
        # Nobody may visit any more: the live flow ends with the same table.
        world.tell({**exposure(port, NOBODY), **behind(world.tunnel_port)})
        await until(world.access_log.exists)
        entry = json.loads(world.access_log.read_text().splitlines()[-1])
        assert (entry["visitor"], entry["visitor_port"], entry["cluster"]) == ("127.0.0.1", sent_from, "udp/s1")
        assert entry["received_datagrams"] >= 1
        assert entry["received_bytes"] == 8 * entry["received_datagrams"]
        assert (entry["event"], entry["details"]) == ("end", "access denied")
        assert world.flows.counts["s1"].visitors == 1


async def test_live_flows_are_counted_as_they_come_and_go(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert await world.host.flows() == 0
    async with world.running():
        port = free_udp_port()
        world.tell({**exposure(port), **behind(world.tunnel_port)})
        async with visitor(port) as one, visitor(port) as other:
            assert await asked(one, b"question") == b"question"
            assert await world.host.flows() == 1
            assert await asked(other, b"question") == b"question"
            assert await world.host.flows() == 2
        world.tell({**exposure(port, NOBODY), **behind(world.tunnel_port)})

        async def nobody_is_left() -> bool:
            return await world.host.flows() == 0

        await until(nobody_is_left)


async def test_a_port_that_is_taken_fails_alone_and_heals(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            taken, free = int(other.getsockname()[1]), free_udp_port()
            listener = GatewayListener(address="127.0.0.1", port=taken, protocol=ListenerProtocol.UDP)
            stands: dict[str, Entry] = {f"listener/127.0.0.1/{taken}/udp": listener}
            world.tell({**stands, **exposure(taken), **exposure(free), **behind(world.tunnel_port)})
            await until(lambda: f"udp/127.0.0.1/{free}" in world.states())
            state, message = world.states()[f"udp/127.0.0.1/{taken}"]
            assert state is ExposureState.FAILED and "in use" in message
            assert world.states()[f"listener/127.0.0.1/{taken}/udp"][0] is ExposureState.FAILED
        await until(lambda: world.states()[f"udp/127.0.0.1/{taken}"][0] is ExposureState.PROGRAMMED)


async def test_a_core_that_cannot_be_had_fails_udp_and_holds_up_nobody(tmp_path: Path) -> None:
    world = World(tmp_path)
    write_atomic(tmp_path / "epoch", b"no number")
    async with world.running():
        world.tell({**exposure(free_udp_port()), **behind(world.tunnel_port)})
        await until(world.host.settled)
        assert {state for state, _ in world.states().values()} == {ExposureState.FAILED}


async def test_a_disabled_service_leaves_its_port_free(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        port = free_udp_port()
        world.tell({**exposure(port), **behind(world.tunnel_port)})
        await until(lambda: bool(world.states()))
        world.tell({**exposure(port, enabled=False), **behind(world.tunnel_port)})
        await until(lambda: bool(world.states()))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", port))
