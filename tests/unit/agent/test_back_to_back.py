"""POP host and agent host back to back: the real core on loopback, no control plane anywhere."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from drtp.agent import AgentHost, AgentPhase, AgentSettings, AgentView
from drtp.agent.settings import LocalAddress
from drtp.api.drtp import Action, ClientStatus, ProgrammingStatus, Role
from drtp.api.reports import PopReport, RouteReport
from drtp.api.snapshots import Access, AccessList, AccessListRule, DenyEntry, Entry
from drtp.api.spiffe import key_fingerprint
from drtp.client import home
from drtp.client.identity import IdentityStore
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Terminal
from drtp.pop.run import Pop
from drtp.pop.settings import PopSettings
from drtp.tunnel import Target
from edge_world import Authority, echo_service, enrolled, plan_server, plan_service, route, snapshot, until

HALF_WRITTEN = shutil.ignore_patterns(".*.tmp")
"""Gone again before they can be copied."""
PORT_RANGES = itertools.cycle((first, first + 99) for first in range(10000, 25000, 100))
"""A hundred ports for each POP, so that two POPs of one test never want the same."""


class World:
    """One authority, POPs by uid, one agent `a1`."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.authority = Authority()
        self.sequence = 0
        self._ranges: dict[str, tuple[int, int]] = {}

    def pop_settings(self, uid: str) -> PopSettings:
        return PopSettings(
            directory=self.path / uid,
            name=f"{uid}.test",
            pop=uid,
            latitude="0",
            longitude="0",
            server_ip="127.0.0.1",
            listeners=("127.0.0.1:0",),
            endpoint_ports=self._ranges.setdefault(uid, next(PORT_RANGES)),
            drain_s=5.0,
        )

    @asynccontextmanager
    async def pop(self, uid: str = "p1", entries: dict[str, Entry] | None = None) -> AsyncGenerator[Pop, None]:
        if not (self.path / uid / "identity").exists():
            enrolled(self.path / uid, self.authority.identity("pop", uid, f"{uid}.tunnel.test.example"))
        pop = Pop(self.pop_settings(uid), SystemClock())
        if entries is not None:
            self.tell(pop, entries)
        async with asyncio.TaskGroup() as group:
            group.create_task(pop.run())
            try:
                yield pop
            finally:
                pop.stop()
                pop.stop()

    def tell(self, host: Pop | AgentHost, entries: dict[str, Entry]) -> None:
        """As a control plane would."""
        self.sequence += 1
        feed = host.feed if isinstance(host, Pop) else host._feed
        feed.snapshot.set(snapshot(dict(entries), self.sequence))

    def agent_host(self, directory: str = "agent", **changes: Any) -> AgentHost:
        state = self.path / directory
        if not (state / "identity").exists():
            enrolled(state, self.authority.identity("agent", "a1"))
        return AgentHost(AgentSettings(state_dir=state, drain_s=5.0, **changes))

    @asynccontextmanager
    async def agent(self, entries: dict[str, Entry], **changes: Any) -> AsyncGenerator[AgentHost, None]:
        host = self.agent_host(**changes)
        self.tell(host, entries)
        async with asyncio.TaskGroup() as group:
            group.create_task(host.run())
            try:
                yield host
            finally:
                host.stop()
                host.stop()


def report(pop: Pop, key: str = "route/c1") -> RouteReport | None:
    found = pop.feed.reports.reports.get(key)
    return found if isinstance(found, RouteReport) else None


def endpoint(pop: Pop) -> tuple[str, int]:
    return endpoint_of(pop, "route/c1")


def endpoint_of(pop: Pop, key: str) -> tuple[str, int]:
    told = report(pop, key)
    assert told is not None
    return told.address, told.port


def connected(pop: Pop) -> bool:
    """The agent's session is there, and so is the endpoint where visitors arrive."""
    told = report(pop)
    return told is not None and told.session.status is ClientStatus.CONNECTED and told.port != 0


def seen(host: AgentHost) -> AgentView:
    assert host.view.value is not None
    return host.view.value


def plan(pop: Pop, port: int, *others: Pop) -> dict[str, Entry]:
    pops = (pop, *others)
    roles = (Role.PRIMARY, Role.SECONDARY)
    servers = {
        f"server/{one._settings.pop}": plan_server(one._settings.pop, one.listener_port, role)
        for one, role in zip(pops, roles, strict=False)
    }
    service = plan_service(port, servers=tuple(one._settings.pop for one in pops))
    return {**servers, "service/c1": service}


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    writer.write(data)
    async with asyncio.timeout(5):
        return await reader.readexactly(len(data))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_visitor_reaches_the_local_service_and_everybody_sees_it(world: World) -> None:
    async with (
        echo_service() as port,
        world.pop(entries={"route/c1": route()}) as pop,
        world.agent(plan(pop, port)) as agent,
    ):
        await until(lambda: seen(agent).ready and connected(pop))
        reader, writer = await asyncio.open_connection(*endpoint(pop))
        assert await echoed(reader, writer, b"hello") == b"hello"
        await until(lambda: seen(agent).services[0].streams == 1)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await until(lambda: len(seen(agent).flows) == 1)
        flow = seen(agent).flows[0]
        assert (flow.bytes_in, flow.bytes_out, flow.service) == (5, 5, "joe/echo")
        view = seen(agent)
        assert view.phase is AgentPhase.READY
        assert view.pops[0].state is ClientStatus.CONNECTED
        assert view.services[0].paths[0].ready
        told = report(pop)
        assert told is not None
        assert told.programming is ProgrammingStatus.PROGRAMMED
        assert told.sources == route().sources
        assert told.session.agent == "a1"


async def test_r28_port_and_service_survive_a_restart_with_the_control_plane_down(world: World) -> None:
    async with echo_service() as port:
        async with world.pop(entries={"route/c1": route()}) as pop:
            await until(lambda: report(pop) is not None and endpoint(pop)[1] != 0)
            before = endpoint(pop)
            await until(lambda: pop.feed._persisted.value is not None)
        async with world.pop() as pop, world.agent(plan(pop, port)):
            await until(lambda: connected(pop))
            assert endpoint(pop) == before
            reader, writer = await asyncio.open_connection(*before)
            assert await echoed(reader, writer, b"still here") == b"still here"
            writer.close()


async def test_r28_an_agent_that_restarts_serves_from_its_disk(world: World) -> None:
    async with echo_service() as port, world.pop(entries={"route/c1": route()}) as pop:
        async with world.agent(plan(pop, port)) as agent:
            await until(lambda: connected(pop) and agent._feed._persisted.value is not None)
        again = world.agent_host()
        async with asyncio.TaskGroup() as group:
            group.create_task(again.run())
            await until(lambda: seen(again).ready)
            again.stop()
        assert seen(again).phase is AgentPhase.STOPPED
        assert seen(again).feed.state != "Up"


async def test_a_lost_pop_leaves_the_other_path(world: World) -> None:
    async with (
        echo_service() as port,
        world.pop("p2", {"route/c1": route()}) as second,
        world.pop("p1", {"route/c1": route()}) as first,
        world.agent(plan(first, port, second)) as agent,
    ):
        await until(lambda: connected(first) and connected(second) and bool(seen(agent).services))
        await until(lambda: all(path.ready for path in seen(agent).services[0].paths))
        first.stop()
        first.stop()
        await until(lambda: not seen(agent).services[0].paths[0].ready)
        assert seen(agent).services[0].ready
        reader, writer = await asyncio.open_connection(*endpoint(second))
        assert await echoed(reader, writer, b"other way") == b"other way"
        writer.close()


async def test_r6_a_removed_route_cuts_its_visitor(world: World) -> None:
    async with (
        echo_service() as port,
        world.pop(entries={"route/c1": route()}) as pop,
        world.agent(plan(pop, port)),
    ):
        await until(lambda: connected(pop))
        reader, writer = await asyncio.open_connection(*endpoint(pop))
        await echoed(reader, writer, b"x")
        world.tell(pop, {})
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(2):
                await reader.read()
        writer.close()


async def test_revoked_visitor_is_cut_within_one_apply(world: World) -> None:
    loopback_denied = Access(
        lists=(AccessList(default=Action.ALLOW, rules=(AccessListRule(action=Action.DENY, cidrs=("127.0.0.0/8",)),)),)
    )
    async with (
        echo_service() as port,
        world.pop(entries={"route/c1": route()}) as pop,
        world.agent(plan(pop, port)),
    ):
        await until(lambda: connected(pop))
        reader, writer = await asyncio.open_connection(*endpoint(pop))
        await echoed(reader, writer, b"x")
        await pop.host.apply(snapshot({"route/c1": route(access=loopback_denied)}, 99))
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(2):
                await reader.read()
        writer.close()


async def test_r6_a_revoked_agent_loses_its_visitors_on_every_pop_within_two_seconds(world: World) -> None:
    routes: dict[str, Entry] = {"route/c1": route()}
    async with (
        echo_service() as port,
        world.pop("p1", routes) as first,
        world.pop("p2", routes) as second,
        world.agent(plan(first, port, second)) as agent,
    ):
        await until(lambda: connected(first) and connected(second))
        visitors = [await asyncio.open_connection(*endpoint(pop)) for pop in (first, second)]
        for reader, writer in visitors:
            await echoed(reader, writer, b"x")
        async with asyncio.timeout(2):
            for pop in (first, second):
                # Its routes still name it: the deny-list alone must do.
                world.tell(pop, {**routes, "deny": DenyEntry(minimum_generation={"a1": -1})})
            for reader, _writer in visitors:
                with pytest.raises(ConnectionResetError):
                    await reader.read()
        await until(lambda: not first.host.stats.sessions and not second.host.stats.sessions)
        await until(lambda: any("revoked" in pop.message for pop in seen(agent).pops))
        for _reader, writer in visitors:
            writer.close()


@pytest.mark.parametrize("left_by", ["agent", "pop"])
async def test_a_key_that_was_left_behind_is_believed_at_neither_end(world: World, left_by: str) -> None:
    routes: dict[str, Entry] = {"route/c1": route()}
    async with echo_service() as port, world.pop(entries=routes) as pop, world.agent(plan(pop, port)) as agent:
        await until(lambda: connected(pop))
        told, entries = (pop, routes) if left_by == "agent" else (agent, plan(pop, port))
        identity = IdentityStore(world.path / ("agent" if left_by == "agent" else "p1")).load()
        assert identity is not None
        key = key_fingerprint(x509.load_pem_x509_certificates(identity.chain_pem)[0].public_key())
        reader, writer = await asyncio.open_connection(*endpoint(pop))
        await echoed(reader, writer, b"x")
        generations = {} if left_by == "agent" else {"p1": 0}  # as each is told
        world.tell(told, {**entries, "deny": DenyEntry(generations, (key,))})
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await until(lambda: not pop.host.stats.sessions)
        await until(lambda: any("revoked" in one.message for one in seen(agent).pops))
        if left_by == "pop":  # an agent that was told to go is in no hurry to come back
            world.tell(told, {**entries, "deny": DenyEntry(generations, ("0" * 64,))})
            await until(lambda: connected(pop))
        writer.close()


async def test_a_bad_entry_is_quarantined_and_the_others_go_on(world: World) -> None:
    entries: dict[str, Entry] = {"route/c1": route(), "server/p9": plan_server("p9", 1)}
    async with world.pop(entries=entries) as pop:
        await until(lambda: report(pop) is not None and endpoint(pop)[1] != 0)
        applied = pop.feed._applied.value
        assert applied is not None
        assert list(applied.quarantined) == ["server/p9"]


async def test_a_port_held_by_a_stranger_is_replaced(world: World) -> None:
    first = world.pop_settings("p1").endpoint_ports[0]
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", first))
        stranger.listen()
        async with world.pop(entries={"route/c1": route()}) as pop:
            await until(lambda: report(pop) is not None and endpoint(pop)[1] != 0)
            assert endpoint(pop)[1] > first


async def test_a_port_that_a_stranger_takes_before_the_agent_comes_is_replaced(world: World) -> None:
    """A clear endpoint is bound at once and listens only while an agent is there: the port may be lost in between."""
    async with echo_service() as port, world.pop(entries={"route/c1": route()}) as pop:
        await until(lambda: report(pop) is not None and endpoint(pop)[1] != 0)
        before = endpoint(pop)
        with socket.socket() as stranger:
            # As most servers do; it may bind a port that another has bound so too and does not listen on.
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(before)
            stranger.listen()
            async with world.agent(plan(pop, port)):
                await until(lambda: connected(pop) and endpoint(pop) != before)
                reader, writer = await asyncio.open_connection(*endpoint(pop))
                assert await echoed(reader, writer, b"elsewhere") == b"elsewhere"
                writer.close()


async def test_a_second_process_with_the_same_state_directory_is_refused(world: World) -> None:
    async with world.pop(entries={}) as pop, world.agent(plan(pop, 1)) as agent:
        await until(lambda: seen(agent).phase is not AgentPhase.STARTING)
        second = world.agent_host()
        with pytest.raises(Terminal, match="DRTP-4010"):
            await second.run()
        assert seen(second).phase is AgentPhase.FAILED
        assert seen(second).failure is not None


async def test_a_copied_state_directory_is_refused_and_the_first_goes_on(world: World) -> None:
    async with (
        echo_service() as port,
        world.pop(entries={"route/c1": route()}) as pop,
        world.agent(plan(pop, port)) as agent,
    ):
        await until(lambda: connected(pop))
        reader, writer = await asyncio.open_connection(*endpoint(pop))
        assert await echoed(reader, writer, b"before") == b"before"
        shutil.copytree(world.path / "agent", world.path / "copy", symlinks=True, ignore=HALF_WRITTEN)
        with pytest.raises(Terminal, match="DRTP-4040"):
            world.agent_host("copy")
        assert await echoed(reader, writer, b"after") == b"after"
        assert connected(pop)
        await until(lambda: seen(agent).phase is AgentPhase.READY)
        writer.close()


async def test_a_restart_from_the_same_directory_is_let_in_at_once(world: World) -> None:
    """Whatever became of the session before it: here it is still open (frp#5391)."""
    async with echo_service() as port, world.pop(entries={"route/c1": route()}) as pop:
        first = world.agent_host()
        world.tell(first, plan(pop, port))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(_outcome(first))
            await until(lambda: connected(pop))
            # The lock is gone, as after a kill, and the POP has not noticed yet.
            (world.path / "agent" / "lock").unlink()
            again = world.agent_host()
            world.tell(again, plan(pop, port))
            began = asyncio.get_running_loop().time()
            group.create_task(again.run())
            await until(lambda: seen(again).ready)
            assert asyncio.get_running_loop().time() - began < 2
            assert (await ending) is not None
            again.stop()


async def test_a_renamed_state_directory_is_itself_and_a_moved_one_when_told(world: World) -> None:
    async with echo_service() as port, world.pop(entries={"route/c1": route()}) as pop:
        async with world.agent(plan(pop, port)) as agent:
            await until(lambda: connected(pop) and agent._feed._persisted.value is not None)
        (world.path / "agent").rename(world.path / "renamed")
        world.agent_host("renamed")
        shutil.copytree(world.path / "renamed", world.path / "elsewhere", symlinks=True, ignore=HALF_WRITTEN)
        shutil.rmtree(world.path / "renamed")
        with pytest.raises(Terminal, match="DRTP-4040"):
            world.agent_host("elsewhere")
        home.settle(world.path / "elsewhere")
        again = world.agent_host("elsewhere")
        async with asyncio.TaskGroup() as group:
            group.create_task(again.run())
            await until(lambda: seen(again).ready)
            again.stop()


async def test_a_clone_that_denies_being_one_does_not_duel(world: World) -> None:
    """The newer epoch fences the older instance, which stops for good (frp#5391)."""
    async with world.pop(entries={"route/c1": route()}) as pop:
        older, entries = world.agent_host(), plan(pop, 1)
        shutil.copytree(world.path / "agent", world.path / "clone", symlinks=True, ignore=HALF_WRITTEN)
        (world.path / "clone" / home.HOME_FILE).unlink()
        world.tell(older, entries)
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(_outcome(older))
            await until(lambda: connected(pop))
            newer = world.agent_host("clone")
            world.tell(newer, entries)
            group.create_task(newer.run())
            failure = await ending
            assert failure is not None
            assert failure.code == "DRTP-4011"
            assert seen(older).phase is AgentPhase.FAILED
            await until(lambda: connected(pop))
            newer.stop()


async def _outcome(host: AgentHost) -> Terminal | None:
    try:
        await host.run()
    except Terminal as failure:
        return failure
    return None


async def test_a_stopping_agent_lets_its_visitor_finish(world: World) -> None:
    async with echo_service() as port, world.pop(entries={"route/c1": route()}) as pop:
        agent = world.agent_host()
        world.tell(agent, plan(pop, port))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(agent.run())
            await until(lambda: connected(pop))
            reader, writer = await asyncio.open_connection(*endpoint(pop))
            await echoed(reader, writer, b"x")
            agent.stop()
            await until(lambda: seen(agent).phase is AgentPhase.DRAINING)
            assert await echoed(reader, writer, b"while draining") == b"while draining"
            assert not ending.done()
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            async with asyncio.timeout(3):
                await ending
        assert seen(agent).phase is AgentPhase.STOPPED


def says_that_it_drains(pop: Pop) -> bool:
    own = pop.feed.reports.reports["self"]
    return isinstance(own, PopReport) and own.draining


async def test_a_draining_pop_says_so_and_lets_its_visitor_finish(world: World) -> None:
    async with (
        echo_service() as port,
        world.pop(entries={"route/c1": route()}) as pop,
        world.agent(plan(pop, port)),
    ):
        await until(lambda: connected(pop))
        reader, writer = await asyncio.open_connection(*endpoint(pop))
        await echoed(reader, writer, b"x")
        pop.stop()
        await until(lambda: says_that_it_drains(pop))
        assert await echoed(reader, writer, b"while draining") == b"while draining"
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_a_stopping_pop_serves_newcomers_until_its_gateways_have_moved(world: World) -> None:
    async with (
        echo_service() as port,
        world.pop(entries={"route/c1": route()}) as pop,
        world.agent(plan(pop, port)),
    ):
        await until(lambda: connected(pop))
        reader, writer = await asyncio.open_connection(*endpoint(pop))
        await echoed(reader, writer, b"x")
        pop.gateways.note("g1", writer.transport, sends=True)
        pop.stop()
        await until(lambda: pop.host.vitals().fitness.value == "draining")
        newcomer = await asyncio.open_connection(*endpoint(pop))
        assert await echoed(*newcomer, b"in time") == b"in time"
        assert not pop.host.stats.draining
        pop.gateways.note("g1", writer.transport, sends=False)
        await until(lambda: pop.host.stats.draining)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await echoed(*await asyncio.open_connection(*endpoint(pop)), b"too late")
        assert await echoed(reader, writer, b"still") == b"still"
        assert await echoed(*newcomer, b"still") == b"still"
        for one in (writer, newcomer[1]):
            one.close()


async def test_a_pop_that_is_back_wants_no_visitors_before_its_agents_are(world: World) -> None:
    whole: list[int] = []
    async with echo_service() as port:
        async with world.pop(entries={"route/c1": route()}) as pop, world.agent(plan(pop, port)):
            await until(lambda: connected(pop))
            pop.stop()
            await until(lambda: pop.host.stats.draining and not pop.host.stats.sessions)
        back = Pop(world.pop_settings("p1"), SystemClock(), whole.append)
        async with asyncio.TaskGroup() as group:
            group.create_task(back.run())
            await until(lambda: back.host.vitals().fitness.value == "returning")
            assert whole == []
            async with world.agent(plan(back, port)):
                await until(lambda: whole == [1])
                assert back.host.vitals().fitness.value == "ok"
            back.stop()
            back.stop()


async def test_a_dead_local_service_is_known_before_a_visitor_comes(world: World) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with (
            world.pop(entries={"route/c1": route()}) as pop,
            world.agent(plan(pop, closed.getsockname()[1])) as agent,
        ):
            await until(lambda: connected(pop) and bool(seen(agent).services))
            await until(lambda: seen(agent).services[0].reason == "LocalServiceUnreachable")
            assert not seen(agent).ready


async def test_a_renewed_certificate_cuts_nobody(world: World) -> None:
    async with (
        echo_service() as port,
        world.pop(entries={"route/c1": route()}) as pop,
        world.agent(plan(pop, port)) as agent,
    ):
        await until(lambda: connected(pop))
        reader, writer = await asyncio.open_connection(*endpoint(pop))
        await echoed(reader, writer, b"x")
        for host, role, uid in ((pop, "pop", "p1"), (agent, "agent", "a1")):
            dns = f"{uid}.tunnel.test.example" if role == "pop" else None
            identity = world.authority.identity(role, uid, dns, generation=2)
            enrolled(world.path / ("p1" if role == "pop" else "agent"), identity)
            (host.feed if isinstance(host, Pop) else host._feed).identity.set(identity)
        await until(lambda: (certificate := seen(agent).certificate) is not None and certificate.renewals == 1)
        assert await echoed(reader, writer, b"same visitor") == b"same visitor"
        writer.close()


async def test_another_target_than_the_given_one_is_refused(world: World) -> None:
    async with echo_service() as port, world.pop(entries={"route/c1": route()}) as pop:
        given = {"joe/echo": Target(host="127.0.0.1", port=1)}
        async with world.agent(plan(pop, port), targets=given) as agent:
            await until(lambda: bool(seen(agent).services))
            assert seen(agent).services[0].reason == "TargetRefused"
            assert "DRTP-4012" in seen(agent).quarantined["service/c1"]


async def test_other_targets_cut_those_who_are_gone_and_nobody_else(world: World) -> None:
    def two(pop: Pop, port: int) -> dict[str, Entry]:
        other = msgspec.structs.replace(plan_service(port, connection="c2"), name="other")
        return plan(pop, port) | {"service/c2": other}

    async with echo_service() as port, world.pop(entries={"route/c1": route(), "route/c2": route("c2")}) as pop:
        target = Target(host="127.0.0.1", port=port)
        async with world.agent(two(pop, port), targets={"joe/echo": target}) as agent:
            await until(lambda: "service/c2" in seen(agent).quarantined and connected(pop))
            reader, writer = await asyncio.open_connection(*endpoint(pop))
            await echoed(reader, writer, b"before")
            agent.retarget({"joe/echo": target, "joe/other": target})
            await until(lambda: not seen(agent).quarantined)
            came, other = await asyncio.open_connection(*endpoint_of(pop, "route/c2"))
            assert await echoed(came, other, b"new here") == b"new here"
            agent.retarget({"joe/other": target})
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            await until(lambda: "service/c1" in seen(agent).quarantined)
            assert "DRTP-4012" in seen(agent).quarantined["service/c1"]
            assert await echoed(came, other, b"still here") == b"still here"
            writer.close()
            other.close()


async def test_the_status_pages_tell_ready_and_metrics(world: World) -> None:
    import aiohttp

    async with (
        echo_service() as port,
        world.pop(entries={"route/c1": route()}) as pop,
        world.agent(plan(pop, port), local_address=LocalAddress("127.0.0.1", 0)) as agent,
    ):
        await until(lambda: seen(agent).ready)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{seen(agent).local_url}/ready") as answer:
                assert answer.status == 200
                assert (await answer.json())["services"][0]["paths"][0]["ready"] is True
            async with session.get(f"{seen(agent).local_url}/metrics") as answer:
                assert 'drtp_agent_service_ready{service="joe/echo"} 1.0' in await answer.text()
