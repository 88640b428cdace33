"""What may be stored: pruned, defaulted, and every fault said at once, in Kubernetes' words."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtp.api import quotas
from drtp.api.admission import admit
from drtp.api.faults import Rejected
from drtp.api.registry import REGISTRY

SERVICE = REGISTRY["DRTPService.datumapis.com"]
POLICY = REGISTRY["DRTPAccessPolicy.datumapis.com"]
CONNECTION = REGISTRY["DRTPConnection.datumapis.com"]
HTTP_ROUTE = REGISTRY["HTTPRoute.gateway.networking.k8s.io"]
SECRET = REGISTRY["Secret"]


def service(**spec: Any) -> dict[str, Any]:
    whole = {"protocol": "TCP", "local": {"host": "db.corp", "port": 5432}} | spec
    return {
        "apiVersion": "datumapis.com/v1alpha",
        "kind": "DRTPService",
        "metadata": {"name": "db", "namespace": "joe"},
        "spec": {name: value for name, value in whole.items() if value != "absent"},
    }


def connection(*servers: tuple[str, str]) -> dict[str, Any]:
    assigned = [{"role": role, "serverRef": {"name": name}} for role, name in servers]
    return {
        "apiVersion": "datumapis.com/v1alpha",
        "kind": "DRTPConnection",
        "metadata": {"generateName": "db-", "namespace": "joe"},
        "spec": {"serviceRef": {"name": "db"}, "servers": assigned},
    }


def faults(info: Any, obj: dict[str, Any], old: dict[str, Any] | None = None) -> tuple[str, ...]:
    with pytest.raises(Rejected) as caught:
        admit(info, obj, old)
    return caught.value.faults


def test_defaults_are_filled_in() -> None:
    spec = admit(SERVICE, service())["spec"]
    assert (spec["enabled"], spec["serverCount"], spec["proxyProtocol"]) == (True, 2, "None")
    assert spec["local"]["appProtocol"] == "http1"


def test_unknown_members_are_pruned() -> None:
    obj = service(surprise=1)
    obj["metadata"]["selfLink"] = "x"
    admitted = admit(SERVICE, obj)
    assert "surprise" not in admitted["spec"]
    assert "selfLink" not in admitted["metadata"]


def test_the_given_object_is_left_alone() -> None:
    obj = service(surprise=1)
    before = copy.deepcopy(obj)
    admit(SERVICE, obj)
    assert obj == before


def test_every_fault_is_said_at_once() -> None:
    found = faults(SERVICE, service(protocol="XMPP", local={"port": 70000}, serverCount=True))
    assert found == (
        'spec.protocol: Unsupported value: "XMPP": supported values: "HTTP", "HTTPS", "TCP", "TLS", "UDP"',
        "spec.local.host: Required value",
        "spec.local.port: Invalid value: 70000: spec.local.port in body should be less than or equal to 65535",
        'spec.serverCount: Invalid value: "boolean": spec.serverCount in body must be of type integer: "boolean"',
    )


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "::/0"])
def test_cidrs_are_taken(cidr: str) -> None:
    admit(SERVICE, service(edgeAllowlist=[cidr]))


@pytest.mark.parametrize(
    ("cidr", "meant"), [("10.0.0.1/8", "10.0.0.0/8"), ("2001:DB8::1/32", "2001:db8::/32"), ("0.0.0.1/0", "0.0.0.0/0")]
)
def test_host_bits_are_refused_with_the_network_that_was_probably_meant(cidr: str, meant: str) -> None:
    said = f'spec.edgeAllowlist[0]: Invalid value: "{cidr}": has host bits set: the network would be {meant}'
    assert faults(SERVICE, service(edgeAllowlist=[cidr])) == (said,)
    rule = {"name": "r", "action": "Allow", "clientCIDRs": [cidr]}
    policy = service() | {"kind": "DRTPAccessPolicy", "spec": {"rules": [rule]}}
    assert meant in faults(POLICY, policy)[0]


def test_a_fault_that_was_stored_before_its_rule_locks_nobody_out() -> None:
    old = service(edgeAllowlist=["10.0.0.1/8"], enabled=True)
    assert admit(SERVICE, service(edgeAllowlist=["10.0.0.1/8"], enabled=False), old)["spec"]["enabled"] is False
    changed = service(edgeAllowlist=["10.0.0.1/8", "192.0.2.0/24"])
    assert "10.0.0.0/8" in faults(SERVICE, changed, old)[0]
    assert "immutable" in faults(SERVICE, service(edgeAllowlist=["10.0.0.1/8"], protocol="TLS"), old)[0]


@pytest.mark.parametrize("cidr", ["10.0.0.1", "10.0.0.0/33", "::/129", "a/8", "10.0.0.0/08", "::ffff:1.2.3.4/96", ""])
def test_what_is_no_cidr_is_refused(cidr: str) -> None:
    assert "must be a CIDR" in faults(SERVICE, service(edgeAllowlist=[cidr]))[0]


def test_a_null_allowlist_is_refused_rather_than_read_as_absent() -> None:
    assert "must be of type array" in faults(SERVICE, service(edgeAllowlist=None))[0]


def test_protocol_is_immutable() -> None:
    old = admit(SERVICE, service())
    assert "protocol is immutable" in faults(SERVICE, service(protocol="HTTP"), old)[0]
    admit(SERVICE, service(displayName="Other"), old)


def test_exposed_udp_needs_a_list() -> None:
    assert "needs an edgeAllowlist" in faults(SERVICE, service(protocol="UDP", expose={}))[0]
    admit(SERVICE, service(protocol="UDP"))
    admit(SERVICE, service(protocol="UDP", expose={}, edgeAllowlist=["0.0.0.0/0"]))


def test_exactly_one_server_is_primary() -> None:
    admit(CONNECTION, connection(("Primary", "a"), ("Secondary", "b")))
    admit(CONNECTION, connection())
    assert "exactly one server must be Primary" in faults(CONNECTION, connection(("Secondary", "b")))[0]
    assert (
        'Duplicate value: {"role": "Primary"}' in faults(CONNECTION, connection(("Primary", "a"), ("Primary", "b")))[0]
    )


def test_each_server_is_assigned_once() -> None:
    assert "assigned once" in faults(CONNECTION, connection(("Primary", "a"), ("Secondary", "a")))[0]


@pytest.mark.parametrize("name", ["worker-001-nyc-ac/instance-xyz", "Worker", "a_b", "-a", "a" * 254])
def test_server_names_of_the_first_design_are_refused(name: str) -> None:
    assert faults(CONNECTION, connection(("Primary", name)))


def test_service_reference_is_immutable() -> None:
    old = admit(CONNECTION, connection())
    new = connection()
    new["spec"]["serviceRef"]["name"] = "other"
    assert "serviceRef is immutable" in faults(CONNECTION, new, old)[0]


def test_stored_status_is_not_judged_again() -> None:
    old = admit(SERVICE, service()) | {"status": {"conditions": "of an older shape"}}
    admit(SERVICE, service(displayName="x") | {"status": old["status"]}, old)


def route(**rule: Any) -> dict[str, Any]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "joe"},
        "spec": {"parentRefs": [{"name": "global", "namespace": "datum-system"}], "rules": [rule]},
    }


def test_upstream_kinds_are_defaulted_and_judged_by_their_own_rules() -> None:
    admitted = admit(HTTP_ROUTE, route(backendRefs=[{"group": "datumapis.com", "kind": "DRTPService", "name": "x"}]))
    assert admitted["spec"]["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    found = faults(HTTP_ROUTE, route(matches=[{"path": {"type": "PathPrefix", "value": "a//b"}}]))
    assert any("must not contain '//'" in fault for fault in found)
    assert any("must be an absolute path" in fault for fault in found)


def test_upstream_rules_on_members_named_by_reserved_words_hold() -> None:
    obj = route()
    obj["spec"]["parentRefs"] *= 2
    assert "sectionName must be unique" in faults(HTTP_ROUTE, obj)[0]


def secret(**members: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "joe"}} | members


def test_secret_texts_become_data() -> None:
    admitted = admit(SECRET, secret(stringData={"a": "b"}))
    assert admitted["data"] == {"a": "Yg=="}
    assert "stringData" not in admitted
    assert admitted["type"] == "Opaque"


def test_a_secret_in_the_wrong_encoding_is_not_quoted_in_the_refusal() -> None:
    assert not any("hunter2!" in fault for fault in faults(SECRET, secret(data={"a": "hunter2!"})))


def test_kubernetes_own_kinds_keep_what_the_models_do_not_name() -> None:
    service_kind = REGISTRY["Service"]
    obj = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a", "namespace": "joe", "creationTimestamp": None},
        "spec": {"ports": [{"port": 80}], "internalTrafficPolicy": "Local", "selector": None},
    }
    assert admit(service_kind, obj)["spec"] == {"ports": [{"port": 80}], "internalTrafficPolicy": "Local"}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"name": "A"},
        {"name": "a/b"},
        {"name": 5},
        {"name": "a", "labels": {"a": "b c"}},
        {"name": "a", "labels": {"-": "b"}},
        {"name": "a", "labels": {"a": 1}},
        {"name": "a", "annotations": {"a": "x" * 300_000}},
        {"name": "a", "finalizers": ["a b"]},
        {"name": "a", "ownerReferences": [{}]},
    ],
)
def test_bad_metadata_is_refused(metadata: dict[str, Any]) -> None:
    assert faults(SERVICE, service() | {"metadata": metadata})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.sampled_from([SERVICE, CONNECTION, HTTP_ROUTE, SECRET]))
def test_any_json_is_either_taken_or_rejected(spec: Any, info: Any) -> None:
    obj = {"apiVersion": info.api_version, "kind": info.kind, "metadata": {"name": "a"}, "spec": spec, "data": spec}
    try:
        admitted = admit(info, obj)
    except Rejected:
        return
    assert admit(info, admitted, admitted) == admitted


@pytest.mark.parametrize(("rate", "taken"), [(999, False), (1_000, True), (10**12, True), (10**12 + 1, False)])
def test_a_rate_in_bytes_is_a_kilobyte_to_a_terabyte_in_policies_and_quotas(rate: int, taken: bool) -> None:
    target = {"group": "datumapis.com", "kind": "DRTPService", "name": "web"}
    policy = {
        "apiVersion": "datumapis.com/v1alpha",
        "kind": "DRTPAccessPolicy",
        "metadata": {"name": "slow", "namespace": "joe"},
        "spec": {"targetRefs": [target], "limits": {"bytesPerSecond": rate}},
    }
    if taken:
        assert admit(POLICY, policy)["spec"]["limits"] == {"bytesPerSecond": rate}
    else:
        assert "spec.limits.bytesPerSecond" in str(faults(POLICY, policy)[0])
    quota = {"spec": {"hard": {"datumapis.com/bytes-per-second": str(rate)}}}
    assert (list(quotas.validate(quota)) == []) is taken
