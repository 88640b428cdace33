"""`Revocation` and `ClusterRevocation`: what the API reads in them, and what becomes of a shut user's watches."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from drtp.api.revoking import Because
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


async def test_a_watch_that_was_authenticated_before_its_user_was_shut_ends_too(api: Served) -> None:
    account = {"apiVersion": "internal.datumapis.com/v1", "kind": "Account", "metadata": {"name": "u-joe"}}

    async def watched() -> Any:
        path = f"{api.url}/api/v1/namespaces/joe/configmaps?watch=1"
        return await api.session.get(path, headers={"Authorization": "Bearer joe-token"})

    await api.store.create(account | {"spec": {"name": "joe", "disabled": True}})
    # The authenticator of this test still knows the user, as one did that answered a moment before.
    for _ in range(2):
        assert await asyncio.wait_for((await watched()).read(), 2) == b""
    await api.store.update(account | {"spec": {"name": "joe"}})
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "joe"}}
    again = await watched()
    await api.store.create(config)
    event = msgspec.json.decode(await asyncio.wait_for(again.content.readline(), 5))
    assert event["object"]["metadata"]["name"] == "c"
    again.close()
