"""The publisher over a real View, with a projection small enough to see through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from drtp.api.internal import EdgeRole
from drtp.api.meta import Key
from drtp.api.snapshots import Entry, TrustEntry
from drtp.main.publisher import Publisher
from drtp.store.memory import MemoryStore
from drtp.store.observed import EdgeRef
from drtp.store.view import View

KIND = "ConfigMap"
POP = EdgeRef(EdgeRole.POP, "p1")
OTHER = EdgeRef(EdgeRole.POP, "p2")


class ByName:
    """Each ConfigMap becomes one entry for the edge it is named after."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.asked: list[set[Key]] = []
        self.fail = False

    def rebuild(self) -> set[EdgeRef]:
        return self.changed(set(self._view.keys(KIND)))

    def changed(self, keys: set[Key]) -> set[EdgeRef]:
        self.asked.append(keys)
        if self.fail:
            raise ZeroDivisionError
        return {EdgeRef(EdgeRole.POP, key.name) for key in keys}

    def entries(self, edge: EdgeRef) -> Mapping[str, Entry]:
        stored = self._view.stored(Key(KIND, "joe", edge.uid))
        return {} if stored is None else {"trust": TrustEntry(gateways=tuple(stored.object["data"]["gateways"]))}


def config(name: str, *gateways: str) -> dict[str, object]:
    metadata = {"name": name, "namespace": "joe"}
    return {"apiVersion": "v1", "kind": KIND, "metadata": metadata, "data": {"gateways": list(gateways)}}


@asynccontextmanager
async def publishing(store: MemoryStore) -> AsyncGenerator[tuple[Publisher, ByName]]:
    view = View(store, (KIND,))
    projects = ByName(view)
    publisher = Publisher(view, projects, incarnation=7)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(publisher.run()), group.create_task(view.run())]
        yield publisher, projects
        for task in tasks:
            task.cancel()


async def test_an_edge_gets_the_present_then_each_change_under_a_growing_generation() -> None:
    store = MemoryStore()
    await store.create(config("p1", "g1"))
    async with publishing(store) as (publisher, _):
        latest = publisher.subscribe(*POP)
        assert latest.value is None
        version, first = await latest.newer(0)
        assert first.generation.incarnation == 7
        assert first.entries == {"trust": TrustEntry(gateways=("g1",))}
        await store.update(config("p1", "g1", "g2"))
        _, second = await latest.newer(version)
        assert second.generation > first.generation
        assert second.entries == {"trust": TrustEntry(gateways=("g1", "g2"))}


async def test_only_the_edges_concerned_are_published_to_and_equal_entries_are_not() -> None:
    store = MemoryStore()
    await store.create(config("p1", "g1"))
    await store.create(config("p2", "g1"))
    async with publishing(store) as (publisher, projects):
        mine, others = publisher.subscribe(*POP), publisher.subscribe(*OTHER)
        await mine.newer(0)
        await others.newer(0)
        await store.update(config("p1", "g1") | {"immutable": True})
        await store.update(config("p1", "g3"))
        await mine.newer(1)
        assert (mine.version, others.version) == (2, 1)
        assert projects.asked[-1] == {Key(KIND, "joe", "p1")}


async def test_an_edge_that_comes_back_gets_a_new_generation_and_unknown_ones_an_empty_snapshot() -> None:
    store = MemoryStore()
    await store.create(config("p1", "g1"))
    async with publishing(store) as (publisher, _):
        _, first = await publisher.subscribe(*POP).newer(0)
        publisher.release(*POP)
        again = publisher.subscribe(*POP).value
        assert again is not None
        assert again.generation > first.generation
        assert again.entries == first.entries
        nobody = publisher.subscribe(EdgeRole.AGENT, "nobody").value
        assert nobody is not None
        assert nobody.entries == {}


async def test_a_fault_in_a_projection_ends_nothing() -> None:
    store = MemoryStore()
    await store.create(config("p1", "g1"))
    async with publishing(store) as (publisher, projects):
        latest = publisher.subscribe(*POP)
        await latest.newer(0)
        projects.fail = True
        asked = len(projects.asked)
        await store.update(config("p1", "g2"))
        while len(projects.asked) == asked:
            await asyncio.sleep(0)
        projects.fail = False
        await store.update(config("p1", "g3"))
        _, snapshot = await latest.newer(1)
        assert snapshot.entries == {"trust": TrustEntry(gateways=("g3",))}
