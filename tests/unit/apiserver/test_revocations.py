"""`Revocation` and `ClusterRevocation`: what the API reads in them, and what becomes of a shut user's watches."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from drtp.api.meta import Key
from drtp.api.people import AUTHENTICATED, User
from drtp.api.revoking import Because
from drtp.main.roles import set_projects
from unit.apiserver.serving import ADMIN, EVE, JOE, Served

GROUP = "/apis/identity.datumapis.com/v1alpha"
IN_JOE = f"{GROUP}/namespaces/joe/revocations"
IN_CLUSTER = f"{GROUP}/clusterrevocations"


async def test_a_member_revokes_in_their_project_and_is_named(api: Served) -> None:
    status, said = await api.call("POST", IN_JOE, {"spec": {"agent": "a-1", "reason": "stolen laptop"}}, token=JOE)
    assert (status, said["status"]) == (201, {"identities": ["1"], "secrets": 2, "tokens": 0})
    assert api.revocations.asked == [("agent", "joe", "a-1", Because("joe", "stolen laptop"))]


async def test_nobody_revokes_elsewhere_or_in_the_cluster(api: Served) -> None:
    for path, token in ((IN_JOE, EVE), (IN_CLUSTER, JOE)):
        status, _ = await api.call("POST", path, {"spec": {"service": "web"}}, token=token)
        assert status == 403
    assert api.revocations.asked == []


@pytest.mark.parametrize("what", ["user", "pop", "gateway"])
async def test_an_operator_revokes_in_the_cluster(api: Served, what: str) -> None:
    status, _ = await api.call("POST", IN_CLUSTER, {"spec": {what: "x"}}, token=ADMIN)
    assert status == 201
    assert api.revocations.asked == [(what, "", "x", Because("admin", "revoked by admin"))]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({}, "exactly one of agent, service"),
        ({"agent": "a", "service": "b"}, "exactly one of agent, service"),
        ({"user": "joe"}, "spec.user"),
        ({"agent": 7}, "spec.agent"),
        ({"agent": ""}, "spec.agent"),
        ({"agent": "a\x1b[2J"}, "spec.agent"),
        ({"agent": "a", "reason": "x" * 201}, "spec.reason"),
        ({"agent": "a", "reason": ["x"]}, "spec.reason"),
        ("agent", "exactly one of agent, service"),
    ],
)
async def test_what_cannot_be_meant_is_refused_and_revokes_nothing(api: Served, spec: Any, told: str) -> None:
    status, said = await api.call("POST", IN_JOE, {"spec": spec}, token=JOE)
    assert status == 422
    assert told in said["message"]
    assert api.revocations.asked == []


async def test_a_shut_users_watches_end_and_no_others(api: Served) -> None:
    account = {"apiVersion": "internal.datumapis.com/v1", "kind": "Account"}
    for user in ("joe", "eve"):
        await api.store.create(account | {"metadata": {"name": f"u-{user}"}, "spec": {"name": user}})

    async def watching(user: str) -> Any:
        path = f"{api.url}/api/v1/namespaces/{user}/configmaps?watch=1"
        return await api.session.get(path, headers={"Authorization": f"Bearer {user}-token"})

    joes, eves = await watching("joe"), await watching("eve")
    await api.store.update(account | {"metadata": {"name": "u-joe"}, "spec": {"name": "joe", "disabled": True}})
    assert await asyncio.wait_for(joes.read(), 2) == b""
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "eve"}}
    await api.store.create(config)
    event = msgspec.json.decode(await asyncio.wait_for(eves.content.readline(), 5))
    assert event["object"]["metadata"]["name"] == "c"
    eves.close()


async def test_a_watch_that_was_authenticated_before_its_user_was_shut_ends_too(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = {"apiVersion": "internal.datumapis.com/v1", "kind": "Account", "metadata": {"name": "u-joe"}}
    authenticate = api.tokens.authenticate

    async def a_moment_before(token: str, certificate: bytes | None, remote: str) -> Any:
        monkeypatch.setattr(api.tokens, "authenticate", authenticate)
        user = await authenticate(token, certificate, remote)
        await api.store.create(account | {"spec": {"name": "joe", "disabled": True}})
        return user

    monkeypatch.setattr(api.tokens, "authenticate", a_moment_before)
    assert await asyncio.wait_for((await _watching(api)).read(), 2) == b""
    await api.store.update(account | {"spec": {"name": "joe"}})
    again = await _watching(api)
    await _still_told(api, again)


TOKEN = {"apiVersion": "internal.datumapis.com/v1", "kind": "ApiToken", "metadata": {"name": "t1"}}


@pytest.mark.parametrize("what", ["the binding", "the role", "the token", "the service account"])
async def test_a_watch_ends_with_what_let_it_in_and_others_go_on(api: Served, what: str) -> None:
    """Within two seconds, whatever it was."""
    await _let_in(api)
    bobs, eves = await _watching(api, "bob"), await _watching(api, "eve", "eve")
    await _still_told(api, bobs, close=False)
    group = "rbac.authorization.k8s.io"
    match what:
        case "the binding":
            await api.store.delete(Key(f"RoleBinding.{group}", "joe", "bob-looks"))
        case "the role":
            role = await api.store.get(Key(f"Role.{group}", "joe", "looks"))
            await api.store.update({**role.object, "rules": []})
        case "the token":
            del api.tokens.users["bob-token"]
            await api.store.delete(Key("ApiToken.internal.datumapis.com", "", "t1"))
        case _:
            del api.tokens.users["bob-token"]
            await api.store.delete(Key("ServiceAccount", "joe", "bob"))
    assert await asyncio.wait_for(bobs.content.readline(), 2) == b""
    await _still_told(api, eves, "eve")


async def test_a_change_of_roles_elsewhere_ends_no_watch(api: Served) -> None:
    await _let_in(api)
    bobs = await _watching(api, "bob")
    await set_projects(api.store, "u-ann", "ann", ["eve"])
    await api.store.update(TOKEN | {"spec": {"account": api.tokens.users["bob-token"].uid, "description": "x"}})
    await asyncio.sleep(0.5)  # two looks
    await _still_told(api, bobs)


async def _let_in(api: Served) -> None:
    """Bob, who may look at what is in Joe's project by a role there; he is a program, for that matter."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bob", "namespace": "joe"}}
    uid = (await api.store.create(account)).uid
    api.tokens.users["bob-token"] = User("bob", uid, (AUTHENTICATED,))
    await api.store.create(TOKEN | {"spec": {"account": uid}})
    group = "rbac.authorization.k8s.io"
    looks = {"name": "looks", "namespace": "joe"}
    rules = [{"verbs": ["list", "watch"], "apiGroups": [""], "resources": ["configmaps"]}]
    await api.store.create({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": looks, "rules": rules})
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "bob-looks", "namespace": "joe"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "looks"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "bob"}],
    }
    await api.store.create(binding)
    await api.rbac.reached(api.store.revision)


async def _watching(api: Served, user: str = "joe", namespace: str = "joe") -> Any:
    path = f"{api.url}/api/v1/namespaces/{namespace}/configmaps?watch=1"
    answer = await api.session.get(path, headers={"Authorization": f"Bearer {user}-token"})
    assert answer.status == 200
    return answer


async def _still_told(api: Served, watch: Any, namespace: str = "joe", *, close: bool = True) -> None:
    name = f"c-{api.store.revision}"
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}
    await api.store.create(config)
    event = msgspec.json.decode(await asyncio.wait_for(watch.content.readline(), 5))
    assert event["object"]["metadata"]["name"] == name
    if close:
        watch.close()
