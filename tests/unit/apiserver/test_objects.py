"""Create, read, update, patch and delete over real TLS, in Kubernetes' words."""

from __future__ import annotations

from typing import Any

import pytest

from unit.apiserver.serving import Served

SERVICES = "/apis/datumapis.com/v1alpha/namespaces/joe/drtpservices"


def service(name: str = "db", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "datumapis.com/v1alpha",
        "kind": "DRTPService",
        "metadata": {"name": name},
        "spec": {"protocol": "TCP", "local": {"host": "db.corp", "port": 5432}} | spec,
    }


async def test_created_object_reads_back_with_defaults(api: Served) -> None:
    status, made = await api.call("POST", SERVICES, service())
    assert status == 201
    assert made["spec"]["serverCount"] == 2
    assert made["metadata"]["namespace"] == "joe"
    assert await api.call("GET", f"{SERVICES}/db") == (200, made)


async def test_generated_names_complete_their_prefix(api: Served) -> None:
    obj = service() | {"metadata": {"generateName": "db-"}}
    status, made = await api.call("POST", SERVICES, obj)
    assert status == 201
    assert made["metadata"]["name"].startswith("db-")


async def test_second_creation_conflicts(api: Served) -> None:
    await api.call("POST", SERVICES, service())
    status, said = await api.call("POST", SERVICES, service())
    assert (status, said["reason"]) == (409, "AlreadyExists")
    assert said["message"] == 'drtpservices.datumapis.com "db" already exists (DRTP-1002)'


async def test_invalid_object_lists_every_cause(api: Served) -> None:
    status, said = await api.call("POST", SERVICES, service(protocol="X", serverCount=9))
    assert (status, said["reason"]) == (422, "Invalid")
    assert [cause["field"] for cause in said["details"]["causes"]] == ["spec.protocol", "spec.serverCount"]
    assert "DRTP-1010" in said["message"]


@pytest.mark.parametrize(("how", "status"), [("Strict", 400), ("Warn", 201), ("Ignore", 201), ("Wrong", 422)])
async def test_unknown_fields_are_treated_as_asked(api: Served, how: str, status: int) -> None:
    got, said = await api.call("POST", f"{SERVICES}?fieldValidation={how}", service(surprise=1))
    assert got == status
    if status == 201:
        assert "surprise" not in said["spec"]
    if how == "Strict":
        assert 'strict decoding error: unknown field "spec.surprise"' in said["message"]


async def test_strict_refusal_lists_unknown_fields_and_rules_beside_the_schemas_faults(api: Served) -> None:
    wrong = service(surprise=1, serverCount=9, enabled="yes", edgeAllowlist=["nope"], local={"host": "h", "port": 0})
    status, said = await api.call("POST", f"{SERVICES}?fieldValidation=Strict", wrong)
    assert status == 422
    causes = said["details"]["causes"]
    named = {"spec.surprise", "spec.serverCount", "spec.enabled", "spec.edgeAllowlist[0]", "spec.local.port"}
    assert {cause["field"] for cause in causes} == named
    assert causes[-1]["message"].endswith("(DRTP-1010)")


async def test_update_needs_the_revision_it_was_made_from(api: Served) -> None:
    _, made = await api.call("POST", SERVICES, service())
    changed = made | {"spec": made["spec"] | {"displayName": "x"}}
    status, now = await api.call("PUT", f"{SERVICES}/db", changed)
    assert (status, now["metadata"]["generation"]) == (200, 2)
    stale = await api.call("PUT", f"{SERVICES}/db", changed | {"spec": made["spec"]})
    assert (stale[0], stale[1]["reason"]) == (409, "Conflict")
    del changed["metadata"]["resourceVersion"]
    assert (await api.call("PUT", f"{SERVICES}/db", changed))[0] == 422


async def test_writes_that_change_nothing_keep_the_revision(api: Served) -> None:
    _, made = await api.call("POST", SERVICES, service())
    _, same = await api.call("PUT", f"{SERVICES}/db", made)
    assert same == made


async def test_status_is_written_by_its_own_path_only(api: Served) -> None:
    _, made = await api.call("POST", SERVICES, service() | {"status": {"connections": 9}})
    assert "status" not in made
    _, still = await api.call("PUT", f"{SERVICES}/db", made | {"status": {"connections": 9}})
    assert "status" not in still
    status, now = await api.call("PUT", f"{SERVICES}/db/status", made | {"status": {"connections": 1}, "spec": {}})
    assert (status, now["status"]["connections"]) == (200, 1)
    assert now["spec"] == made["spec"]
    assert now["metadata"]["generation"] == 1


async def test_status_that_breaks_the_schema_is_refused(api: Served) -> None:
    _, made = await api.call("POST", SERVICES, service())
    status, _ = await api.call("PUT", f"{SERVICES}/db/status", made | {"status": {"connections": -1}})
    assert status == 422


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("merge-patch", {"spec": {"displayName": "x"}}),
        ("json-patch", [{"op": "replace", "path": "/spec/displayName", "value": "x"}]),
        ("json-patch", [{"op": "add", "path": "/spec/displayName", "value": "x"}]),
    ],
)
async def test_patches_change_what_they_name(api: Served, kind: str, patch: Any) -> None:
    await api.call("POST", SERVICES, service())
    status, now = await api.call("PATCH", f"{SERVICES}/db", patch, Content_Type=f"application/{kind}+json")
    assert (status, now["spec"]["displayName"], now["spec"]["protocol"]) == (200, "x", "TCP")


async def test_merge_patch_null_removes(api: Served) -> None:
    await api.call("POST", SERVICES, service(edgeAllowlist=["10.0.0.0/8"]))
    patch = {"spec": {"edgeAllowlist": None}}
    _, now = await api.call("PATCH", f"{SERVICES}/db", patch, Content_Type="application/merge-patch+json")
    assert "edgeAllowlist" not in now["spec"]


async def test_patch_is_judged_as_an_update(api: Served) -> None:
    await api.call("POST", SERVICES, service())
    patch = {"spec": {"protocol": "HTTP"}}
    status, said = await api.call("PATCH", f"{SERVICES}/db", patch, Content_Type="application/merge-patch+json")
    assert status == 422
    assert "protocol is immutable" in said["message"]


async def test_patch_on_a_named_revision_is_not_repeated(api: Served) -> None:
    await api.call("POST", SERVICES, service())
    patch = {"metadata": {"resourceVersion": "1"}, "spec": {"displayName": "x"}}
    status, _ = await api.call("PATCH", f"{SERVICES}/db", patch, Content_Type="application/merge-patch+json")
    assert status == 409


async def test_strategic_merge_of_our_kinds_says_415(api: Served) -> None:
    await api.call("POST", SERVICES, service())
    for kind in ("apply-patch+cbor", "strategic-merge-patch+json", "surprise"):
        status, said = await api.call("PATCH", f"{SERVICES}/db", {}, Content_Type=f"application/{kind}")
        assert (status, said["reason"]) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize(
    ("group", "plural", "strategic"),
    [
        ("apis/datumapis.com/v1alpha", "drtpservices", False),
        ("apis/gateway.networking.k8s.io/v1", "httproutes", False),
        ("api/v1", "services", True),
    ],
)
async def test_the_openapi_document_offers_strategic_merge_where_it_is_taken(
    api: Served, group: str, plural: str, strategic: bool
) -> None:
    # kubectl sends what the document offers: offered in vain, the second `kubectl apply` of our kinds would fail.
    _, document = await api.call("GET", f"/openapi/v3/{group}")
    offered = document["paths"][f"/{group}/namespaces/{{namespace}}/{plural}/{{name}}"]["patch"]["requestBody"][
        "content"
    ]
    assert ("application/strategic-merge-patch+json" in offered) == strategic
    assert "application/merge-patch+json" in offered


async def test_strategic_merge_joins_ports_by_number(api: Served) -> None:
    path = "/api/v1/namespaces/joe/services"
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    await api.call(
        "POST", path, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}}
    )
    patch = {"spec": {"ports": [{"port": 81, "$patch": "delete"}, {"port": 80, "name": "z"}, {"port": 82}]}}
    kind = "application/strategic-merge-patch+json"
    status, now = await api.call("PATCH", f"{path}/s", patch, Content_Type=kind)
    assert (status, now["spec"]["ports"]) == (200, [{"name": "z", "port": 80}, {"port": 82}])


async def test_dry_run_writes_nothing(api: Served) -> None:
    before = api.store.revision
    status, made = await api.call("POST", f"{SERVICES}?dryRun=All", service())
    assert (status, made["spec"]["serverCount"]) == (201, 2)
    assert api.store.revision == before
    assert (await api.call("POST", f"{SERVICES}?dryRun=Some", service()))[0] == 422


async def test_deletion_obeys_preconditions(api: Served) -> None:
    await api.call("POST", SERVICES, service())
    options = {"preconditions": {"uid": "another"}}
    assert (await api.call("DELETE", f"{SERVICES}/db", options))[0] == 409
    status, said = await api.call("DELETE", f"{SERVICES}/db?dryRun=All")
    assert status == 200
    status, said = await api.call("DELETE", f"{SERVICES}/db")
    assert (status, said["status"]) == (200, "Success")
    assert (await api.call("GET", f"{SERVICES}/db"))[0] == 404


async def test_finalizers_hold_an_object(api: Served) -> None:
    obj = service()
    obj["metadata"]["finalizers"] = ["datumapis.com/hold"]
    await api.call("POST", SERVICES, obj)
    _, held = await api.call("DELETE", f"{SERVICES}/db")
    assert held["metadata"]["deletionTimestamp"]
    patch = {"metadata": {"finalizers": None}}
    await api.call("PATCH", f"{SERVICES}/db", patch, Content_Type="application/merge-patch+json")
    assert (await api.call("GET", f"{SERVICES}/db"))[0] == 404


async def test_orphans_lose_their_owner_reference(api: Served) -> None:
    _, owner = await api.call("POST", SERVICES, service())
    owned = service("child")
    reference = {"apiVersion": "v1", "kind": "X", "name": "db", "uid": owner["metadata"]["uid"]}
    owned["metadata"]["ownerReferences"] = [reference]
    await api.call("POST", SERVICES, owned)
    await api.call("DELETE", f"{SERVICES}/db?propagationPolicy=Orphan")
    _, child = await api.call("GET", f"{SERVICES}/child")
    assert not child["metadata"].get("ownerReferences")


async def test_collections_are_deleted_by_selector(api: Served) -> None:
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        obj = service(name)
        obj["metadata"]["labels"] = {"l": label}
        await api.call("POST", SERVICES, obj)
    status, gone = await api.call("DELETE", f"{SERVICES}?labelSelector=l%3Dx")
    assert (status, [item["metadata"]["name"] for item in gone["items"]]) == (200, ["a", "b"])
    _, left = await api.call("GET", SERVICES)
    assert [item["metadata"]["name"] for item in left["items"]] == ["c"]


async def test_other_served_versions_show_the_same_object(api: Served) -> None:
    path = "/apis/gateway.networking.k8s.io/{}/namespaces/joe/httproutes"
    obj = {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "HTTPRoute",
        "metadata": {"name": "r"},
        "spec": {"hostnames": ["a.example"]},
    }
    status, made = await api.call("POST", path.format("v1beta1"), obj)
    assert (status, made["apiVersion"]) == (201, "gateway.networking.k8s.io/v1beta1")
    _, stored = await api.call("GET", path.format("v1") + "/r")
    assert stored["apiVersion"] == "gateway.networking.k8s.io/v1"
    patch = {"spec": {"hostnames": ["b.example"]}}
    status, now = await api.call(
        "PATCH", path.format("v1beta1") + "/r", patch, Content_Type="application/merge-patch+json"
    )
    assert (status, now["spec"]["hostnames"]) == (200, ["b.example"])


async def test_bodies_that_disagree_with_their_path_are_refused(api: Served) -> None:
    for change in ({"metadata": {"name": "db", "namespace": "eve"}}, {"kind": "DRTPServer"}, {"apiVersion": "v1"}):
        status, said = await api.call("POST", SERVICES, service() | change)
        assert (status, said["reason"]) == (400, "BadRequest")
    await api.call("POST", SERVICES, service())
    assert (await api.call("PUT", f"{SERVICES}/db", service("other")))[0] == 400


async def test_objects_need_a_namespace_that_exists(api: Served) -> None:
    status, said = await api.call("POST", SERVICES.replace("joe", "nowhere"), service())
    assert (status, said["message"]) == (404, 'namespaces "nowhere" not found (DRTP-1001)')


async def test_namespace_takes_its_contents_with_it(api: Served) -> None:
    namespaces = "/api/v1/namespaces"
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}}
    _, shown = await api.call("POST", namespaces, made)
    assert shown["status"]["phase"] == "Active"
    inside = SERVICES.replace("joe", "gone")
    held = service()
    held["metadata"]["finalizers"] = ["datumapis.com/hold"]
    await api.call("POST", inside, held)
    await api.call("POST", inside, service("other"))
    _, going = await api.call("DELETE", f"{namespaces}/gone")
    assert going["status"]["phase"] == "Terminating"
    status, said = await api.call("POST", inside, service("late"))
    assert (status, "being terminated" in said["message"]) == (403, True)
    since = going["metadata"]["resourceVersion"]
    watch = f"{namespaces}?watch=true&fieldSelector=metadata.name%3Dgone&resourceVersion={since}&timeoutSeconds=20"
    headers = {"Authorization": "Bearer admin-token"}
    async with api.session.get(api.url + watch, headers=headers) as frames:
        patch = {"metadata": {"finalizers": None}}
        await api.call("PATCH", f"{inside}/db", patch, Content_Type="application/merge-patch+json")
        async for frame in frames.content:
            if b'"DELETED"' in frame:
                break
        else:
            pytest.fail("the namespace stayed")
    assert (await api.call("GET", f"{inside}/other"))[0] == 404


async def test_system_namespaces_stay(api: Served) -> None:
    for name in ("default", "datum-system"):
        assert (await api.call("DELETE", f"/api/v1/namespaces/{name}"))[0] == 403


async def test_a_creator_does_not_choose_ids_cve_2026_55429(api: Served) -> None:
    """A uid is an identity here: who could choose one could become the owner of what another made."""
    _, first = await api.call("POST", SERVICES, service())
    stolen = {
        "uid": first["metadata"]["uid"],
        "resourceVersion": "",
        "generation": 99,
        "creationTimestamp": "2001-01-01T00:00:00Z",
    }
    wanted = service("second")
    wanted["metadata"] |= stolen
    status, made = await api.call("POST", SERVICES, wanted)
    assert status == 201
    assert made["metadata"]["uid"] != first["metadata"]["uid"]
    assert made["metadata"]["generation"] == 1
    assert not made["metadata"]["creationTimestamp"].startswith("2001")
    made["metadata"]["uid"] = first["metadata"]["uid"]
    assert (await api.call("PUT", f"{SERVICES}/second", made))[0] in {409, 422}
    _, held = await api.call("GET", f"{SERVICES}/second")
    assert held["metadata"]["uid"] != first["metadata"]["uid"]


@pytest.mark.parametrize(
    "options",
    [
        {"propagationPolicy": []},
        {"preconditions": 1},
        {"preconditions": {"uid": 1}},
        {"dryRun": "All"},
        {"dryRun": [1]},
    ],
    ids=str,
)
async def test_delete_options_of_another_shape_are_refused_and_nothing_goes(
    api: Served, options: dict[str, Any]
) -> None:
    await api.call("POST", SERVICES, service())
    for path in (SERVICES, f"{SERVICES}/db"):
        status, said = await api.call("DELETE", path, options)
        assert (status, said["reason"]) == (400, "BadRequest")
    assert (await api.call("GET", f"{SERVICES}/db"))[0] == 200
