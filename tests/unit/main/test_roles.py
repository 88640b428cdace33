"""Bootstrap roles over restarts, and accounts from before roles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drtp.api.meta import Key
from drtp.kit.clock import SystemClock
from drtp.kit.errors import NotFound, Refused
from drtp.main.controlplane import running_controlplane
from drtp.main.roles import AUTOUPDATE, CLUSTER_ROLES, bind_former_members, ensure_roles, set_projects
from drtp.store.memory import MemoryStore
from unit.main.controlplane_bed import api_client, operator, settings

ROLE = "ClusterRole.rbac.authorization.k8s.io"
BINDING = "RoleBinding.rbac.authorization.k8s.io"


async def store_with(*namespaces: str) -> MemoryStore:
    store = MemoryStore()
    for name in namespaces:
        await store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return store


async def bindings(store: MemoryStore) -> dict[str, str]:
    """Namespace to role, of every binding."""
    return {one.key.namespace: one.object["roleRef"]["name"] for one in (await store.list(BINDING)).items}


async def test_roles_follow_the_version_unless_the_operator_says_otherwise() -> None:
    store = MemoryStore()
    await ensure_roles(store)
    before = store.revision
    await ensure_roles(store)
    assert store.revision == before
    for name in ("edit", "view"):
        held = await store.get(Key(ROLE, "", name))
        metadata: dict[str, Any] = held.metadata
        if name == "view":
            metadata = metadata | {"annotations": {AUTOUPDATE: "false"}}
        await store.update(held.object | {"rules": [], "metadata": metadata})
    await ensure_roles(store)
    assert (await store.get(Key(ROLE, "", "edit"))).object["rules"] == CLUSTER_ROLES["edit"]
    assert (await store.get(Key(ROLE, "", "view"))).object["rules"] == []


async def test_a_user_has_exactly_the_projects_last_said() -> None:
    store = await store_with("a", "b", "c")
    await set_projects(store, "u1", "joe", ["a", "b"])
    await set_projects(store, "u2", "eve", ["c"], "view")
    await set_projects(store, "u1", "joe", ["b"], "admin")
    assert await bindings(store) == {"b": "admin", "c": "view"}
    with pytest.raises(NotFound):
        await set_projects(store, "u1", "joe", ["nowhere"])
    assert await bindings(store) == {"b": "admin", "c": "view"}


async def test_accounts_from_before_roles_are_bound_once_and_lose_the_old_list() -> None:
    store = await store_with("joe", "shared")
    spec = {"name": "joe", "groups": [], "namespaces": ["joe", "shared", "deleted"], "disabled": False}
    account = {
        "apiVersion": "internal.datumapis.com/v1alpha",
        "kind": "Account",
        "metadata": {"name": "u1"},
        "spec": spec,
    }
    key = (await store.create(account)).key
    await bind_former_members(store)
    assert await bindings(store) == {"joe": "edit", "shared": "edit"}
    assert "namespaces" not in (await store.get(key)).object["spec"]
    for one in (await store.list(BINDING)).items:
        await store.delete(one.key)
    await bind_former_members(store)
    assert await bindings(store) == {}


async def test_rights_of_an_existing_data_directory_survive_the_upgrade(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    async with running_controlplane(chosen, SystemClock()) as tower, api_client(tower.settings) as joe:
        # As a version without roles has left it.
        for one in (await tower.store.list(BINDING, "default")).items:
            await tower.store.delete(one.key)
        account = (await tower.store.list("Account.internal.datumapis.com")).items[0]
        await tower.store.update(account.object | {"spec": account.object["spec"] | {"namespaces": ["default"]}})
        await tower.view.reached(tower.store.revision)
        with pytest.raises(Refused):
            await joe.list("v1", "secrets", namespace="default")
    async with running_controlplane(chosen, SystemClock()) as tower:
        assert (await tower.store.list(BINDING, "default")).items[0].object["roleRef"]["name"] == "edit"
        async with api_client(tower.settings) as joe:
            await joe.list("v1", "secrets", namespace="default")


async def test_the_operators_socket_gives_the_role_asked_for_and_knows_its_projects(tmp_path: Path) -> None:
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        ask = {"name": "vera", "namespaces": ["default"], "role": "view"}
        assert (await operator(tower.settings, "POST", "/v1/tokens", ask))[0] == 200
        status, said = await operator(tower.settings, "POST", "/v1/tokens", ask | {"namespaces": ["nowhere"]})
        assert (status, said["code"]) == (404, "DRTP-1001")
