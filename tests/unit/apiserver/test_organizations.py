"""Organisations: roles that hold in every project, projects made by owners, invitations for one person and one role."""

from __future__ import annotations

from typing import Any

import pytest

from drtp.api.core import ORGANIZATION_LABEL
from drtp.api.meta import Key
from drtp.api.people import AUTHENTICATED, User
from drtp.api.rbac import API_VERSION, GROUP
from unit.apiserver.serving import ADMIN, Served

IDENTITY = "/apis/identity.datumapis.com/v1alpha"
SERVICES = "/apis/datumapis.com/v1alpha/namespaces/{}/drtpservices"


def namespace(name: str, organization: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": {ORGANIZATION_LABEL: organization}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


async def member(api: Served, name: str, role: str, organization: str = "acme") -> str:
    """A user with this role in the organisation; gives the token."""
    api.tokens.users[name] = User(f"the-{name}", f"u-{name}", (AUTHENTICATED,))
    binding = {
        "apiVersion": API_VERSION,
        "kind": "RoleBinding",
        "metadata": {"name": f"organization-{role}-{name}", "namespace": organization},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": f"organization-{role}"},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": f"the-{name}"}],
    }
    path = f"/apis/{API_VERSION}/namespaces/{organization}/rolebindings"
    assert (await api.call("POST", path, binding))[0] == 201
    return name


def stranger(api: Served, name: str) -> str:
    api.tokens.users[name] = User(f"the-{name}", f"u-{name}", (AUTHENTICATED,))
    return name


async def post(api: Served, token: str, plural: str, spec: dict[str, Any], where: str = "acme") -> tuple[int, Any]:
    inside = f"/namespaces/{where}" if where else ""
    return await api.call("POST", f"{IDENTITY}{inside}/{plural}", {"spec": spec}, token=token)


async def may(api: Served, token: str, verb: str, resource: str, where: str, group: str = "datumapis.com") -> bool:
    attributes = {"verb": verb, "group": group, "resource": resource, "namespace": where}
    if resource == "namespaces":
        attributes["name"] = where
    body = {"spec": {"resourceAttributes": attributes}}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    return (await api.call("POST", path, body, token=token))[1]["status"]["allowed"]


@pytest.fixture
async def acme(api: Served) -> Served:
    """Two organisations with a project each; the admin made them."""
    for name, organization in (("acme", "acme"), ("works", "acme"), ("rival", "rival"), ("plans", "rival")):
        assert (await api.call("POST", "/api/v1/namespaces", namespace(name, organization)))[0] == 201
    return api


async def test_a_role_holds_in_each_project_of_the_organisation_also_in_those_made_later(acme: Served) -> None:
    ed = await member(acme, "ed", "editor")
    assert await may(acme, ed, "create", "drtpservices", "works")
    assert await may(acme, ed, "create", "drtpservices", "acme")
    assert not await may(acme, ed, "create", "drtpservices", "later")
    assert (await acme.call("POST", "/api/v1/namespaces", namespace("later", "acme")))[0] == 201
    assert await may(acme, ed, "create", "drtpservices", "later")
    assert not await may(acme, ed, "create", "rolebindings", "works", GROUP)
    for where in ("plans", "rival", "joe", ""):
        assert not await may(acme, ed, "get", "drtpservices", where)


async def test_a_role_ends_everywhere_with_its_binding(acme: Served) -> None:
    vi = await member(acme, "vi", "viewer")
    assert await may(acme, vi, "get", "drtpservices", "works")
    assert not await may(acme, vi, "create", "drtpservices", "works")
    binding = f"/apis/{API_VERSION}/namespaces/acme/rolebindings/organization-viewer-vi"
    assert (await acme.call("DELETE", binding))[0] == 200
    assert not await may(acme, vi, "get", "drtpservices", "works")


async def test_only_an_organisations_roles_reach_beyond_its_own_project(acme: Served) -> None:
    api, admin = acme, stranger(acme, "al")
    binding = {
        "apiVersion": API_VERSION,
        "kind": "RoleBinding",
        "metadata": {"name": "plain", "namespace": "acme"},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": "the-al"}],
    }
    assert (await api.call("POST", f"/apis/{API_VERSION}/namespaces/acme/rolebindings", binding))[0] == 201
    assert await may(api, admin, "get", "drtpservices", "acme")
    assert not await may(api, admin, "get", "drtpservices", "works")
    own = {**binding, "metadata": {"name": "more", "namespace": "acme"}}
    own["roleRef"] = {"apiGroup": GROUP, "kind": "ClusterRole", "name": "organization-editor"}
    # What an organisation's editor holds an admin of its own project holds too, there; the binding would reach further.
    status, said = await api.call("POST", f"/apis/{API_VERSION}/namespaces/acme/rolebindings", own, token=admin)
    assert (status, "DRTP-1030" in said["message"]) == (403, True)


async def test_a_label_on_a_project_makes_nobody_an_organisation(acme: Served) -> None:
    """A binding counts in the organisation's own project alone, which only the operator makes."""
    joe = await member(acme, "jo", "admin", organization="works")
    assert await may(acme, joe, "get", "drtpservices", "works")
    assert not await may(acme, joe, "get", "drtpservices", "acme")
    assert (await post(acme, joe, "projectrequests", {"name": "more"}, "works"))[0] == 403


@pytest.mark.parametrize(("role", "allowed"), [("owner", True), ("admin", True), ("editor", False), ("viewer", False)])
async def test_owners_and_admins_make_projects_in_their_organisation(acme: Served, role: str, allowed: bool) -> None:
    token = await member(acme, role, role)
    status, said = await post(acme, token, "projectrequests", {"name": "fresh"})
    assert status == (201 if allowed else 403)
    if not allowed:
        return
    assert said["status"]["project"] == "fresh"
    made = await acme.store.get(Key("Namespace", "", "fresh"))
    assert made.labels[ORGANIZATION_LABEL] == "acme"
    assert await may(acme, token, "create", "drtpservices", "fresh")
    assert (await post(acme, token, "projectrequests", {"name": "fresh"}))[0] == 409
    assert (await post(acme, token, "projectrequests", {"name": "Not_A_Name"}))[0] == 422
    assert (await post(acme, token, "projectrequests", {"name": "x", "organization": "rival"}))[0] == 422
    assert (await post(acme, token, "projectrequests", {"name": "there"}, "rival"))[0] == 403
    assert (await acme.call("POST", "/api/v1/namespaces", namespace("here", "acme"), token=token))[0] == 403
    audit = (acme.ca.parent / "audit" / "audit.log").read_text()
    assert f'"by":"the-{role}"' in audit


async def test_the_quota_of_an_organisation_bounds_its_projects(acme: Served) -> None:
    owner = await member(acme, "ow", "owner")
    quota: dict[str, Any] = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "all"}}
    quota["spec"] = {"hard": {"datumapis.com/projects": "1", "count/drtpservices.datumapis.com": 0}}
    where = "/api/v1/namespaces/acme/resourcequotas"
    assert (await acme.call("POST", where, quota, token=owner))[0] == 403
    assert (await acme.call("POST", where, quota))[0] == 201
    status, said = await post(acme, owner, "projectrequests", {"name": "fresh"})
    assert (status, "exceeded quota: all" in said["message"], "DRTP-2024" in said["message"]) == (403, True, True)
    service: dict[str, Any] = {
        "apiVersion": "datumapis.com/v1alpha",
        "kind": "DRTPService",
        "metadata": {"name": "web"},
    }
    service["spec"] = {"protocol": "HTTP", "local": {"host": "localhost", "port": 80}}
    assert (await acme.call("POST", SERVICES.format("acme"), service, token=owner))[0] == 403
    assert (await acme.call("POST", SERVICES.format("works"), service, token=owner))[0] == 201
    assert (await acme.call("GET", f"{where}/all", token=owner))[1]["status"]["used"]["datumapis.com/projects"] == "1"
    for wrong in ({"datumapis.com/bytes-per-second": 1}, {"count/flowers": 1}, {"count/secrets": -1}, {"pods": 5}):
        bad = quota | {"metadata": {"name": "bad"}, "spec": {"hard": wrong}}
        assert (await acme.call("POST", where, bad))[0] == 422


async def test_owners_delete_projects_and_the_operator_alone_an_empty_organisation(acme: Served) -> None:
    owner, admin = await member(acme, "ow", "owner"), await member(acme, "ad", "admin")
    path = "/api/v1/namespaces/{}"
    assert (await acme.call("DELETE", path.format("works"), token=admin))[0] == 403
    assert (await acme.call("DELETE", path.format("acme"), token=owner))[0] == 403
    status, said = await acme.call("DELETE", path.format("acme"))
    assert (status, "works" in said["message"], "DRTP-2023" in said["message"]) == (409, True, True)
    assert (await acme.call("DELETE", path.format("plans"), token=owner))[0] == 403
    assert (await acme.call("DELETE", path.format("works"), token=owner))[0] == 200


async def test_an_admin_makes_no_owner_and_unmakes_none(acme: Served) -> None:
    await member(acme, "ow", "owner")
    admin = await member(acme, "ad", "admin")
    binding = f"/apis/{API_VERSION}/namespaces/acme/rolebindings/organization-owner-ow"
    status, said = await acme.call("DELETE", binding, token=admin)
    assert (status, "DRTP-1030" in said["message"]) == (403, True)
    held = (await acme.call("GET", binding, token=admin))[1]
    held["subjects"].append({"apiGroup": GROUP, "kind": "User", "name": "the-ad"})
    assert (await acme.call("PUT", binding, held, token=admin))[0] == 403
    assert (await post(acme, admin, "invitations", {"role": "owner"}))[0] == 403
    assert (await acme.call("DELETE", binding))[0] == 200


async def test_an_invited_user_gets_the_role_and_nothing_else(acme: Served) -> None:
    admin, guest = await member(acme, "ad", "admin"), stranger(acme, "gu")
    status, made = await post(acme, admin, "invitations", {"role": "viewer"})
    assert status == 201
    text = made["status"]["invitation"]
    assert text.startswith("drtp_inv_")
    assert not await may(acme, guest, "get", "drtpservices", "works")
    for _ in range(2):  # an answer that was lost is given again
        status, said = await post(acme, guest, "invitationacceptances", {"invitation": text}, "")
        assert (status, said["status"], said["spec"]) == (201, {"organization": "acme", "role": "viewer"}, {})
    assert await may(acme, guest, "get", "drtpservices", "works")
    assert not await may(acme, guest, "create", "drtpservices", "works")
    assert not await may(acme, guest, "get", "secrets", "works", "")
    assert not await may(acme, guest, "get", "drtpservices", "plans")
    assert text.rsplit("_", 2)[1] not in (acme.ca.parent / "audit" / "audit.log").read_text()


async def test_a_bad_invitation_is_refused_alike_whatever_is_wrong_with_it(acme: Served) -> None:
    admin = await member(acme, "ad", "admin")
    first, second = stranger(acme, "one"), stranger(acme, "two")
    text = (await post(acme, admin, "invitations", {"role": "editor"}))[1]["status"]["invitation"]
    assert (await post(acme, first, "invitationacceptances", {"invitation": text}, ""))[0] == 201
    said = {
        (status, body["message"])
        for status, body in [
            await post(acme, second, "invitationacceptances", {"invitation": wrong}, "")
            for wrong in (text, text[:-1] + ("0" if text[-1] != "0" else "1"), "drtp_inv_", "x" * 80)
        ]
    }
    assert len(said) == 1
    assert next(iter(said))[0] == 403
    assert not await may(acme, second, "get", "drtpservices", "works")


async def test_an_invitation_ends_with_its_makers_right_to_invite(acme: Served) -> None:
    admin, guest = await member(acme, "ad", "admin"), stranger(acme, "gu")
    text = (await post(acme, admin, "invitations", {"role": "viewer"}))[1]["status"]["invitation"]
    path = f"/apis/{API_VERSION}/namespaces/acme/rolebindings/organization-admin-ad"
    assert (await acme.call("DELETE", path, token=ADMIN))[0] == 200
    assert (await post(acme, guest, "invitationacceptances", {"invitation": text}, ""))[0] == 403


async def test_a_service_accounts_token_acts_in_its_project_as_far_as_it_is_bound(acme: Served) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    where = "/api/v1/namespaces/joe/serviceaccounts"
    assert (await acme.call("POST", where, account, token="joe-token"))[0] == 201
    status, made = await acme.call("POST", f"{where}/robot/token", {"spec": {}}, token="joe-token")
    assert (status, made["kind"]) == (201, "TokenRequest")
    robot = made["status"]["token"]
    assert acme.tokens.users[robot].name == "system:serviceaccount:joe:robot"
    assert not await may(acme, robot, "get", "drtpservices", "joe")
    assert (await acme.call("POST", f"{where}/nobody/token", {"spec": {}}, token="joe-token"))[0] == 404
    assert (await acme.call("POST", f"{where}/robot/token", {"spec": {"expirationSeconds": 1}}))[0] == 422
    assert (await acme.call("POST", f"{where}/robot/token", {"spec": {}}, token="eve-token"))[0] == 403


async def test_nobody_makes_a_token_of_a_program_that_may_more_than_they(acme: Served) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    token = "/api/v1/namespaces/joe/serviceaccounts/robot/token"
    assert (await acme.call("POST", "/api/v1/namespaces/joe/serviceaccounts", account))[0] == 201
    for where, role in (("joe", "view"), ("works", "view")):
        binding = {
            "apiVersion": API_VERSION,
            "kind": "RoleBinding",
            "metadata": {"name": "robot", "namespace": where},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "joe"}],
        }
        assert (await acme.call("POST", f"/apis/{API_VERSION}/namespaces/{where}/rolebindings", binding))[0] == 201
        status, said = await acme.call("POST", token, {"spec": {}}, token="joe-token")
        assert status == (201 if where == "joe" else 403)
    assert "DRTP-1030" in said["message"]
    assert "works" not in said["message"]
    assert (await acme.call("POST", token, {"spec": {}}))[0] == 201
