"""Posted credentials at the API's door, and what a read-only token opens there."""

from __future__ import annotations

from typing import Any

import pytest

from drtp.api.people import SYSTEM_MASTERS
from unit.apiserver.serving import ADMIN, JOE, Served
from unit.apiserver.test_objects import SERVICES, service

IDENTITY = "/apis/identity.datumapis.com/v1alpha"
READ_ONLY = "joe-looks"
ADMIN_READ_ONLY = "admin-looks"


@pytest.fixture
def looking(api: Served) -> Served:
    """Joe's and the administrator's read-only tokens."""
    for name, token in ((JOE, READ_ONLY), (ADMIN, ADMIN_READ_ONLY)):
        api.tokens.users[token] = api.tokens.users[name]._replace(read_only=True)
    return api


def posted(kind: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "identity.datumapis.com/v1alpha", "kind": kind, "spec": spec}


async def test_a_read_only_token_reads_what_its_user_reads_and_changes_nothing(looking: Served) -> None:
    assert (await looking.call("POST", SERVICES, service()))[0] == 201
    for token in (READ_ONLY, ADMIN_READ_ONLY):
        assert (await looking.call("GET", SERVICES, token=token))[0] == 200
        assert (await looking.call("GET", f"{SERVICES}/db", token=token))[0] == 200
        for method, path, body in (
            ("POST", SERVICES, service("other")),
            ("DELETE", f"{SERVICES}/db", None),
            ("DELETE", SERVICES, None),
            ("PUT", f"{SERVICES}/db", service()),
            ("POST", f"{IDENTITY}/selftokens", posted("SelfToken")),
            ("POST", f"{IDENTITY}/clientcertificates", posted("ClientCertificate", csr="x")),
            ("POST", f"{IDENTITY}/usertokens", posted("UserToken", user="sam")),
            ("POST", f"{IDENTITY}/userpasswords", posted("UserPassword", user="sam", password="x" * 12)),
            ("POST", f"{IDENTITY}/namespaces/joe/revocations", posted("Revocation", service="db")),
        ):
            status, said = await looking.call(method, path, body, token=token)
            assert status == 403, (method, path)
            if path == SERVICES and method == "POST":
                assert ": the token allows less than its user may" in said["message"]
    of_others = await looking.call("POST", SERVICES.replace("joe", "eve"), service("other"), token=READ_ONLY)
    assert of_others[0] == 403 and "allows less" not in of_others[1]["message"], "nor may the user"


async def test_can_i_answers_a_read_only_token_truthfully(looking: Served) -> None:
    for token in (READ_ONLY, ADMIN_READ_ONLY):
        for verb, allowed in (("get", True), ("list", True), ("create", False), ("serve", False), ("*", False)):
            attributes = {"verb": verb, "group": "datumapis.com", "resource": "drtpservices", "namespace": "joe"}
            body = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            }
            path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
            status, said = await looking.call("POST", path, body, token=token)
            assert status == 201 and said["status"]["allowed"] is allowed, (token, verb)


async def test_everybody_makes_tokens_of_their_own_and_none_is_kept(api: Served) -> None:
    ask = posted("SelfToken", namespaces=["joe"], lifetimeSeconds=3600, readOnly=True, description="ci")
    status, said = await api.call("POST", f"{IDENTITY}/selftokens", ask, token=JOE)
    assert status == 201 and said["status"]["token"] == "joe-own"
    assert (await api.call("GET", f"{IDENTITY}/selftokens", token=JOE))[0] in {403, 404, 405}
    assert (await api.call("POST", f"{IDENTITY}/selftokens", ask, token=""))[0] == 401


@pytest.mark.parametrize(
    "spec",
    [
        {"lifetimeSeconds": 1},
        {"lifetimeSeconds": 10**9},
        {"lifetimeSeconds": True},
        {"lifetimeSeconds": "long"},
        {"namespaces": "joe"},
        {"namespaces": [7]},
        {"namespaces": ["n"] * 65},
        {"readOnly": "yes"},
        {"description": "two\nlines"},
        {"description": "x" * 201},
    ],
)
async def test_a_token_with_wrong_values_is_not_made(api: Served, spec: dict[str, Any]) -> None:
    status, said = await api.call("POST", f"{IDENTITY}/selftokens", posted("SelfToken", **spec), token=JOE)
    assert status == 422 and next(iter(spec)) in said["message"]


async def test_a_password_does_not_come_back_and_is_the_operators_to_set(api: Served) -> None:
    ask = posted("UserPassword", user="sam", password="a very long password")
    status, said = await api.call("POST", f"{IDENTITY}/userpasswords", ask)
    assert status == 201 and "a very long" not in str(said)
    assert (await api.call("POST", f"{IDENTITY}/userpasswords", ask, token=JOE))[0] == 403
    for wrong in ("https://issuer#sam", "system:admin", "a/b", ""):
        again = posted("UserPassword", user=wrong, password="a very long password")
        assert (await api.call("POST", f"{IDENTITY}/userpasswords", again))[0] == 422


async def test_users_of_issuers_are_made_by_their_issuers_alone(api: Served) -> None:
    """Whoever may make users could else be somebody of an issuer's."""
    ask = posted("UserToken", user="corp#sam")
    status, said = await api.call("POST", f"{IDENTITY}/usertokens", ask)
    assert status == 422 and "foreign issuers" in said["message"]
    assert SYSTEM_MASTERS in api.tokens.users[ADMIN].groups
