"""What the protocol says, held against every Store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from drtp.api.meta import Key
from drtp.kit import errors
from drtp.store.protocol import (
    AlreadyExists,
    Conflict,
    Create,
    Delete,
    EventType,
    Expired,
    NotFound,
    Store,
    Update,
    UpdateStatus,
    Watch,
    WatchEvent,
    merged,
)

KIND = "DRTPService.datumapis.com"


def service(name: str, namespace: str = "joe", **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "datumapis.com/v1alpha",
        "kind": "DRTPService",
        "metadata": {"name": name, "namespace": namespace, **more},
        "spec": {"protocol": "HTTP", "local": {"host": "localhost", "port": 8080}},
    }


async def events(watch: Watch, count: int) -> list[WatchEvent]:
    async with asyncio.timeout(5):
        return [await anext(watch) for _ in range(count)]


async def test_create_sets_what_the_store_owns(store: Store) -> None:
    stored = await store.create(service("web", uid="mine", generation=9, resourceVersion="77"))
    metadata = stored.metadata
    assert stored.key == Key(KIND, "joe", "web")
    assert metadata["uid"] not in ("mine", "")
    assert metadata["generation"] == 1
    assert metadata["resourceVersion"] == str(stored.revision) == str(store.revision)
    assert metadata["creationTimestamp"].endswith("Z")
    assert msgspec.json.decode(stored.raw) == stored.object
    assert (await store.get(stored.key)).raw == stored.raw


async def test_create_drops_status_and_update_ignores_it(store: Store) -> None:
    stored = await store.create(service("web") | {"status": {"connections": 1}})
    assert "status" not in stored.object
    again = await store.update(merged(stored.object, {"status": {"connections": 2}}))
    assert again.revision == stored.revision


async def test_update_status_ignores_everything_else_and_keeps_generation(store: Store) -> None:
    stored = await store.create(service("web"))
    changed = merged(stored.object, {"status": {"connections": 2}, "spec": {"protocol": "TCP"}})
    after = await store.update_status(changed)
    assert after.object["spec"]["protocol"] == "HTTP"
    assert after.object["status"] == {"connections": 2}
    assert after.metadata["generation"] == 1
    assert after.revision > stored.revision


async def test_generation_grows_with_spec_only(store: Store) -> None:
    stored = await store.create(service("web"))
    labelled = await store.update(merged(stored.object, {"metadata": {"labels": {"a": "b"}}}))
    assert (labelled.metadata["generation"], labelled.labels) == (1, {"a": "b"})
    changed = await store.update(merged(labelled.object, {"spec": {"protocol": "TCP"}}))
    assert changed.metadata["generation"] == 2
    assert changed.uid == stored.uid


async def test_update_keeps_status(store: Store) -> None:
    stored = await store.create(service("web"))
    await store.update_status(stored.object | {"status": {"connections": 2}})
    after = await store.update(service("web") | {"spec": {"protocol": "TCP"}})
    assert after.object["status"] == {"connections": 2}


async def test_writing_nothing_new_is_no_write(store: Store) -> None:
    stored = await store.create(service("web", labels={}))
    watch = store.watch(since=store.revision)
    assert (await store.update(stored.object)).revision == stored.revision
    assert (await store.update_status(stored.object | {"status": {}})).revision == stored.revision
    other = await store.create(service("other"))
    (first,) = await events(watch, 1)
    assert first.stored is not None
    assert first.stored.key == other.key
    await watch.aclose()


async def test_typed_values_are_the_json_they_become(store: Store) -> None:
    await store.create(service("web") | {"spec": {"list": ["a", "b"]}})
    again = await store.update(service("web") | {"spec": {"list": ("a", "b")}})
    assert again.metadata["generation"] == 1
    assert again.revision == store.revision == 1


async def test_stale_resource_version_conflicts(store: Store) -> None:
    stored = await store.create(service("web"))
    await store.update(merged(stored.object, {"spec": {"protocol": "TCP"}}))
    with pytest.raises(Conflict):
        await store.update(merged(stored.object, {"spec": {"protocol": "TLS"}}))
    with pytest.raises(Conflict):
        await store.update_status(stored.object | {"status": {"a": 1}})
    with pytest.raises(Conflict):
        await store.delete(stored.key, resource_version=str(stored.revision))
    with pytest.raises(Conflict):
        await store.delete(stored.key, uid="another")


async def test_missing_and_existing_are_told_apart(store: Store) -> None:
    await store.create(service("web"))
    with pytest.raises(AlreadyExists):
        await store.create(service("web"))
    for call in (store.get, store.delete):
        with pytest.raises(NotFound):
            await call(Key(KIND, "joe", "none"))
    with pytest.raises(NotFound):
        await store.update(service("none"))
    with pytest.raises(errors.Invalid):
        await store.create(service(""))


async def test_generated_names_differ(store: Store) -> None:
    first, second = [await store.create(service("", generateName="web-")) for _ in range(2)]
    assert first.key.name.startswith("web-")
    assert first.key != second.key
    assert first.metadata["generateName"] == "web-"


async def test_finalizers_hold_an_object_until_the_last_is_gone(store: Store) -> None:
    stored = await store.create(service("web", finalizers=["a.example/x", "b.example/y"]))
    watch = store.watch(KIND, since=store.revision)
    marked = await store.delete(stored.key)
    assert marked.metadata["deletionTimestamp"]
    assert (await store.delete(stored.key)).revision == marked.revision
    with pytest.raises(errors.Invalid):
        await store.update(merged(marked.object, {"metadata": {"finalizers": ["a.example/x", "c.example/z"]}}))
    one = await store.update(merged(marked.object, {"metadata": {"finalizers": ["b.example/y"]}}))
    await store.update(merged(one.object, {"metadata": {"finalizers": []}}))
    with pytest.raises(NotFound):
        await store.get(stored.key)
    kinds = [event.type for event in await events(watch, 4)]
    assert kinds == [EventType.MODIFIED, EventType.MODIFIED, EventType.DELETED, EventType.BOOKMARK]
    await watch.aclose()


async def test_list_is_by_namespace_in_order_and_pages_carry_one_revision(store: Store) -> None:
    for name in ("c", "a", "b"):
        await store.create(service(name))
    await store.create(service("a", namespace="ann"))
    whole = await store.list(KIND)
    assert [stored.key[1:] for stored in whole.items] == [("ann", "a"), ("joe", "a"), ("joe", "b"), ("joe", "c")]
    page = await store.list(KIND, "joe", limit=2)
    assert [stored.key.name for stored in page.items] == ["a", "b"]
    await store.create(service("d"))
    rest = await store.list(KIND, "joe", limit=2, after=page.continue_token)
    assert [stored.key.name for stored in rest.items] == ["c", "d"]
    assert rest.continue_token is None
    assert rest.revision == page.revision < store.revision
    chosen = await store.list(KIND, select=lambda stored: stored.key.name == "a", limit=2)
    assert len(chosen.items) == 2
    assert chosen.continue_token is None
    with pytest.raises(errors.Invalid):
        await store.list(KIND, after="nonsense")


async def test_watch_gives_the_backlog_then_a_bookmark_then_what_comes(store: Store) -> None:
    start = store.revision
    first = await store.create(service("web"))
    watch = store.watch(KIND, "joe", since=start)
    added, bookmark = await events(watch, 2)
    assert (added.type, added.revision) == (EventType.ADDED, first.revision)
    assert (bookmark.type, bookmark.revision) == (EventType.BOOKMARK, first.revision)
    await store.create(service("web", namespace="ann"))
    await store.update(merged(first.object, {"spec": {"protocol": "TCP"}}))
    gone = await store.delete(first.key)
    modified, deleted = await events(watch, 2)
    assert modified.before is not None
    assert modified.before.revision == first.revision
    assert deleted.type is EventType.DELETED
    assert deleted.stored is not None
    assert deleted.stored.metadata["resourceVersion"] == str(gone.revision) == str(store.revision)
    assert watch.revision == store.revision
    await watch.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


async def test_closing_a_watch_ends_its_waiting_reader(store: Store) -> None:
    watch = store.watch()
    await events(watch, 1)

    async def rest() -> list[WatchEvent]:
        return [event async for event in watch]

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        reader = group.create_task(rest())
        await asyncio.sleep(0)
        await watch.aclose()
    assert reader.result() == []


async def test_a_reader_that_falls_out_of_the_log_is_told(
    open_store: Callable[..., Awaitable[Store]],
) -> None:
    store = await open_store(log_bytes_max=20_000)
    old = store.revision
    watch = store.watch(since=old)
    await events(watch, 1)
    page_of = await store.create(service("web"))
    await store.create(service("web2"))
    page = await store.list(KIND, limit=1)
    for number in range(100):
        await store.update(merged(service("web"), {"spec": {"number": number}}))
    with pytest.raises(Expired):
        await anext(watch)
    with pytest.raises(Expired):
        store.watch(since=old)
    with pytest.raises(Expired):
        store.watch(since=store.revision + 1)
    with pytest.raises(Expired):
        await store.list(KIND, limit=1, after=page.continue_token)
    assert (await store.get(page_of.key)).object["spec"]["number"] == 99


async def test_apply_is_all_or_nothing_and_later_writes_see_earlier_ones(store: Store) -> None:
    created, status = await store.apply((Create(service("a")), UpdateStatus(service("a") | {"status": {"x": 1}})))
    assert status.revision == created.revision + 1
    before = store.revision
    with pytest.raises(NotFound):
        await store.apply((Create(service("b")), Update(service("a") | {"spec": {}}), Delete(Key(KIND, "joe", "no"))))
    assert store.revision == before
    assert (await store.get(created.key)).revision == status.revision
    assert await store.apply(()) == ()


async def test_preview_changes_nothing(store: Store) -> None:
    (stored,) = await store.preview((Create(service("a")),))
    assert stored.metadata["uid"]
    assert store.revision == 0
    with pytest.raises(NotFound):
        await store.get(stored.key)


async def test_concurrent_writers_of_one_object_get_one_winner(store: Store) -> None:
    stored = await store.create(service("web"))

    async def bid(number: int) -> bool:
        try:
            await store.update(merged(stored.object, {"spec": {"number": number}}))
        except Conflict:
            return False
        return True

    won = await asyncio.gather(*(bid(number) for number in range(20)))
    assert sum(won) == 1


async def test_revisions_are_given_in_order_to_concurrent_writers(store: Store) -> None:
    watch = store.watch(since=store.revision)
    written = await asyncio.gather(*(store.create(service(f"web-{number}")) for number in range(50)))
    seen = [event.revision for event in await events(watch, 51) if event.stored]
    assert seen == sorted(stored.revision for stored in written)
    assert seen == list(range(seen[0], seen[0] + 50))
    await watch.aclose()
