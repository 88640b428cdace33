"""An agent whose services are all gone for good is told so, once and for all; one that has another goes on."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drtp.agent.host import AgentHost
from drtp.agent.settings import AgentSettings
from drtp.api.internal import Bound
from drtp.api.meta import Key
from drtp.client.enrolment import bind_services, enrol
from drtp.client.feed import FeedPhase
from drtp.edgeserver.bindings import Bindings
from drtp.kit.errors import Terminal
from unit.edgeserver.edgebed import AGENT, Bed, edge_bed, until


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with edge_bed(tmp_path) as one:
        yield one


async def _deleted(bed: Bed, name: str = "postgres") -> None:
    await bed.store.delete(Key("DRTPService.datumapis.com", "joe", name))


async def test_an_agent_ends_when_its_service_is_deleted(bed: Bed) -> None:
    await bed.enrolled("agent")
    feed = bed.feed("agent")
    running = asyncio.ensure_future(feed.run())
    await until(lambda: feed.state.value.phase is FeedPhase.UP)
    await _deleted(bed)
    with pytest.raises(Terminal, match="DRTP-2017"):
        await asyncio.wait_for(running, 5)


async def test_an_agents_last_words_name_the_directory_of_the_identity_that_is_over(bed: Bed) -> None:
    await bed.enrolled("agent")
    directory = bed.directory / "agent"
    await _deleted(bed)
    host = AgentHost(AgentSettings(state_dir=directory, targets={}, registration=AGENT))
    with pytest.raises(Terminal, match=f"DRTP-2017.*{directory}"):
        await asyncio.wait_for(host.run(), 5)
    assert host.view.value.failure.code == "DRTP-2017"


async def test_an_agent_that_was_away_ends_when_it_comes_back(bed: Bed) -> None:
    await bed.enrolled("agent")
    await _deleted(bed)
    await bed.service("postgres")  # anew: another one
    with pytest.raises(Terminal, match="DRTP-2017"):
        await asyncio.wait_for(bed.feed("agent").run(), 5)


async def test_an_agent_with_another_service_goes_on_until_that_is_gone_too(bed: Bed) -> None:
    await bed.service("web")
    token = await bed.token("joe")
    identities, both = bed.identities("agent"), ("postgres", "web")
    await enrol(bed.address, identities, AGENT, token=token, namespace="joe", services=("postgres",))
    feed = bed.feed("agent")
    running = asyncio.ensure_future(feed.run())
    await until(lambda: feed.state.value.phase is FeedPhase.UP)
    identity = identities.load()
    assert identity is not None
    await bind_services(bed.address, identity, AGENT, token=token, namespace="joe", services=both)
    await _deleted(bed)
    other = bed.feed("other")
    await bed.service("postgres")
    await bed.enrolled("other")
    async with bed.running(other):
        await until(lambda: other.state.value.phase is FeedPhase.UP)
    assert not running.done(), "one that came later was served by the same watch meanwhile"
    await _deleted(bed, "web")
    with pytest.raises(Terminal, match="DRTP-2017"):
        await asyncio.wait_for(running, 5)


def test_what_an_agent_is_bound_to_now_counts() -> None:
    bindings = Bindings()
    services = [Bound(kind="DRTPService.datumapis.com", name=name, uid=f"uid-{name}") for name in ("a", "b")]
    bindings.note("one", services)
    bindings.note("two", services[:1])
    assert sorted(bindings.of("uid-a")) == ["one", "two"]
    bindings.note("one", services[1:])
    assert bindings.of("uid-a") == ("two",)
    bindings.forget("two")
    assert bindings.of("uid-a") == ()
    assert bindings.of("uid-b") == ("one",)
