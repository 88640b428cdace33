"""Connector host, POP host and agent host back to back: the real core on loopback, no control plane anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import msgspec
import pytest

from drtp.agent import AgentHost, AgentPhase, PopView
from drtp.agent.connector import SETTLED_S, ConnectorHost, ConnectorSettings
from drtp.agent.connectplan import Port
from drtp.agent.connectview import ConnectorView
from drtp.agent.settings import LocalAddress
from drtp.api.drtp import ClientStatus, EndpointMode, Protocol
from drtp.api.reports import ConnectorRegistration
from drtp.api.snapshots import Caller, ConnectWay, Entry, PlanConnect
from drtp.api.spiffe import bundle_digest
from drtp.client.feed import Feed, FeedPhase, FeedState
from drtp.client.identity import IdentityStore
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Terminal
from drtp.pop.run import Pop
from drtp.tunnel import FlowRecord, Target
from edge_world import (
    NOBODY,
    TRUST_DOMAIN,
    Authority,
    echo_service,
    enrolled,
    plan_server,
    plan_service,
    route,
    snapshot,
    until,
)
from unit.agent.test_back_to_back import World

CALLERS = (Caller(identity="x1", kind="user", uid="u1", name="bob"),)
PORT = Port("joe/echo")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    agent = made.authority.leaf([f"spiffe://{TRUST_DOMAIN}/org/o1/project/p1/agent/a1"], [f"a1.agent.{TRUST_DOMAIN}"])
    enrolled(tmp_path / "agent", agent)
    enrolled(tmp_path / "connector", made.authority.leaf([f"spiffe://{TRUST_DOMAIN}/user/u1/connector/x1"], []))
    return made


def callable_route() -> Entry:
    """Nobody may visit; bob's connector may call."""
    return msgspec.structs.replace(route(access=NOBODY, mode=EndpointMode.MTLS), callers=CALLERS)


def plan(pop: Pop, reason: str = "", protocol: Protocol = Protocol.TCP) -> dict[str, Entry]:
    ways = () if reason else (ConnectWay("c1", "a1", ("p1",)),)
    told = PlanConnect(namespace="joe", name="echo", service="s1", protocol=protocol, ways=ways, reason=reason)
    return {"server/p1": plan_server("p1", pop.listener_port), "connect/joe/echo": told}


def host_of(world: World, *ports: Port, inspector: LocalAddress | None = None) -> ConnectorHost:
    settings = ConnectorSettings(
        state_dir=world.path / "connector",
        ports=ports or (PORT,),
        registration=ConnectorRegistration(services=("joe/echo",)),
        local_address=inspector,
        drain_s=5.0,
    )
    return ConnectorHost(settings)


def tell(world: World, host: ConnectorHost, entries: dict[str, Entry]) -> None:
    world.sequence += 1
    host._feed.snapshot.set(snapshot(dict(entries), world.sequence))


@asynccontextmanager
async def running(host: ConnectorHost) -> AsyncGenerator[ConnectorHost]:
    async with asyncio.TaskGroup() as group:
        group.create_task(host.run())
        try:
            yield host
        finally:
            host.stop()
            host.stop()


def seen(host: ConnectorHost) -> ConnectorView:
    assert host.view.value is not None
    return host.view.value


async def call(host: ConnectorHost, words: bytes) -> bytes:
    address, port = seen(host).ports[0].local.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(address, int(port))
    writer.write(words)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_call_passes_sealed_and_both_ends_know_whose_it_was(world: World) -> None:
    async with echo_service() as port, world.pop(entries={"route/c1": callable_route()}) as pop:
        served = msgspec.structs.replace(plan_service(port), callers=CALLERS, sealed_only=True)
        entries: dict[str, Entry] = {"server/p1": plan_server("p1", pop.listener_port), "service/c1": served}
        targets = {"joe/echo": Target(host="127.0.0.1", port=port)}
        async with world.agent(entries, targets=targets) as agent, running(host_of(world)) as host:
            tell(world, host, plan(pop))
            await until(lambda: seen(host).ready)
            assert seen(host).ports[0].pops == ("p1",)
            await until(lambda: any(pop.state is ClientStatus.CONNECTED for pop in pops_of(agent)))
            assert await call(host, b"words") == b"words"
            await until(lambda: [flow.caller for flow in flows_of(agent)] == ["user:bob"])
            await until(lambda: [flow.outcome for flow in seen(host).flows] == ["finished"])


@pytest.mark.parametrize("knows", ["the POP", "the agent"])
async def test_an_end_by_the_clock_cuts_its_caller_with_no_control_plane_to_say_so(world: World, knows: str) -> None:
    async with echo_service() as port, world.pop(entries={"route/c1": callable_route()}) as pop:
        served = msgspec.structs.replace(plan_service(port), callers=CALLERS, sealed_only=True)
        entries: dict[str, Entry] = {"server/p1": plan_server("p1", pop.listener_port), "service/c1": served}
        targets = {"joe/echo": Target(host="127.0.0.1", port=port)}
        async with world.agent(entries, targets=targets) as agent, running(host_of(world)) as host:
            tell(world, host, plan(pop))
            await until(lambda: seen(host).ready)
            await until(lambda: any(pop.state is ClientStatus.CONNECTED for pop in pops_of(agent)))
            address, local = seen(host).ports[0].local.rsplit(":", 1)
            reader, writer = await asyncio.open_connection(address, int(local))
            writer.write(b"words")
            assert await reader.readexactly(5) == b"words"
            ends = datetime.now(UTC) + timedelta(seconds=1)
            ending = (msgspec.structs.replace(CALLERS[0], until=ends),)
            if knows == "the POP":
                world.tell(pop, {"route/c1": msgspec.structs.replace(callable_route(), callers=ending)})
            else:
                world.tell(agent, entries | {"service/c1": msgspec.structs.replace(served, callers=ending)})
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            assert ends <= datetime.now(UTC) < ends + timedelta(seconds=3)
            writer.close()
            with contextlib.suppress(OSError):  # a connection that was reset already has no end to write
                assert await call(host, b"more") == b""


async def test_a_udp_service_is_presented_at_a_udp_port_that_outlives_a_refusal(world: World) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.1", 0))
        service.setblocking(False)

        async def answered(place: str, words: bytes) -> bytes:
            with socket.socket(type=socket.SOCK_DGRAM) as program:
                program.setblocking(False)
                program.connect(("127.0.0.1", int(place.rpartition(":")[2])))
                async with asyncio.timeout(10):
                    await loop.sock_sendall(program, words)
                    question, caller = await loop.sock_recvfrom(service, 100)
                    await loop.sock_sendto(service, question, caller)
                    return await loop.sock_recv(program, 100)

        port = service.getsockname()[1]
        udp = msgspec.structs.replace(callable_route(), protocol=Protocol.UDP)
        async with world.pop(entries={"route/c1": udp}) as pop:
            served = msgspec.structs.replace(
                plan_service(port), callers=CALLERS, sealed_only=True, protocol=Protocol.UDP
            )
            entries: dict[str, Entry] = {"server/p1": plan_server("p1", pop.listener_port), "service/c1": served}
            targets = {"joe/echo": Target(host="127.0.0.1", port=port)}
            async with world.agent(entries, targets=targets) as agent, running(host_of(world)) as host:
                told = plan(pop, protocol=Protocol.UDP)
                tell(world, host, told)
                await until(lambda: seen(host).ready and seen(host).ports[0].protocol is Protocol.UDP)
                await until(lambda: any(pop.state is ClientStatus.CONNECTED for pop in pops_of(agent)))
                place = seen(host).ports[0].local
                assert await answered(place, b"words") == b"words"
                tell(world, host, {"connect/joe/echo": PlanConnect(namespace="joe", name="echo", reason="NotAllowed")})
                await until(lambda: [port.code for port in seen(host).ports] == ["DRTP-4060"])
                await until(lambda: seen(host).ports[0].streams == 0)
                assert (seen(host).ports[0].local, seen(host).ports[0].protocol) == (place, Protocol.UDP)
                tell(world, host, told)
                await until(lambda: seen(host).ready)
                # From another source: the first one was refused, and is left alone for a moment.
                assert await answered(place, b"again") == b"again"
                await until(lambda: seen(host).ports[0].datagrams_out == 2)


def pops_of(agent: AgentHost) -> tuple[PopView, ...]:
    assert agent.view.value is not None
    return agent.view.value.pops


def flows_of(agent: AgentHost) -> tuple[FlowRecord, ...]:
    assert agent.view.value is not None
    return agent.view.value.flows


async def test_a_port_is_taken_at_once_and_one_that_another_holds_ends_the_start(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        host = host_of(world, Port("joe/echo", port=taken.getsockname()[1]))
        with pytest.raises(Terminal) as refused:
            await host.run()
        assert refused.value.code == "DRTP-4062"
        assert seen(host).phase is AgentPhase.FAILED


async def test_what_the_plan_says_is_in_the_ready_page_and_a_restart_goes_on_from_disk(world: World) -> None:
    async with world.pop(entries={"route/c1": callable_route()}) as pop:
        async with running(host_of(world, inspector=LocalAddress("127.0.0.1", 0))) as host:
            await until(lambda: bool(seen(host).local_url))
            async with aiohttp.ClientSession() as http:
                async with http.get(f"{seen(host).local_url}/ready") as answer:
                    assert answer.status == 503
                tell(world, host, plan(pop, "NotAllowed"))
                await until(lambda: [port.code for port in seen(host).ports] == ["DRTP-4060"])
                tell(world, host, plan(pop))
                await until(lambda: seen(host).ready)
                async with http.get(f"{seen(host).local_url}/ready") as answer:
                    assert (answer.status, (await answer.json())["services"][0]["service"]) == (200, "joe/echo")
            held = world.path / "connector" / "snapshot.json"
            # The newest one: that of before led nowhere.
            await until(lambda: held.exists() and b'"ways"' in held.read_bytes())
        async with running(host_of(world)) as again:
            await until(lambda: seen(again).ready)


async def test_a_connector_says_which_roots_it_trusts_as_soon_as_it_does(world: World) -> None:
    """A root that is rotated waits for every edge to say so: one that never does is waited for without end."""
    async with world.pop(entries={"route/c1": callable_route()}) as pop, running(host_of(world)) as host:
        tell(world, host, plan(pop))
        await until(lambda: any(one.state is ClientStatus.CONNECTED for one in seen(host).pops))
        former = host._feed.identity.value
        assert former is not None
        both = former.bundle_pem + Authority().bundle_pem
        host._feed.identity.set(replace(former, bundle_pem=both))
        await until(lambda: host._feed._trusting.value == bundle_digest(both))


@pytest.mark.parametrize("says_more", [True, False])
async def test_a_no_from_disk_is_not_taken_for_the_control_planes(
    world: World, says_more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was let in since the last time is: what is newer comes a moment after the feed is up, if there is any."""
    async with world.pop(entries={"route/c1": callable_route()}) as pop:
        settings = host_of(world)._settings
        feed = Feed(IdentityStore(settings.state_dir), lambda: settings.registration, settings.state_dir, SystemClock())
        monkeypatch.setattr(feed, "run", asyncio.Event().wait)  # its state is said here, and nobody else tries
        feed.snapshot.set(snapshot(plan(pop, reason="NotAllowed"), 1))
        async with running(ConnectorHost(settings, feed=feed)) as host:
            await until(lambda: [port.code for port in seen(host).ports] == ["DRTP-4060"])
            feed.state.set(FeedState(FeedPhase.UP))
            began = time.monotonic()
            if says_more:
                feed.snapshot.set(snapshot(plan(pop), 2))
                await until(lambda: seen(host).planned)
                assert seen(host).ports[0].code != "DRTP-4060"
            else:
                await until(lambda: seen(host).planned)
                assert seen(host).ports[0].code == "DRTP-4060"
                assert time.monotonic() - began >= SETTLED_S
