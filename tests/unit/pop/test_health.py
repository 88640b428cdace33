"""`/healthz`: mutual TLS, the truth, and nothing for strangers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from drtp.client.identity import Identity, IdentityStore
from drtp.kit.clock import SystemClock
from drtp.pop.gateways import GatewayBook
from drtp.pop.health import HealthDoor, gateways_and_control_plane
from drtp.pop.vitals import Fitness, Vitals
from edge_world import TRUST_DOMAIN, Authority, enrolled, until

NAME = "p1.tunnel.test.example"


class World:
    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.authority = Authority()
        self.vitals = Vitals(Fitness.OK, 100, ticks=3)
        self.trusted = frozenset({"g1"})
        self.gateways = GatewayBook()
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.listener.setblocking(False)
        self.door = HealthDoor(
            self.listener,
            lambda: self.vitals,
            gateways_and_control_plane(TRUST_DOMAIN, lambda: self.trusted),
            self.gateways,
            SystemClock(),
        )

    def present(self, identity: Identity) -> None:
        paths = IdentityStore(enrolled(self.tmp_path / "pop", identity)).paths(identity)
        self.door.present(paths.chain, paths.key, identity.bundle_pem)

    def context(self, caller: tuple[bytes, bytes] | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.bundle_pem.decode())
        if caller is not None:
            pem = self.tmp_path / "caller.pem"
            pem.write_bytes(b"".join(caller))
            context.load_cert_chain(pem)
        return context

    async def ask(self, caller: tuple[bytes, bytes] | None) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session:
            return await self.ask_on(session, caller)

    async def ask_on(
        self, session: aiohttp.ClientSession, caller: tuple[bytes, bytes] | None, **headers: str
    ) -> tuple[int, str]:
        url = f"https://127.0.0.1:{self.listener.getsockname()[1]}/healthz"
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        async with session.get(url, ssl=self.context(caller), server_hostname=NAME, headers=said) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncGenerator[World, None]:
    world = World(tmp_path)
    world.present(world.authority.identity("pop", "p1", NAME))
    async with world.door.serving():
        yield world


async def test_a_trusted_gateway_and_the_control_plane_are_told(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        assert await world.ask(world.authority.caller("gateway/g1")) == (
            200,
            '{"status": "ok", "health": 100, "ticks": 3}',
        )
        assert (await world.ask(world.authority.caller("controlplane/cp")))[0] == 200


async def test_strangers_are_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        assert (await world.ask(world.authority.caller("gateway/g2")))[0] == 403
        assert (await world.ask(world.authority.caller("org/o1/project/p1/agent/a1")))[0] == 403
        with pytest.raises(aiohttp.ClientError):
            await world.ask(None)
        with pytest.raises(aiohttp.ClientError):
            await world.ask(Authority().caller("gateway/g1"))


async def test_an_identity_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        foreign = world.authority.signed(["spiffe://other.local/gateway/g1"], [])
        assert (await world.ask(foreign))[0] == 403


@pytest.mark.parametrize("fitness", [Fitness.DRAINING, Fitness.RETURNING, Fitness.STUCK, Fitness.STARTING])
async def test_only_a_fit_pop_answers_200(tmp_path: Path, fitness: Fitness) -> None:
    async with served(tmp_path) as world:
        world.vitals = Vitals(fitness, 0)
        status, text = await world.ask(world.authority.caller("controlplane/cp"))
        assert status == 503
        assert fitness.value in text


async def test_a_gateway_s_word_on_its_visitors_counts_while_its_connection_stands(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        caller, context = world.authority.caller("gateway/g1"), world.context(world.authority.caller("gateway/g1"))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            await world.ask_on(session, caller)
            assert (world.gateways.sending, world.gateways.certain) == ({"g1"}, set()), "it does not say"
            await world.ask_on(session, caller, drtp_sends_visitors="yes")
            assert (world.gateways.sending, world.gateways.certain) == ({"g1"}, {"g1"})
            await world.ask_on(session, caller, drtp_sends_visitors="no")
            assert (world.gateways.sending, world.gateways.certain) == (set(), set())
            await world.ask_on(session, caller, drtp_sends_visitors="yes")
            await world.ask(world.authority.caller("controlplane/cp"))
            assert world.gateways.sending == {"g1"}, "the control plane sends nobody"
        await until(lambda: not world.gateways.sending)


async def test_a_renewed_certificate_is_shown_and_no_question_fails_meanwhile(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        caller = world.authority.caller("gateway/g1")
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(world.ask(caller)) for _ in range(10)]
            await asyncio.sleep(0)
            world.present(world.authority.identity("pop", "p1", NAME, generation=2))
        assert all(task.result()[0] == 200 for task in asked)
        assert (await world.ask(caller))[0] == 200


async def test_cve_2026_7776_a_silent_client_blocks_nobody(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        silent = [await asyncio.open_connection(*world.listener.getsockname()) for _ in range(15)]
        assert (await world.ask(world.authority.caller("gateway/g1")))[0] == 200
        for _reader, writer in silent:
            writer.close()
