"""PolicyReview: who would reach a service and by which rule, for those who may read the policies, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from drtp.api.internal import Account, AccountSpec
from drtp.api.meta import ObjectMeta
from drtp.issuers.records import as_object
from unit.apiserver.serving import EVE, JOE, Served

AT = "/apis/policy.datumapis.com/v1alpha/namespaces/joe/policyreviews"
GROUP = "datumapis.com"


async def put(api: Served, kind: str, name: str, spec: dict[str, Any], namespace: str = "joe") -> None:
    head = {"apiVersion": f"{GROUP}/v1alpha", "kind": kind, "metadata": {"name": name, "namespace": namespace}}
    status, said = await api.call(
        "POST", f"/apis/{GROUP}/v1alpha/namespaces/{namespace}/{kind.lower()}s", head | {"spec": spec}
    )
    assert status == 201, said


async def exposed(api: Served) -> None:
    local = {"host": "localhost", "port": 5432}
    await put(api, "DRTPService", "postgres", {"protocol": "TCP", "local": local, "expose": {}})


async def policy(api: Served, *rules: dict[str, Any], name: str = "partners", **spec: Any) -> None:
    target = {"group": GROUP, "kind": "DRTPService", "name": "postgres"}
    await api.call("DELETE", f"/apis/{GROUP}/v1alpha/namespaces/joe/drtpaccesspolicies/{name}")
    head = {"apiVersion": f"{GROUP}/v1alpha", "kind": "DRTPAccessPolicy", "metadata": {"name": name}}
    body = head | {"spec": {"targetRefs": [target], "rules": list(rules), **spec}}
    status, said = await api.call("POST", f"/apis/{GROUP}/v1alpha/namespaces/joe/drtpaccesspolicies", body)
    assert status == 201, said


async def account(api: Served, name: str, *groups: str) -> None:
    spec = AccountSpec(name=name, groups=groups)
    await api.store.create(as_object(Account(metadata=ObjectMeta(name=f"u-{name}"), spec=spec)))


async def connects(api: Served, kind: str, name: str) -> None:
    """A role for the service, for a User, a Group or a ServiceAccount."""
    rbac, at = "rbac.authorization.k8s.io", "/apis/rbac.authorization.k8s.io/v1/namespaces/joe"
    head = {"apiVersion": f"{rbac}/v1", "metadata": {"name": f"uses-{name}"}}
    rule = {"apiGroups": [GROUP], "resources": ["drtpservices/connect"], "verbs": ["connect"]}
    status, said = await api.call("POST", f"{at}/roles", head | {"kind": "Role", "rules": [rule]})
    assert status == 201, said
    subject = {"kind": kind, "name": name, **({"namespace": "joe"} if kind == "ServiceAccount" else {"apiGroup": rbac})}
    binding = {"roleRef": {"apiGroup": rbac, "kind": "Role", "name": f"uses-{name}"}, "subjects": [subject]}
    status, said = await api.call("POST", f"{at}/rolebindings", head | {"kind": "RoleBinding"} | binding)
    assert status == 201, said


async def asked(api: Served, **spec: Any) -> dict[str, Any]:
    status, said = await api.call("POST", AT, {"spec": {"service": "postgres", **spec}}, token=JOE)
    assert status == 201, said
    return said["status"]


async def test_the_rule_that_decides_is_named(api: Served) -> None:
    await exposed(api)
    await account(api, "bob")
    await connects(api, "User", "bob")
    assert (await asked(api, **{"from": "203.0.113.9"}))["rule"] == "spec.edgeAllowlist/defaultAction"
    await policy(
        api,
        {"name": "no-kp", "action": "Deny", "countries": ["KP"]},
        {"name": "acme", "action": "Allow", "organizations": ["acme"], "clientCIDRs": ["203.0.113.0/24"]},
    )
    said = await asked(api, **{"as": ["user:bob", "org:acme"], "from": "203.0.113.9", "country": "DE"})
    assert (said["decision"], said["rule"]) == ("Allow", "policy/partners/acme")
    (trace,) = said["trace"]
    assert [(one["name"], one["speaks"]) for one in trace["rules"]] == [("no-kp", "No"), ("acme", "Yes")]
    assert trace["rules"][1]["parts"] == {"clientCIDRs": "Yes", "organizations": "Yes"}


async def test_a_callers_address_is_no_matter_of_the_list_of_visitors(api: Served) -> None:
    """As tunnel servers have it: whoever comes by `connect` is let in by a role, and narrowed by policies alone."""
    local = {"host": "localhost", "port": 5432}
    await put(api, "DRTPService", "postgres", {"protocol": "TCP", "local": local, "edgeAllowlist": ["10.0.0.0/8"]})
    await account(api, "bob")
    await connects(api, "User", "bob")
    bob = {"as": ["user:bob"], "from": "203.0.113.9"}
    said = await asked(api, **bob)
    assert (said["decision"], said["rule"], said["trace"]) == ("Allow", "roles/connect", [])
    await policy(api, {"name": "nobody", "action": "Deny"})
    said = await asked(api, **bob)
    assert (said["decision"], [one["list"] for one in said["trace"]]) == ("Deny", ["policy/partners"])


async def test_a_caller_needs_a_role_or_a_subscription_whatever_policies_say(api: Served) -> None:
    await exposed(api)
    for name, groups in (("bob", ("team",)), ("joan", ("team",)), ("eve", ())):
        await account(api, name, *groups)
    report = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "report"}}
    status, said = await api.call("POST", "/api/v1/namespaces/joe/serviceaccounts", report)
    assert status == 201, said
    for names in (["user:bob"], ["user:nobody"], ["app:joe/report"], ["app:joe/none"]):
        said = await asked(api, **{"as": names})
        assert (said["decision"], said["rule"], said["admitted"]) == ("Deny", "roles/connect", "No"), names
    for names in (["org:acme"], ["user:https://issuer.example#bob"]):
        said = await asked(api, **{"as": names})
        assert (said["decision"], said["rule"], said["admitted"]) == ("Allow", "roles/connect", "Unknown"), names
    await connects(api, "Group", "team")
    await connects(api, "ServiceAccount", "report")
    for names in (["user:bob"], ["user:joan"], ["app:joe/report"]):
        said = await asked(api, **{"as": names})
        assert (said["decision"], said["admitted"]) == ("Allow", "Yes"), names
    await policy(api, {"name": "all", "action": "Allow"})
    said = await asked(api, **{"as": ["user:eve"]})
    assert (said["decision"], said["rule"], said["admitted"]) == ("Deny", "roles/connect", "No")
    assert [one["decision"] for one in said["trace"]] == ["Allow"]
    await policy(api, {"name": "no-bob", "action": "Deny", "principals": ["user:bob"]}, defaultAction="Allow")
    said = await asked(api, **{"as": ["user:bob"]})
    assert (said["decision"], said["rule"], said["admitted"]) == ("Deny", "policy/partners/no-bob", "Yes")
    assert (await asked(api, **{"from": "203.0.113.9"}))["admitted"] == "", "of a visitor nobody asks"


async def test_a_connections_own_policy_counts_too(api: Served) -> None:
    await exposed(api)
    spec = {"serviceRef": {"name": "postgres"}, "accessPolicyRef": {"name": "night"}}
    head = {"apiVersion": f"{GROUP}/v1alpha", "kind": "DRTPConnection", "metadata": {"name": "c", "namespace": "joe"}}
    await api.store.create(head | {"spec": spec})
    visitor = {"from": "203.0.113.9"}
    said = await asked(api, **visitor)
    assert (said["decision"], said["rule"]) == ("Deny", "policy/night/defaultAction"), "nobody has it: closed"
    elsewhere = {"group": GROUP, "kind": "DRTPService", "name": "other"}
    await policy(
        api,
        {"name": "near", "action": "Allow", "clientCIDRs": ["203.0.113.0/24"]},
        name="night",
        targetRefs=[elsewhere],
    )
    said = await asked(api, **visitor)
    assert (said["decision"], said["rule"]) == ("Allow", "policy/night/near")
    assert (await asked(api, **{"from": "198.51.100.1"}))["rule"] == "policy/night/defaultAction"


async def test_limits_are_told_with_who_set_them(api: Served) -> None:
    await exposed(api)
    await policy(api, {"name": "all", "action": "Allow"}, limits={"connections": 7, "bytesPerSecond": 5_000})
    await policy(api, {"name": "all", "action": "Allow"}, name="trial", mode="DryRun", limits={"connections": 1})
    hard = {"datumapis.com/streams": "1k", "count/secrets": "3"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": hard}}
    status, said = await api.call("POST", "/api/v1/namespaces/joe/resourcequotas", quota)
    assert status == 201, said
    said = await asked(api, **{"from": "203.0.113.9"})
    assert said["limits"] == [
        {"by": "policy/partners", "connections": 7, "bytesPerSecond": 5_000},
        {"by": "quota/joe/small", "together": True, "connections": 1_000},
    ]


async def test_what_is_unknown_is_said_to_be_unknown(api: Served) -> None:
    await exposed(api)
    await policy(api, {"name": "no-kp", "action": "Deny", "countries": ["KP"]}, defaultAction="Allow")
    said = await asked(api, **{"from": "203.0.113.9"})
    assert (said["decision"], said["rule"]) == ("Deny", "policy/partners/no-kp")
    assert said["trace"][-1]["rules"][0]["parts"] == {"countries": "Unknown"}


async def test_the_time_is_the_one_that_is_asked_about(api: Served) -> None:
    await exposed(api)
    office = {"timeZone": "Europe/Berlin", "weekly": [{"days": ["Mon"], "start": "08:00", "end": "18:00"}]}
    await policy(api, {"name": "office", "action": "Allow", "schedule": office})
    visitor = {"from": "203.0.113.9"}
    assert (await asked(api, at="2026-07-13T06:00:00Z", **visitor))["decision"] == "Allow"
    assert (await asked(api, at="2026-07-13T16:00:00Z", **visitor))["decision"] == "Deny"


async def test_the_way_is_that_of_a_server(api: Served) -> None:
    await exposed(api)
    await policy(api, {"name": "germany", "action": "Allow", "through": {"countries": ["DE"]}})
    location = {"latitude": "50.1", "longitude": "8.7"}
    server: dict[str, Any] = {"pop": "fra", "country": "DE", "location": location, "serverIP": "203.0.113.1"}
    server["listeners"] = [{"transport": "TLS", "port": 443}]
    head = {"apiVersion": f"{GROUP}/v1alpha", "kind": "DRTPServer", "metadata": {"name": "fra-1"}, "spec": server}
    assert (await api.call("POST", f"/apis/{GROUP}/v1alpha/drtpservers", head))[0] == 201
    visitor = {"from": "203.0.113.9"}
    assert (await asked(api, **visitor))["decision"] == "Deny"
    said = await asked(api, server="fra-1", **visitor)
    assert (said["decision"], said["server"]) == ("Allow", "fra-1")


async def test_a_dry_run_is_listed_and_does_not_decide(api: Served) -> None:
    await exposed(api)
    await policy(api, mode="DryRun")
    said = await asked(api, **{"from": "203.0.113.9"})
    assert (said["decision"], said["wouldRefuse"]) == ("Allow", ["policy/partners"])


async def test_a_dry_run_that_demands_encryption_refuses_nobody(api: Served) -> None:
    await exposed(api)
    await policy(
        api, {"name": "all", "action": "Allow", "clientCIDRs": ["0.0.0.0/0"]}, mode="DryRun", encryption="EndToEnd"
    )
    await policy(api, {"name": "all", "action": "Allow", "clientCIDRs": ["0.0.0.0/0"]}, name="open")
    before = await asked(api, **{"from": "203.0.113.9"})
    by_itself = [one for one in before["trace"] if one["list"] == "policy/partners/encryption"]
    assert [one["mode"] for one in by_itself] == ["DryRun"] and by_itself[0]["decision"] == "Deny"
    assert (before["decision"], before["rule"]) == ("Allow", "policy/open/all")


async def test_a_user_of_whom_no_organisation_is_said_may_be_of_any(api: Served) -> None:
    """Who asks is not told who is of somebody else's organisation, and neither taken for an outsider."""
    await exposed(api)
    await account(api, "bob")
    await connects(api, "User", "bob")
    await policy(api, {"name": "rival", "action": "Deny", "organizations": ["rival"]}, defaultAction="Allow")
    assert (await asked(api, **{"as": ["user:bob"]}))["decision"] == "Deny"
    assert (await asked(api, **{"as": ["user:bob", "org:acme"]}))["decision"] == "Allow"


async def test_who_may_not_read_the_policies_may_not_ask_whether_there_is_a_service_or_not(api: Served) -> None:
    await exposed(api)
    for name in ("postgres", "nothing"):
        status, said = await api.call("POST", AT, {"spec": {"service": name}}, token=EVE)
        assert status == 403 and "nothing" not in said["message"]
    status, said = await api.call("POST", AT, {"spec": {"service": "nothing"}}, token=JOE)
    assert (status, said["message"]) == (404, 'service "nothing" in project joe not found (DRTP-1001)')
    assert said["details"] == {"name": "nothing", "kind": "DRTPService", "group": GROUP}


@pytest.mark.parametrize(
    "wrong",
    [
        {"service": ""},
        {"as": "user:bob"},
        {"as": ["bob"]},
        {"as": ["user:bob", "user:alice"]},
        {"from": "example.com"},
        {"country": "Germany"},
        {"at": "tomorrow"},
        {"moon": "full"},
        {"as": ["org:acme"] * 17},
    ],
    ids=str,
)
async def test_a_question_that_cannot_be_read_is_refused(api: Served, wrong: dict[str, Any]) -> None:
    await exposed(api)
    status, said = await api.call("POST", AT, {"spec": {"service": "postgres", **wrong}}, token=JOE)
    assert (status, said["reason"]) == (422, "Invalid")


async def test_a_visitor_who_has_signed_in_needs_no_role_and_is_held_to_the_services_own_list(api: Served) -> None:
    local = {"host": "localhost", "port": 80}
    spec = {"protocol": "HTTP", "local": local, "expose": {}, "edgeAllowlist": ["203.0.113.0/24"]}
    await put(api, "DRTPService", "postgres", spec)
    await policy(api, {"name": "acme", "action": "Allow", "organizations": ["acme"]})
    anna = {"as": ["user:anna", "org:acme"], "signedIn": True}
    said = await asked(api, **anna, **{"from": "203.0.113.9"})
    assert (said["decision"], said["rule"], said["admitted"]) == ("Allow", "policy/partners/acme", "")
    said = await asked(api, **anna, **{"from": "192.0.2.1"})
    assert (said["decision"], said["rule"]) == ("Deny", "spec.edgeAllowlist/defaultAction")
    by_connect = await asked(api, **{"as": ["user:anna", "org:acme"], "from": "203.0.113.9"})
    assert (by_connect["decision"], by_connect["rule"]) == ("Deny", "roles/connect")


async def test_nobody_is_asked_about_as_signed_in_who_cannot_be(api: Served) -> None:
    await exposed(api)
    for more in ({"as": ["user:anna"]}, {"as": []}, {"as": ["app:joe/a"]}):
        status, said = await api.call(
            "POST", AT, {"spec": {"service": "postgres", "signedIn": True, **more}}, token=JOE
        )
        assert status == 422 and "spec.signedIn" in said["message"], more
    status, said = await api.call("POST", AT, {"spec": {"service": "postgres", "signedIn": "yes"}}, token=JOE)
    assert status == 422 and "true or false" in said["message"]
