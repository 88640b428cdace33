"""Lists, pages, selectors, tables and watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import msgspec

from unit.apiserver.serving import ADMIN, Served
from unit.apiserver.test_objects import SERVICES, service

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class Frames:
    """The frames of one watch."""

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        self._lines = lines

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            return msgspec.json.decode(await anext(self._lines))

    async def rest(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(10):
            return [msgspec.json.decode(line) async for line in self._lines]


@asynccontextmanager
async def watching(
    api: Served, path: str = SERVICES, accept: str = "*/*", token: str = ADMIN, **query: str
) -> AsyncGenerator[Frames]:
    url = f"{api.url}{path}?{urlencode({'watch': '1', 'timeoutSeconds': '20'} | query)}"
    headers = {"Authorization": f"Bearer {token}", "Accept": accept}
    async with api.session.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        yield Frames(aiter(response.content))


async def fill(api: Served, count: int = 5) -> str:
    for number in range(count):
        obj = service(f"s{number}")
        obj["metadata"]["labels"] = {"parity": "even" if number % 2 == 0 else "odd"}
        await api.call("POST", SERVICES, obj)
    return str(api.store.revision)


def names(listing: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in listing["items"]]


async def test_list_is_ordered_and_carries_the_revision(api: Served) -> None:
    revision = await fill(api)
    _, listing = await api.call("GET", SERVICES)
    assert names(listing) == ["s0", "s1", "s2", "s3", "s4"]
    assert (listing["kind"], listing["metadata"]["resourceVersion"]) == ("DRTPServiceList", revision)


async def test_pages_continue_where_the_last_one_ended(api: Served) -> None:
    await fill(api)
    _, first = await api.call("GET", f"{SERVICES}?limit=2")
    query = urlencode({"limit": 2, "continue": first["metadata"]["continue"]})
    _, second = await api.call("GET", f"{SERVICES}?{query}")
    assert (names(first), names(second)) == (["s0", "s1"], ["s2", "s3"])
    assert "remainingItemCount" not in first["metadata"]


async def test_long_lists_come_whole_in_pieces(api: Served) -> None:
    for number in range(150):
        await api.call("POST", SERVICES, service(f"s{number}", edgeAllowlist=[f"10.0.{n}.0/24" for n in range(250)]))
    _, listing = await api.call("GET", SERVICES)
    assert len(listing["items"]) == 150


async def test_label_selectors_choose(api: Served) -> None:
    await fill(api)
    for selector, chosen in {
        "parity=even": 3,
        "parity==odd": 2,
        "parity!=odd": 3,
        "parity in (even, odd)": 5,
        "parity notin (even)": 2,
        "parity": 5,
        "!parity": 0,
        "parity=even,parity!=odd": 3,
    }.items():
        _, listing = await api.call("GET", f"{SERVICES}?{urlencode({'labelSelector': selector})}")
        assert len(listing["items"]) == chosen, selector
    assert (await api.call("GET", f"{SERVICES}?labelSelector=a%20b"))[0] == 400


async def test_field_selectors_choose_what_the_kind_declares(api: Served) -> None:
    await fill(api)
    _, listing = await api.call("GET", f"{SERVICES}?fieldSelector=metadata.name%3Ds1")
    assert names(listing) == ["s1"]
    assert (await api.call("GET", f"{SERVICES}?fieldSelector=spec.protocol%3DTCP"))[0] == 400


async def test_revisions_of_the_future_are_refused(api: Served) -> None:
    status, said = await api.call("GET", f"{SERVICES}?resourceVersion=999999")
    assert (status, said["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")


async def test_tables_tell_the_story(api: Served) -> None:
    await api.call("POST", SERVICES, service())
    _, table = await api.call("GET", SERVICES, Accept=TABLE)
    columns = [column["name"] for column in table["columnDefinitions"] if column["priority"] == 0]
    assert columns == ["Name", "Protocol", "Local", "Address", "Ready", "Age"]
    row = table["rows"][0]
    assert row["cells"][:3] == ["db", "TCP", "db.corp:5432"]
    assert row["object"]["kind"] == "PartialObjectMetadata"


async def test_metadata_alone_can_be_had(api: Served) -> None:
    await api.call("POST", SERVICES, service())
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    _, listing = await api.call("GET", SERVICES, Accept=accept)
    assert (listing["kind"], "spec" in listing["items"][0]) == ("PartialObjectMetadataList", False)


async def test_what_is_not_served_is_not_acceptable(api: Served) -> None:
    assert (await api.call("GET", SERVICES, Accept="application/vnd.kubernetes.protobuf"))[0] == 406


async def test_watch_gives_changes_after_its_revision(api: Served) -> None:
    revision = await fill(api, 1)
    async with watching(api, resourceVersion=revision) as frames:
        await api.call("POST", SERVICES, service("new"))
        await api.call("DELETE", f"{SERVICES}/new")
        seen = [await frames.next(), await frames.next()]
    assert [(frame["type"], frame["object"]["metadata"]["name"]) for frame in seen] == [
        ("ADDED", "new"),
        ("DELETED", "new"),
    ]


async def test_watch_without_revision_begins_with_what_there_is(api: Served) -> None:
    await fill(api, 2)
    async with watching(api) as frames:
        assert [(await frames.next())["object"]["metadata"]["name"] for _ in range(2)] == ["s0", "s1"]


async def test_watch_list_ends_its_beginning_with_a_bookmark(api: Served) -> None:
    await fill(api, 1)
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with watching(api, **query) as frames:
        assert (await frames.next())["type"] == "ADDED"
        bookmark = await frames.next()
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_watch_list_parameters_must_belong_together(api: Served) -> None:
    status, said = await api.call("GET", f"{SERVICES}?watch=1&sendInitialEvents=true")
    assert (status, said["reason"]) == (422, "Invalid")


async def test_objects_that_leave_a_selection_are_deleted_for_its_watcher(api: Served) -> None:
    revision = await fill(api, 1)
    async with watching(api, resourceVersion=revision, labelSelector="parity=even") as frames:
        for parity in ("odd", "even"):
            patch = {"metadata": {"labels": {"parity": parity}}}
            await api.call("PATCH", f"{SERVICES}/s0", patch, Content_Type="application/merge-patch+json")
        assert [(await frames.next())["type"] for _ in range(2)] == ["DELETED", "ADDED"]


async def test_watched_tables_name_their_columns_once(api: Served) -> None:
    revision = await fill(api, 1)
    async with watching(api, resourceVersion=revision, accept=TABLE) as frames:
        await api.call("POST", SERVICES, service("a"))
        await api.call("POST", SERVICES, service("b"))
        first, second = await frames.next(), await frames.next()
    assert first["object"]["columnDefinitions"]
    assert not second["object"]["columnDefinitions"]
    assert second["object"]["rows"][0]["cells"][0] == "b"


async def test_watch_ends_in_time_with_a_bookmark(api: Served) -> None:
    revision = await fill(api, 1)
    query = {"resourceVersion": revision, "timeoutSeconds": "1", "allowWatchBookmarks": "true"}
    async with watching(api, **query) as frames:
        assert [frame["type"] for frame in await frames.rest()] == ["BOOKMARK"]


async def test_events_of_an_object_are_found_by_its_fields(api: Served) -> None:
    path = "/api/v1/namespaces/joe/events"
    for name in ("a", "b"):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.1"},
            "involvedObject": {"kind": "DRTPService", "name": name, "namespace": "joe", "uid": f"u-{name}"},
            "reason": "Exposed",
            "message": "…",
            "type": "Normal",
        }
        assert (await api.call("POST", path, event))[0] == 201
    query = urlencode({"fieldSelector": "involvedObject.name=a,involvedObject.namespace=joe,involvedObject.uid=u-a"})
    _, listing = await api.call("GET", f"{path}?{query}")
    assert names(listing) == ["a.1"]
