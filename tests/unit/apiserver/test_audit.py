"""`AuditQuery`: who may read the audit log, what each sees of it, and which writes go into it."""

from __future__ import annotations

from typing import Any

import pytest

from drtp.api.audit import AuditLine, Chain
from drtp.main.roles import set_projects
from unit.apiserver.serving import ADMIN, EVE, JOE, Served

GROUP = "/apis/identity.datumapis.com/v1alpha"
IN_JOE = f"{GROUP}/namespaces/joe/auditqueries"
IN_EVE = f"{GROUP}/namespaces/eve/auditqueries"
EVERYWHERE = f"{GROUP}/clusterauditqueries"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
DRTP = "/apis/datumapis.com/v1alpha"


@pytest.fixture
async def owned(api: Served) -> Served:
    """joe and eve administer what is theirs."""
    for name in ("joe", "eve"):
        await set_projects(api.store, f"u-{name}", name, [name], "admin")
    await api.rbac.reached(api.store.revision)
    return api


async def events(api: Served, path: str, token: str, **spec: Any) -> list[tuple[str, str]]:
    """(event, by) of each line."""
    status, said = await api.call("POST", path, {"spec": {"order": "Oldest", **spec}}, token=token)
    assert status == 201, said
    return [(line["event"], line["fields"].get("by", "")) for line in said["status"]["lines"]]


def service(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "datumapis.com/v1alpha",
        "kind": "DRTPService",
        "metadata": {"name": "web"},
        "spec": {"protocol": "TCP", "local": {"host": "127.0.0.1", "port": 80}, **spec},
    }


async def test_a_project_reads_its_own_and_only_by_the_right_role(owned: Served) -> None:
    assert await events(owned, IN_JOE, JOE) == []
    for path, token in ((IN_EVE, JOE), (EVERYWHERE, JOE), (IN_JOE, EVE)):
        status, _ = await owned.call("POST", path, {"spec": {}}, token=token)
        assert status == 403
    await set_projects(owned.store, "u-joe", "joe", ["joe"], "edit")
    await owned.rbac.reached(owned.store.revision)
    status, _ = await owned.call("POST", IN_JOE, {"spec": {}}, token=JOE)
    assert status == 403


async def test_grants_access_and_takedown_are_written_and_nothing_else(owned: Served) -> None:
    services = f"{DRTP}/namespaces/joe/drtpservices"
    assert (await owned.call("POST", services, service(), token=JOE))[0] == 201
    for patch in (
        {"spec": {"displayName": "Web"}},
        {"spec": {"edgeAllowlist": ["192.0.2.0/24"]}},
        {"spec": {"enabled": False}},
        {"spec": {"enabled": True}},
    ):
        status, said = await owned.call(
            "PATCH", f"{services}/web", patch, token=JOE, Content_Type="application/merge-patch+json"
        )
        assert status == 200, said
    binding: dict[str, Any] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "eve-sees"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
    }
    bindings = f"{RBAC}/namespaces/joe/rolebindings"
    assert (await owned.call("POST", f"{bindings}?dryRun=All", binding, token=JOE))[0] == 201
    assert (await owned.call("POST", bindings, binding, token=JOE))[0] == 201
    assert (await owned.call("DELETE", f"{bindings}/eve-sees", token=JOE))[0] == 200
    binding |= {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}}
    assert (await owned.call("POST", bindings, binding, token=JOE))[0] == 403
    assert await events(owned, EVERYWHERE, ADMIN) == [
        ("access changed", "joe"),
        ("service disabled", "joe"),
        ("service enabled", "joe"),
        ("role granted", "joe"),
        ("role revoked", "joe"),
        ("grant refused", "joe"),
    ]


async def test_revocations_and_tokens_of_users_name_who_asked(owned: Served) -> None:
    revocations = f"{GROUP}/namespaces/joe/revocations"
    assert (await owned.call("POST", revocations, {"spec": {"agent": "a-1", "reason": "lost"}}, token=JOE))[0] == 201
    assert (await owned.call("POST", f"{GROUP}/usertokens", {"spec": {"user": "bob"}}, token=ADMIN))[0] == 201
    assert await events(owned, EVERYWHERE, ADMIN) == [("revocation", "joe"), ("user token given", "admin")]
    assert await events(owned, IN_JOE, JOE) == [("revocation", "joe")]


async def test_both_sides_of_a_reference_grant_see_it(owned: Served) -> None:
    grant = {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "eve-may"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "eve"}],
            "to": [{"group": "datumapis.com", "kind": "DRTPService"}],
        },
    }
    path = "/apis/gateway.networking.k8s.io/v1beta1/namespaces/joe/referencegrants"
    status, said = await owned.call("POST", path, grant, token=JOE)
    assert status == 201, said
    for where, token in ((IN_JOE, JOE), (IN_EVE, EVE)):
        assert await events(owned, where, token) == [("reference grant created", "joe")]


async def test_verify_tells_a_project_that_the_chain_holds_and_nothing_of_others(owned: Served) -> None:
    owned.audit.write("edge enrolled", project="eve", identity="e-1")
    ask = {"spec": {"verify": True, "limit": 0}}
    _, said = await owned.call("POST", IN_JOE, ask, token=JOE)
    assert said["status"]["lines"] == []
    verdict = said["status"]["verdict"]
    assert (verdict["sound"], verdict["lines"], verdict["head"]) == (True, 0, owned.audit.head)
    _, said = await owned.call("POST", EVERYWHERE, {"spec": {"verify": True, "heads": ["f" * 64]}}, token=ADMIN)
    assert said["status"]["verdict"]["missing"] == ["f" * 64]


async def test_projects_that_verify_again_and_again_cost_one_look_at_everything(
    owned: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bytes] = []
    take = Chain.take

    def counted(self: Chain, raw: bytes) -> AuditLine:
        taken.append(raw)
        return take(self, raw)

    monkeypatch.setattr(Chain, "take", counted)
    for number in range(50):
        owned.audit.write("edge enrolled", project="eve", identity=f"e-{number}")
    for where, token in ((IN_JOE, JOE), (IN_EVE, EVE)) * 5:
        heads = [owned.audit.head]
        owned.audit.write("edge enrolled", project="joe", identity="j")
        _, said = await owned.call("POST", where, {"spec": {"verify": True, "limit": 0, "heads": heads}}, token=token)
        verdict = said["status"]["verdict"]
        assert (verdict["sound"], verdict["missing"], verdict["head"]) == (True, [], owned.audit.head)
    assert len(taken) < 80
    path = owned.audit_path
    path.write_bytes(path.read_bytes().replace(b"edge enrolled", b"edge ENROLLED"))
    owned.server._audit_queries._whole_s = -1e9
    taken.clear()
    for _ in range(5):
        _, said = await owned.call("POST", IN_JOE, {"spec": {"verify": True, "limit": 0}}, token=JOE)
        assert not said["status"]["verdict"]["sound"]
    assert len(taken) < 80, "a broken chain is no reason to read it for everybody who asks"


async def test_nobody_is_told_which_heads_others_ask_for(owned: Served) -> None:
    """One who noted a head shares no more than the look."""
    theirs = "f" * 64
    _, said = await owned.call("POST", IN_EVE, {"spec": {"verify": True, "heads": [theirs]}}, token=EVE)
    assert said["status"]["verdict"]["missing"] == [theirs]
    for heads in ([], [owned.audit.head]):
        _, said = await owned.call("POST", IN_JOE, {"spec": {"verify": True, "heads": heads}}, token=JOE)
        assert said["status"]["verdict"]["missing"] == []


async def test_a_log_that_was_cut_under_a_running_control_plane_is_found(owned: Served) -> None:
    for number in range(3):
        owned.audit.write("edge enrolled", project="eve", identity=f"e-{number}")
    path = owned.audit_path
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    _, said = await owned.call("POST", EVERYWHERE, {"spec": {"verify": True}}, token=ADMIN)
    assert not said["status"]["verdict"]["sound"]


@pytest.mark.parametrize(
    "spec",
    [
        {"limit": 1001},
        {"limit": -1},
        {"limit": "many"},
        {"after": "x"},
        {"heads": ["x"]},
        {"heads": ["0" * 64] * 101},
        {"order": "Random"},
        {"wanted": {"since": "yesterday"}},
        {"wanted": {"since": "2026-01-01T00:00:00"}},
        {"unknown": 1},
    ],
)
async def test_what_cannot_be_meant_is_refused(owned: Served, spec: dict[str, Any]) -> None:
    status, said = await owned.call("POST", IN_JOE, {"spec": spec}, token=JOE)
    assert status == 422, said
