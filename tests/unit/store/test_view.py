"""The View follows a real Store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from drtp.api.drtp import DRTPConnection, DRTPService
from drtp.api.meta import Key
from drtp.store.eventlog import FRESH
from drtp.store.memory import MemoryStore
from drtp.store.protocol import Store, Stored, merged, object_of
from drtp.store.view import Change, View, kind_key

SERVICE = "DRTPService.datumapis.com"
CONNECTION = "DRTPConnection.datumapis.com"


def service(name: str, namespace: str = "joe", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "datumapis.com/v1alpha",
        "kind": "DRTPService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"protocol": "HTTP", "local": {"host": "localhost", "port": 8080}, **spec},
    }


@asynccontextmanager
async def following(store: Store, *kinds: str) -> AsyncGenerator[View]:
    view = View(store, kinds or (SERVICE, CONNECTION))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(view.run())
        await view.synced.wait()
        yield view
        task.cancel()


async def test_it_holds_what_was_there_and_what_comes() -> None:
    store = MemoryStore()
    first = await store.create(service("web"))
    async with following(store) as view:
        assert [one.metadata.name for one in view.list(DRTPService)] == ["web"]
        other = await store.create(service("other", namespace="ann"))
        await view.reached(other.revision)
        assert [one.metadata.name for one in view.list(DRTPService)] == ["other", "web"]
        assert [one.metadata.name for one in view.list(DRTPService, "joe")] == ["web"]
        found = view.get(DRTPService, "joe", "web")
        assert found is not None
        assert found is view.get(DRTPService, "joe", "web")
        held = view.by_uid(first.uid)
        assert held is not None
        assert held.key == first.key
        gone = await store.delete(first.key)
        await view.reached(gone.revision)
        assert view.get(DRTPService, "joe", "web") is None
        assert view.by_uid(first.uid) is None


async def test_an_undecodable_object_is_quarantined_alone() -> None:
    store = MemoryStore()
    await store.create(service("web"))
    bad = await store.create(merged(service("bad"), {"spec": {"protocol": "CARRIER-PIGEON"}}))
    async with following(store) as view:
        view.add_index(DRTPService, "host", lambda one: (one.spec.local.host,))
        assert [one.metadata.name for one in view.list(DRTPService)] == ["web"]
        assert set(view.quarantined) == {bad.key}
        healed = await store.update(service("bad"))
        await view.reached(healed.revision)
        assert len(view.list(DRTPService)) == 2
        assert not view.quarantined


async def test_indexes_follow_changes() -> None:
    store = MemoryStore()
    await store.create(service("web"))
    async with following(store) as view:
        view.add_index(DRTPService, "host", lambda one: (one.spec.local.host,))
        assert len(view.indexed(DRTPService, "host", "localhost")) == 1
        moved = await store.update(service("web", local={"host": "db", "port": 1}))
        await view.reached(moved.revision)
        assert not view.indexed(DRTPService, "host", "localhost")
        assert [one.metadata.name for one in view.indexed(DRTPService, "host", "db")] == ["web"]


async def test_listeners_get_before_and_after() -> None:
    store = MemoryStore()
    async with following(store) as view:
        told: list[Change] = []
        view.listen(told.append)
        changes = view.subscribe()
        created = await store.create(service("web"))
        gone = await store.delete(created.key)
        await view.reached(gone.revision)
        assert [(change.before is None, change.after is None) for change in told] == [(True, False), (False, True)]
        assert await changes.take() == (Key(SERVICE, "joe", "web"),)
        assert changes.take_now() == ()


async def test_it_lists_again_when_it_falls_out_of_the_log() -> None:
    store = MemoryStore(log_bytes_max=5_000)
    view = View(store, (SERVICE,))
    doomed = await store.create(service("doomed"))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(view.run())
        await view.synced.wait()
        # No turn for the view between these: the memory store settles at once.
        await store.delete(doomed.key)
        for number in range(100):
            await store.create(service(f"web-{number}"))
        await view.reached(store.revision)
        assert len(view.list(DRTPService)) == 100
        assert view.stored(doomed.key) is None
        task.cancel()


async def test_what_was_replaced_long_ago_is_held_as_json_alone() -> None:
    store = MemoryStore()
    await store.create(service("web"))
    async with following(store) as view:
        seen: list[Stored] = []
        view.listen(lambda change: seen.extend(stored for stored in change.versions if stored.object))
        for number in range(200):
            await store.update(service("web", local={"host": "localhost", "port": number + 1}))
            await view.reached(store.revision)
        decoded = {id(stored) for stored in seen if "object" in stored.__dict__}
        assert len(decoded) <= FRESH + 2, "a log of changes must not hold a decoded object for each"
        held = view.stored(Key(SERVICE, "joe", "web"))
        assert held is not None
        assert "object" in held.__dict__


async def test_other_kinds_are_not_held_but_advance_the_revision() -> None:
    store = MemoryStore()
    async with following(store, CONNECTION) as view:
        stored = await store.create(service("web"))
        await view.reached(stored.revision)
        assert view.stored(stored.key) is None


def test_kind_key_comes_from_the_model() -> None:
    assert kind_key(DRTPConnection) == CONNECTION


async def test_object_of_names_its_type_and_round_trips() -> None:
    store = MemoryStore()
    await store.create(service("web"))
    async with following(store) as view:
        typed = view.get(DRTPService, "joe", "web")
        assert typed is not None
        plain = object_of(typed)
        assert (plain["apiVersion"], plain["kind"]) == ("datumapis.com/v1alpha", "DRTPService")
        stored = await store.update(plain)
        assert stored.revision == 1
