"""Who may do what. What one may not read answers 403 whether it exists or not, on every route (threat 1)."""

from __future__ import annotations

from typing import Any

import pytest

from drtp.api.registry import REGISTRY
from unit.apiserver.serving import EVE, JOE, Served
from unit.apiserver.test_objects import SERVICES, service

NAMESPACED = [info for info in REGISTRY if info.namespaced and not info.internal and info.kind != "Gateway"]
"""Gateways are the operator's, and everybody may read them."""


def path_of(info: Any, namespace: str) -> str:
    root = f"/apis/{info.group}/{info.version}" if info.group else f"/api/{info.version}"
    return f"{root}/namespaces/{namespace}/{info.plural}"


@pytest.mark.parametrize("info", NAMESPACED, ids=lambda info: info.plural)
async def test_another_tenants_namespace_is_closed_on_every_route_cve_2026_40304(api: Served, info: Any) -> None:
    """CVE-2026-40304: whose it is decides on every route and verb, deletion not least."""
    collection = path_of(info, "joe")
    routes = [
        ("GET", collection),
        ("GET", f"{collection}?watch=1"),
        ("POST", collection),
        ("DELETE", collection),
        *((method, f"{collection}/x") for method in ("GET", "PUT", "PATCH", "DELETE")),
    ]
    if info.status_subresource:
        routes += [(method, f"{collection}/x/status") for method in ("GET", "PUT", "PATCH")]
    for method, route in routes:
        status, said = await api.call(method, route, {} if method in {"POST", "PUT", "PATCH"} else None, token=EVE)
        assert (status, said["reason"]) == (403, "Forbidden"), (method, route)


async def test_existing_and_missing_objects_of_others_look_alike(api: Served) -> None:
    await api.call("POST", SERVICES, service())
    _, there = await api.call("GET", f"{SERVICES}/db", token=EVE)
    _, absent = await api.call("GET", f"{SERVICES}/no", token=EVE)
    assert there["message"].replace('"db"', "") == absent["message"].replace('"no"', "")


async def test_lists_over_all_namespaces_are_the_operators_ghsa_6v5r_p2wr_q492(api: Served) -> None:
    """GHSA-6v5r-p2wr-q492: a list without a scope gave away certificates."""
    for plural in ("secrets", "configmaps"):
        assert (await api.call("GET", f"/api/v1/{plural}", token=JOE))[0] == 403
    for query in ("", "?watch=1", "?fieldSelector=metadata.namespace%3Djoe"):
        path = f"/apis/datumapis.com/v1alpha/drtpservices{query}"
        assert (await api.call("GET", path, token=JOE))[0] == 403
    assert (await api.call("GET", "/api/v1/namespaces", token=JOE))[0] == 403
    assert (await api.call("GET", "/api/v1/namespaces/eve", token=JOE))[0] == 403
    assert (await api.call("GET", "/api/v1/namespaces/joe", token=JOE))[0] == 200


async def test_encoded_slashes_do_not_move_a_request_to_another_tenant(api: Served) -> None:
    for path in (SERVICES.replace("joe", "eve%2F..%2Fjoe"), SERVICES.replace("joe", "eve/../joe"), f"{SERVICES}%2Fdb"):
        assert (await api.call("GET", path, token=EVE))[0] in {403, 404}


async def test_tenants_have_full_use_of_their_own(api: Served) -> None:
    assert (await api.call("POST", SERVICES, service(), token=JOE))[0] == 201
    patch = {"spec": {"enabled": False}}
    kind = "application/merge-patch+json"
    assert (await api.call("PATCH", f"{SERVICES}/db", patch, token=JOE, Content_Type=kind))[0] == 200
    assert (await api.call("DELETE", f"{SERVICES}/db", token=JOE))[0] == 200


async def test_tenants_never_write_status(api: Served) -> None:
    _, made = await api.call("POST", SERVICES, service(), token=JOE)
    for method in ("PUT", "PATCH"):
        assert (await api.call(method, f"{SERVICES}/db/status", made, token=JOE))[0] == 403
    assert (await api.call("GET", f"{SERVICES}/db/status", token=JOE))[0] == 200


async def test_tenants_never_write_endpoint_slices_cve_2021_25740(api: Served) -> None:
    path = "/apis/discovery.k8s.io/v1/namespaces/joe/endpointslices"
    assert (await api.call("POST", path, {}, token=JOE))[0] == 403


async def test_what_the_operator_shares_is_read_only(api: Served) -> None:
    servers = "/apis/datumapis.com/v1alpha/drtpservers"
    assert (await api.call("GET", servers, token=JOE))[0] == 200
    assert (await api.call("POST", servers, {}, token=JOE))[0] == 403
    gateways = "/apis/gateway.networking.k8s.io/v1/namespaces/datum-system/gateways"
    assert (await api.call("GET", gateways, token=JOE))[0] == 200
    assert (await api.call("POST", gateways, {}, token=JOE))[0] == 403
    assert (await api.call("GET", "/api/v1/namespaces/datum-system/secrets", token=JOE))[0] == 403


async def test_internal_kinds_are_served_to_nobody(api: Served) -> None:
    for info in REGISTRY:
        if info.internal:
            for path in (f"/apis/{info.group}/{info.version}/{info.plural}", f"/apis/{info.group}/{info.version}"):
                assert (await api.call("GET", path))[0] == 404
    _, groups = await api.call("GET", "/apis")
    assert "internal" not in str(groups)


async def test_nobody_is_unauthorised_everywhere_but_at_the_public_documents(api: Served) -> None:
    for path in (SERVICES, "/api", "/apis", "/openapi/v3", "/nothing", "/"):
        for token in ("", "wrong"):
            status, said = await api.call("GET", path, token=token)
            assert (status, said["reason"]) == (401, "Unauthorized")
    for path in ("/healthz", "/livez", "/readyz", "/version", "/version/", "/.well-known/drtp"):
        assert (await api.call("GET", path, token=""))[0] == 200


async def test_impersonation_is_refused_rather_than_ignored(api: Served) -> None:
    assert (await api.call("GET", SERVICES, Impersonate_User="joe"))[0] == 403


async def test_reviews_answer_what_the_seam_decides(api: Served) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    for namespace, allowed in (("joe", True), ("eve", False), ("", False)):
        attributes = {"verb": "create", "group": "datumapis.com", "resource": "drtpservices", "namespace": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        status, said = await api.call("POST", path, review, token=JOE)
        assert (status, said["status"]["allowed"]) == (201, allowed)
    _, who = await api.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, token=JOE)
    assert who["status"]["userInfo"]["username"] == "joe"
