"""Quotas: judged in the transaction of the create, whatever is still on its way to the disk."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from drtp.api.core import ORGANIZATION_LABEL
from drtp.api.meta import Key
from drtp.kit.errors import Refused
from drtp.store.memory import MemoryStore
from drtp.store.protocol import Create, Delete
from drtp.store.sqlite import SqliteStore

SERVICES = "count/drtpservices.datumapis.com"


def service(name: str, namespace: str = "joe") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPService", "metadata": metadata, "spec": {"n": name}}


def connection(name: str, namespace: str, agent: str) -> dict[str, Any]:
    metadata, spec = {"name": name, "namespace": namespace}, {"client": {"agentID": agent}}
    return {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPConnection", "metadata": metadata, "spec": spec}


def project(name: str, organization: str = "") -> dict[str, Any]:
    labels = {ORGANIZATION_LABEL: organization} if organization else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def quota(hard: dict[str, int | str], namespace: str = "joe") -> dict[str, Any]:
    metadata = {"name": "all", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}}


async def used(store: MemoryStore | SqliteStore, namespace: str = "joe") -> dict[str, str]:
    return (await store.get(Key("ResourceQuota", namespace, "all"))).object["status"]["used"]


async def test_the_one_too_many_is_refused_in_kubernetes_words() -> None:
    store = MemoryStore()
    await store.create(quota({SERVICES: 2}))
    for name in ("a", "b"):
        await store.create(service(name))
    with pytest.raises(Refused) as refused:
        await store.create(service("c"))
    assert refused.value.code == "DRTP-2024"
    said = f"exceeded quota: all, requested: {SERVICES}=1, used: {SERVICES}=2, limited: {SERVICES}=2"
    assert refused.value.what == said
    await store.create(service("c", "eve"))
    with pytest.raises(Refused):
        await store.preview([Create(service("d"))])


async def test_what_is_used_is_true_after_each_write() -> None:
    store = MemoryStore()
    await store.create(service("early"))
    await store.create(quota({SERVICES: "1k", "secrets": 1}))
    assert await used(store) == {SERVICES: "1", "secrets": "0"}
    await store.apply(
        [Create(service("a")), Create(service("b")), Delete(Key("DRTPService.datumapis.com", "joe", "a"))]
    )
    assert (await used(store))[SERVICES] == "2"
    await store.delete(Key("DRTPService.datumapis.com", "joe", "early"))
    assert (await used(store))[SERVICES] == "1"


async def test_a_batch_beyond_the_quota_changes_nothing() -> None:
    store = MemoryStore()
    await store.create(quota({SERVICES: 1}))
    with pytest.raises(Refused):
        await store.apply([Create(service("a")), Create(service("b"))])
    assert (await store.list("DRTPService.datumapis.com")).items == []
    assert (await used(store))[SERVICES] == "0"


async def test_a_lower_limit_takes_nothing_away_and_lets_nothing_more_in() -> None:
    store = MemoryStore()
    for name in ("a", "b", "c"):
        await store.create(service(name))
    await store.create(quota({SERVICES: 1}))
    with pytest.raises(Refused):
        await store.create(service("d"))
    await store.update(service("a") | {"spec": {"n": "changed"}})
    await store.delete(Key("DRTPService.datumapis.com", "joe", "b"))
    assert (await used(store))[SERVICES] == "2"


async def test_creates_that_wait_for_the_disk_together_are_counted_together(tmp_path: Any) -> None:
    store = await SqliteStore.open(tmp_path)
    await store.create(quota({SERVICES: 5}))
    done = await asyncio.gather(*(store.create(service(f"s{n}")) for n in range(40)), return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in done) == 5
    assert {one.code for one in done if isinstance(one, Refused)} == {"DRTP-2024"}
    assert (await used(store))[SERVICES] == "5"
    await store.close()
    again = await SqliteStore.open(tmp_path)
    with pytest.raises(Refused):
        await again.create(service("after-a-restart"))
    await again.close()


async def test_an_organisations_agents_are_counted_over_all_its_projects_and_once_each() -> None:
    store = MemoryStore()
    await store.apply([Create(project("acme", "acme")), Create(project("a", "acme")), Create(project("b", "acme"))])
    await store.create(quota({"datumapis.com/agents": 2}, "acme"))
    await store.apply([Create(connection("1", "a", "x")), Create(connection("2", "a", "x"))])
    await store.create(connection("3", "b", "y"))
    with pytest.raises(Refused):
        await store.create(connection("4", "b", "z"))
    await store.create(connection("5", "elsewhere", "z"))
    await store.create(connection("6", "b", "y"))
    assert await used(store, "acme") == {"datumapis.com/agents": "2"}


async def test_an_organisations_projects_are_counted_without_its_own() -> None:
    store = MemoryStore()
    await store.create(project("acme", "acme"))
    await store.create(quota({"datumapis.com/projects": 1, "datumapis.com/streams": 9}, "acme"))
    await store.create(project("first", "acme"))
    with pytest.raises(Refused):
        await store.create(project("second", "acme"))
    assert await used(store, "acme") == {"datumapis.com/projects": "1"}
    await store.create(project("second", "other"))
