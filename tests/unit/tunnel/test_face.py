"""The Python face of the native core: documents, errors and wake-ups."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from drtp.client.identity import Identity
from drtp.kit.errors import Invalid, Retryable, Terminal
from drtp.kit.secret import Secret
from drtp.tunnel import (
    AgentConfig,
    Delta,
    RouteBound,
    ServerConfig,
    Target,
    TunnelAgent,
    TunnelIdentity,
    TunnelServer,
    TunnelUp,
    Way,
    Ways,
    delta_between,
)
from edge_world import Authority, plan_server, route


def of(identity: Identity) -> TunnelIdentity:
    return TunnelIdentity(identity.chain_pem, identity.key_pem, identity.bundle_pem)


def server(authority: Authority, *listeners: str) -> TunnelServer:
    identity = authority.identity("pop", "p1", "p1.tunnel.test.example")
    return TunnelServer(ServerConfig(listeners=listeners or ("127.0.0.1:0",)), of(identity))


def test_a_delta_names_only_what_changed() -> None:
    assert delta_between(None, {"a": {"x": 1}}) == Delta(whole=True, upsert={"a": {"x": 1}})
    assert delta_between({"a": {"x": 1}, "b": {}, "c": {}}, {"a": {"x": 2}, "c": {}}) == Delta(
        whole=False, upsert={"a": {"x": 2}}, remove=("b",)
    )


async def test_an_endpoint_is_bound_and_an_event_wakes_the_loop(tmp_path: Path) -> None:
    tunnel = server(Authority())
    try:
        document = {**route_document(), "bind": {"path": str(tmp_path / "c1.sock")}, "mode": "unix"}
        outcome = await tunnel.apply(Delta(whole=True, upsert={"route/c1": document}))
        assert outcome.entries["route/c1"].ok, outcome
        async with asyncio.timeout(5):
            async for batch in tunnel.events():
                if any(isinstance(event, RouteBound) and event.key == "route/c1" for event in batch):
                    break
        stats = await tunnel.stats()
        assert [entry.connection for entry in stats.connections] == ["c1"]
        assert not stats.stale
    finally:
        await tunnel.close()


def route_document() -> dict[str, object]:
    return msgspec.to_builtins(route())


async def test_the_bound_addresses_are_known_on_both_families() -> None:
    tunnel = server(Authority(), "127.0.0.1:0", "[::1]:0")
    first, second = tunnel.agent_addresses
    assert first.startswith("127.0.0.1:")
    assert second.startswith("[::1]:")
    await tunnel.close()


async def test_a_taken_address_may_be_free_later() -> None:
    authority = Authority()
    tunnel = server(authority)
    with pytest.raises(Retryable, match="DRTP-4003"):
        server(authority, *tunnel.agent_addresses)
    await tunnel.close()


async def test_an_unusable_identity_ends_the_attempt() -> None:
    with pytest.raises(Terminal, match="DRTP-4001"):
        TunnelServer(ServerConfig(listeners=("127.0.0.1:0",)), TunnelIdentity(b"", Secret(b""), b""))
    with pytest.raises(Invalid, match="DRTP-4002"):
        server(Authority(), "not an address")


async def test_a_country_database_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    identity = of(Authority().identity("pop", "p1", "p1.tunnel.test.example"))
    for path in (tmp_path / "absent.mmdb", Path(__file__)):
        with pytest.raises(Invalid, match=f"DRTP-4002.*country database {path}"):
            TunnelServer(ServerConfig(listeners=("127.0.0.1:0",), country_database=str(path)), identity)


async def test_a_certificate_that_cannot_be_used_leaves_the_old_one_in_force() -> None:
    authority = Authority()
    tunnel = server(authority)
    with pytest.raises(Terminal, match="DRTP-4001"):
        await tunnel.rotate(TunnelIdentity(b"junk", Secret(b"junk"), b"junk"))
    await tunnel.rotate(of(authority.identity("pop", "p1", "p1.tunnel.test.example", generation=2)))
    await tunnel.close()


async def test_closing_twice_is_closing_once() -> None:
    tunnel = server(Authority())
    await tunnel.close()
    await tunnel.close()
    with pytest.raises(Terminal, match="DRTP-4004"):
        await tunnel.apply(Delta(whole=True))


async def test_an_entry_that_cannot_be_read_stops_no_other(tmp_path: Path) -> None:
    tunnel = server(Authority())
    good = {**route_document(), "bind": {"path": str(tmp_path / "c1.sock")}, "mode": "unix"}
    outcome = await tunnel.apply(Delta(whole=True, upsert={"route/c1": good, "route/c2": {"type": "route"}}))
    assert outcome.entries["route/c1"].ok
    assert not outcome.entries["route/c2"].ok
    assert outcome.entries["route/c2"].error
    await tunnel.close()


async def test_the_driver_counts_even_when_nothing_happens() -> None:
    tunnel = server(Authority())
    first = (await tunnel.stats()).ticks
    async with asyncio.timeout(5):
        while (await tunnel.stats()).ticks <= first:
            await asyncio.sleep(0.05)
    await tunnel.close()


async def test_an_agent_starts_with_its_targets() -> None:
    identity = of(Authority().identity("agent", "a1"))
    config = AgentConfig(epoch=7, targets={"joe/echo": Target(host="127.0.0.1", port=5432)})
    tunnel = TunnelAgent(config, identity)
    assert (await tunnel.stats()).sessions == ()
    await tunnel.close()


def test_no_repr_shows_a_key() -> None:
    identity = of(Authority().identity("agent", "a1"))
    assert "PRIVATE KEY" not in repr(identity)


async def test_an_agent_that_prefers_quic_goes_by_it_and_by_tcp_where_the_pop_has_none(tmp_path: Path) -> None:
    authority = Authority()
    ways = {"p1": Ways((Way(quic=True), Way()))}
    for quic, way in ((True, "quic"), (False, "direct")):
        identity = authority.identity("pop", "p1", "p1.tunnel.test.example")
        pop = TunnelServer(ServerConfig(listeners=("127.0.0.1:0",), quic=quic), of(identity))
        agent = TunnelAgent(AgentConfig(epoch=7), of(authority.identity("agent", "a1")))
        try:
            document = {**route_document(), "bind": {"path": str(tmp_path / f"{way}.sock")}, "mode": "unix"}
            await pop.apply(Delta(whole=True, upsert={"route/c1": document}))
            port = int(pop.agent_addresses[0].rpartition(":")[2])
            plan = {"server/p1": msgspec.to_builtins(plan_server("p1", port))}
            await agent.apply(Delta(whole=True, upsert=plan, ways=ways))
            assert await first_way(agent) == way
            assert [session.way for session in (await agent.stats()).sessions] == [way]
        finally:
            await agent.close()
            await pop.close()


async def first_way(agent: TunnelAgent) -> str:
    async with asyncio.timeout(10):
        async for batch in agent.events():
            for event in batch:
                if isinstance(event, TunnelUp):
                    return event.way
    raise AssertionError("no tunnel")
