"""Roles and bindings over the API: what they open, what they cannot open, and how quickly that is decided."""

from __future__ import annotations

import time
from typing import Any

import pytest

from drtp.api.people import AUTHENTICATED, User
from drtp.main.roles import set_projects
from unit.apiserver.serving import ADMIN, EVE, JOE, Served
from unit.apiserver.test_objects import SERVICES, service

GROUP = "rbac.authorization.k8s.io"
RBAC = f"/apis/{GROUP}/v1"
REVIEW = "/apis/authorization.k8s.io/v1"
MERGE = "application/merge-patch+json"
READER = [{"verbs": ["get", "list"], "apiGroups": ["datumapis.com"], "resources": ["drtpservices"]}]


def role(name: str, rules: list[dict[str, Any]], kind: str = "Role") -> dict[str, Any]:
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": {"name": name}, "rules": rules}


def binding(name: str, to: str, *users: str, cluster: bool = False, everywhere: bool = False) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ClusterRoleBinding" if everywhere else "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"kind": "ClusterRole" if cluster or everywhere else "Role", "name": to},
        "subjects": [{"kind": "User", "name": user} for user in users],
    }


async def promoted(api: Served) -> None:
    """Joe administers his project."""
    await set_projects(api.store, "u-joe", "joe", ["joe"], "admin")
    await api.rbac.reached(api.store.revision)


async def test_a_role_bound_to_a_guest_opens_exactly_what_it_says_until_it_is_taken_back(api: Served) -> None:
    await api.call("POST", SERVICES, service())
    assert (await api.call("GET", f"{SERVICES}/db", token=EVE))[0] == 403
    assert (await api.call("POST", f"{RBAC}/namespaces/joe/roles", role("reader", READER)))[0] == 201
    made = await api.call("POST", f"{RBAC}/namespaces/joe/rolebindings", binding("eve", "reader", "eve"))
    assert made[0] == 201
    for method, path, expected in (
        ("GET", f"{SERVICES}/db", 200),
        ("GET", SERVICES, 200),
        ("GET", f"{SERVICES}?watch=1", 403),
        ("DELETE", f"{SERVICES}/db", 403),
        ("GET", f"{SERVICES}/db/status", 403),
        ("GET", "/api/v1/namespaces/joe", 403),
        ("GET", "/api/v1/namespaces/joe/secrets", 403),
    ):
        assert (await api.call(method, path, token=EVE))[0] == expected, (method, path)
    await api.call("DELETE", f"{RBAC}/namespaces/joe/rolebindings/eve")
    assert (await api.call("GET", f"{SERVICES}/db", token=EVE))[0] == 403


async def test_a_role_for_one_name_opens_that_object_and_the_list_narrowed_to_it(api: Served) -> None:
    for name in ("db", "web"):
        await api.call("POST", SERVICES, service(name))
    one = [READER[0] | {"resourceNames": ["db"]}]
    await api.call("POST", f"{RBAC}/namespaces/joe/roles", role("one", one))
    await api.call("POST", f"{RBAC}/namespaces/joe/rolebindings", binding("eve", "one", "eve"))
    assert (await api.call("GET", f"{SERVICES}/db", token=EVE))[0] == 200
    assert (await api.call("GET", f"{SERVICES}/web", token=EVE))[0] == 403
    assert (await api.call("GET", SERVICES, token=EVE))[0] == 403
    assert (await api.call("GET", f"{SERVICES}?fieldSelector=metadata.name!%3Ddb", token=EVE))[0] == 403
    status, listed = await api.call("GET", f"{SERVICES}?fieldSelector=metadata.name%3Ddb", token=EVE)
    assert (status, [one["metadata"]["name"] for one in listed["items"]]) == (200, ["db"])


async def test_groups_and_sums_of_roles_count(api: Served) -> None:
    api.tokens.users["guest"] = User("guest", "u-guest", ("partners", AUTHENTICATED))
    part = role("part", READER, "ClusterRole")
    part["metadata"]["labels"] = {"sum": "yes"}
    total = role("total", [], "ClusterRole") | {
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"sum": "yes"}}]}
    }
    for made in (part, total):
        assert (await api.call("POST", f"{RBAC}/clusterroles", made))[0] == 201
    bound = binding("partners", "total", cluster=True) | {"subjects": [{"kind": "Group", "name": "partners"}]}
    assert (await api.call("GET", SERVICES, token="guest"))[0] == 403
    assert (await api.call("POST", f"{RBAC}/namespaces/joe/rolebindings", bound))[0] == 201
    assert (await api.call("GET", SERVICES, token="guest"))[0] == 200
    assert (await api.call("GET", SERVICES.replace("joe", "eve"), token="guest"))[0] == 403


async def test_a_role_that_cannot_be_read_refuses_and_others_go_on(api: Served) -> None:
    await api.call("POST", f"{RBAC}/namespaces/joe/rolebindings", binding("eve", "broken", "eve"))
    await api.store.create(role("broken", [{"verbs": "get"}]) | {"metadata": {"name": "broken", "namespace": "joe"}})
    await api.rbac.reached(api.store.revision)
    assert (await api.call("GET", SERVICES, token=EVE))[0] == 403
    assert (await api.call("GET", SERVICES, token=JOE))[0] == 200


# ---- nobody gives what they do not hold ----------------------------------------------------------------------------


async def test_an_administrator_of_a_project_shares_what_is_theirs_and_not_more(api: Served) -> None:
    await promoted(api)
    roles, bindings = f"{RBAC}/namespaces/joe/roles", f"{RBAC}/namespaces/joe/rolebindings"
    assert (await api.call("POST", roles, role("reader", READER), token=JOE))[0] == 201
    assert (await api.call("POST", bindings, binding("ok", "reader", "eve"), token=JOE))[0] == 201
    assert (await api.call("POST", bindings, binding("edit", "edit", "eve", cluster=True), token=JOE))[0] == 201
    for rules in (
        [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
        [{"verbs": ["update"], "apiGroups": ["datumapis.com"], "resources": ["drtpservices/status"]}],
        [{"verbs": ["create"], "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]}],
        [{"verbs": ["bind", "escalate"], "apiGroups": [GROUP], "resources": ["roles"]}],
    ):
        status, said = await api.call("POST", roles, role("more", rules), token=JOE)
        assert (status, "DRTP-1030" in said["message"]) == (403, True), rules
        patched = await api.call("PATCH", f"{roles}/reader", {"rules": rules}, token=JOE, Content_Type=MERGE)
        assert patched[0] == 403
        applied = role("applied", rules)
        kind = "application/apply-patch+yaml"
        path = f"{roles}/applied?fieldManager=t"
        assert (await api.call("PATCH", path, applied, token=JOE, Content_Type=kind))[0] == 403
    assert (await api.call("POST", bindings, binding("up", "cluster-admin", "joe", cluster=True), token=JOE))[0] == 403
    everywhere = binding("up", "edit", "joe", everywhere=True)
    assert (await api.call("POST", f"{RBAC}/clusterrolebindings", everywhere, token=JOE))[0] == 403
    assert (await api.call("POST", bindings.replace("joe", "eve"), binding("x", "view", "joe"), token=JOE))[0] == 403


async def test_a_refused_binding_tells_nothing_of_roles_that_one_may_not_read(api: Served) -> None:
    await promoted(api)
    bindings = f"{RBAC}/namespaces/joe/rolebindings"
    said = [
        (await api.call("POST", bindings, binding("b", name, "joe", cluster=True), token=JOE))[1]["message"]
        for name in ("cluster-admin", "no-such-role")
    ]
    assert said[0] == said[1]


async def test_a_binding_made_before_its_role_waits_for_somebody_who_may_give_everything(api: Served) -> None:
    await promoted(api)
    bindings = f"{RBAC}/namespaces/joe/rolebindings"
    assert (await api.call("POST", bindings, binding("early", "later", "eve"), token=JOE))[0] == 403
    assert (await api.call("POST", bindings, binding("early", "later", "eve")))[0] == 201


async def test_editors_neither_read_nor_write_roles(api: Served) -> None:
    for plural in ("roles", "rolebindings"):
        path = f"{RBAC}/namespaces/joe/{plural}"
        assert (await api.call("GET", path, token=JOE))[0] == 403
        assert (await api.call("POST", path, role("r", READER), token=JOE))[0] == 403


async def test_the_organisation_of_a_project_is_the_operators_to_write(api: Served) -> None:
    rules = [{"verbs": ["get", "create", "patch", "update"], "apiGroups": [""], "resources": ["namespaces"]}]
    await api.call("POST", f"{RBAC}/clusterroles", role("namer", rules, "ClusterRole"))
    await api.call("POST", f"{RBAC}/clusterrolebindings", binding("joe", "namer", "joe", everywhere=True))
    label = {"metadata": {"labels": {"datumapis.com/organization": "acme"}}}
    assert (await api.call("PATCH", "/api/v1/namespaces/joe", label, token=JOE, Content_Type=MERGE))[0] == 403
    other = {"metadata": {"labels": {"team": "blue"}}}
    assert (await api.call("PATCH", "/api/v1/namespaces/joe", other, token=JOE, Content_Type=MERGE))[0] == 200
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new", **label["metadata"]}}
    assert (await api.call("POST", "/api/v1/namespaces", made, token=JOE))[0] == 403
    assert (await api.call("PATCH", "/api/v1/namespaces/joe", label, Content_Type=MERGE))[0] == 200


# ---- objects -------------------------------------------------------------------------------------------------------


async def test_every_fault_of_a_role_and_of_a_binding_is_said_at_once(api: Served) -> None:
    rules = [{"verbs": []}, {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["y"]}]
    _, said = await api.call("POST", f"{RBAC}/namespaces/joe/roles", role("r", rules))
    fields = [cause["field"] for cause in said["details"]["causes"]]
    assert fields == ["rules[0].verbs", "rules[0].apiGroups", "rules[0].resources", *["rules[1].nonResourceURLs"] * 2]
    broken = binding("b", "") | {
        "subjects": [{"kind": "Robot", "name": ""}],
        "roleRef": {"kind": "Secret", "name": ""},
    }
    _, said = await api.call("POST", f"{RBAC}/namespaces/joe/rolebindings", broken)
    fields = [cause["field"] for cause in said["details"]["causes"]]
    assert fields == ["roleRef.kind", "roleRef.name", "subjects[0].name", "subjects[0].kind"]


async def test_the_role_of_a_binding_never_changes(api: Served) -> None:
    path = f"{RBAC}/namespaces/joe/rolebindings"
    await api.call("POST", path, binding("b", "view", "eve", cluster=True))
    change = {"roleRef": {"kind": "ClusterRole", "name": "edit"}}
    status, said = await api.call("PATCH", f"{path}/b", change, Content_Type=MERGE)
    assert (status, "cannot change roleRef" in said["message"]) == (422, True)


# ---- reviews -------------------------------------------------------------------------------------------------------


async def allowed(api: Served, token: str, path: str = "selfsubjectaccessreviews", **spec: Any) -> bool:
    status, said = await api.call("POST", f"{REVIEW}/{path}", {"spec": spec}, token=token)
    assert status == 201, said
    return said["status"]["allowed"]


async def test_a_review_says_what_the_request_would_meet(api: Served) -> None:
    for attributes, path, expected in (
        ({"verb": "get", "resource": "namespaces", "name": "joe", "namespace": "joe"}, "/api/v1/namespaces/joe", True),
        ({"verb": "get", "resource": "namespaces", "name": "eve", "namespace": "joe"}, "/api/v1/namespaces/eve", False),
        ({"verb": "list", "resource": "namespaces", "namespace": "joe"}, "/api/v1/namespaces", False),
        ({"verb": "list", "resource": "secrets", "namespace": "joe"}, "/api/v1/namespaces/joe/secrets", True),
        ({"verb": "list", "resource": "secrets"}, "/api/v1/secrets", False),
        ({"verb": "list", "group": GROUP, "resource": "clusterroles"}, f"{RBAC}/clusterroles", False),
    ):
        assert await allowed(api, JOE, resourceAttributes=attributes) is expected, attributes
        assert (await api.call("GET", path, token=JOE))[0] == (200 if expected else 403)
    for path, expected in (("/apis", True), ("/openapi/v3", True), ("/metrics", False)):
        assert await allowed(api, JOE, nonResourceAttributes={"verb": "get", "path": path}) is expected
        assert (await api.call("GET", path, token=JOE))[0] == (200 if expected else 403)
    everything = {"verb": "*", "group": "*", "resource": "*"}
    assert await allowed(api, ADMIN, resourceAttributes=everything)
    assert not await allowed(api, JOE, resourceAttributes=everything | {"namespace": "joe"})


async def test_the_rules_review_lists_what_is_held(api: Served) -> None:
    for namespace, holds in (("joe", True), ("eve", False)):
        _, said = await api.call(
            "POST", f"{REVIEW}/selfsubjectrulesreviews", {"spec": {"namespace": namespace}}, token=JOE
        )
        resources = {name for rule in said["status"]["resourceRules"] for name in rule["resources"]}
        assert ("secrets" in resources) is holds
        assert "drtpservers" in resources
        assert said["status"]["nonResourceRules"]


async def test_questions_about_others_are_for_whoever_may_ask_them(api: Served) -> None:
    asked = {"user": "joe", "resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "joe"}}
    assert (await api.call("POST", f"{REVIEW}/subjectaccessreviews", {"spec": asked}, token=JOE))[0] == 403
    assert await allowed(api, ADMIN, "subjectaccessreviews", **asked)
    assert not await allowed(api, ADMIN, "subjectaccessreviews", **(asked | {"user": "eve"}))
    assert (await api.call("POST", f"{REVIEW}/subjectaccessreviews", {"spec": {}}))[0] == 422


async def test_a_local_review_tells_an_administrator_of_others_in_the_own_namespace_only(api: Served) -> None:
    local = "/apis/authorization.k8s.io/v1/namespaces/{}/localsubjectaccessreviews"
    secrets = {"verb": "get", "resource": "secrets", "namespace": "joe"}

    async def ask(namespace: str, attributes: dict[str, Any], token: str = JOE, **more: Any) -> tuple[int, Any]:
        spec = {"user": "joe", "resourceAttributes": attributes, **more}
        status, said = await api.call("POST", local.format(namespace), {"spec": spec}, token=token)
        return status, said.get("status", {}).get("allowed") if status == 201 else said["message"]

    assert await ask("joe", secrets, ADMIN) == (201, True)
    assert await ask("joe", secrets, ADMIN, user="eve") == (201, False)
    assert (await ask("eve", secrets | {"namespace": "eve"}))[0] == 403
    assert (await ask("joe", secrets | {"namespace": "eve"}, ADMIN))[0] == 422
    other = {"verb": "get", "resource": "namespaces", "name": "eve", "namespace": "joe"}
    assert (await ask("joe", other, ADMIN))[0] == 422
    nodes = {"verb": "get", "group": "datumapis.com", "resource": "drtpservers", "namespace": "joe"}
    assert (await ask("joe", nodes, ADMIN))[0] == 422
    assert (await ask("joe", secrets, ADMIN, nonResourceAttributes={"verb": "get", "path": "/"}))[0] == 422
    assert (await ask("joe", secrets))[0] == 403
    await promoted(api)
    assert await ask("joe", secrets) == (201, True)
    assert await ask("joe", secrets, user="eve") == (201, False)
    for wrong in ("namespaces/joe/selfsubjectaccessreviews", "localsubjectaccessreviews"):
        assert (await api.call("POST", f"{REVIEW}/{wrong}", {"spec": {}}))[0] == 404


async def test_a_narrowed_token_does_nothing_outside_its_projects_and_never_administers(api: Served) -> None:
    api.tokens.users["narrow"] = User("admin", "u-admin", ("system:masters", AUTHENTICATED), frozenset({"joe"}))
    for method, path, expected in (
        ("GET", SERVICES, 200),
        ("GET", "/api/v1/namespaces/joe/secrets", 200),
        ("GET", SERVICES.replace("joe", "eve"), 403),
        ("GET", "/apis/datumapis.com/v1alpha/drtpservices", 403),
        ("GET", "/apis/datumapis.com/v1alpha/drtpservers", 200),
        ("DELETE", "/api/v1/namespaces/joe", 403),
        ("GET", f"{RBAC}/clusterroles", 403),
    ):
        assert (await api.call(method, path, token="narrow"))[0] == expected, (method, path)


# ---- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenants", [10, 2000])
async def test_a_decision_costs_little_however_many_tenants_there_are(
    api: Served, tenants: int, record_property: Any
) -> None:
    for number in range(tenants):
        bound = binding("b", "edit", f"user-{number}", cluster=True)
        bound["metadata"]["namespace"] = f"project-{number}"
        await api.store.create(bound)
    await api.rbac.reached(api.store.revision)
    user = User("user-7", groups=(AUTHENTICATED,))
    rounds = 2000
    began = time.process_time()
    for _ in range(rounds):
        assert api.rbac.decide(user, "update", "datumapis.com", "drtpservices", "", "project-7", "x").allowed
        assert not api.rbac.decide(user, "update", "datumapis.com", "drtpservices", "", "project-8", "x").allowed
    cost = (time.process_time() - began) / rounds / 2
    record_property("microseconds", round(cost * 1e6, 1))
    print(f"{cost * 1e6:.1f} µs for each decision among {tenants} tenants")
    assert cost < 0.001


async def test_the_operator_makes_users_and_names_of_kubernetes_are_not_among_them(api: Served) -> None:
    path = "/apis/identity.datumapis.com/v1alpha/usertokens"
    status, made = await api.call("POST", path, {"spec": {"user": "bob"}})
    assert status == 201
    assert (await api.call("GET", "/apis", token=made["status"]["token"]))[0] == 200
    assert (await api.call("GET", SERVICES, token=made["status"]["token"]))[0] == 403
    for spec in ({}, {"user": "system:admin"}, {"user": "a/b"}, {"user": "bob", "lifetimeSeconds": 10**9}):
        assert (await api.call("POST", path, {"spec": spec}))[0] == 422, spec
