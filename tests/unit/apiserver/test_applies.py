"""Server-side apply: what one says is set, what one no longer says goes, what others say stays."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtp.api.registry import REGISTRY
from drtp.apiserver.applies import Applier, applied
from drtp.apiserver.failures import Failure
from unit.apiserver.serving import JOE, Served
from unit.apiserver.test_objects import SERVICES, service

GATEWAY = REGISTRY["Gateway.gateway.networking.k8s.io"].schema
KIND = "application/apply-patch+yaml"


def applier(manager: str = "a", *, force: bool = False) -> Applier:
    return Applier(manager, force, "", "v1", datetime(2030, 1, 1, tzinfo=UTC))


def gateway(*listeners: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "g"}, "spec": {"listeners": list(listeners)} | spec}


def spec(live: dict[str, Any]) -> dict[str, Any]:
    return live["spec"]


def test_items_of_keyed_lists_belong_to_who_said_them() -> None:
    live = applied({}, gateway({"name": "http", "port": 80}), GATEWAY, applier("a"))
    live = applied(live, gateway({"name": "tls", "port": 443}), GATEWAY, applier("b"))
    assert spec(live)["listeners"] == [{"name": "http", "port": 80}, {"name": "tls", "port": 443}]
    live = applied(live, gateway(gatewayClassName="c"), GATEWAY, applier("a"))
    assert spec(live) == {"listeners": [{"name": "tls", "port": 443}], "gatewayClassName": "c"}


def test_a_parent_left_empty_goes_with_its_last_member() -> None:
    live = applied({}, {"spec": {"expose": {"port": 1}, "protocol": "TCP"}}, {}, applier())
    assert spec(applied(live, {"spec": {"protocol": "TCP"}}, {}, applier())) == {"protocol": "TCP"}


def test_members_nobody_applied_stay() -> None:
    live = {"metadata": {"name": "x"}, "spec": {"a": 1, "b": 2}, "status": {"c": 3}}
    after = applied(live, {"spec": {"a": 5}}, {}, applier())
    assert (after["spec"], after["status"]) == ({"a": 5, "b": 2}, {"c": 3})


def test_another_value_for_anothers_field_is_a_conflict() -> None:
    live = applied({}, {"spec": {"a": 1, "b": 1}}, {}, applier("one"))
    with pytest.raises(Failure, match=r'conflict with "one": \.spec\.a') as caught:
        applied(live, {"spec": {"a": 2, "b": 1}}, {}, applier("two"))
    assert caught.value.http == 409
    forced = applied(live, {"spec": {"a": 2}}, {}, applier("two", force=True))
    assert spec(forced) == {"a": 2, "b": 1}
    # The first one no longer owns it, and so does not take it away.
    assert spec(applied(forced, {"spec": {"b": 1}}, {}, applier("one"))) == {"a": 2, "b": 1}


def test_shared_fields_go_when_the_last_owner_lets_go() -> None:
    live = applied({}, {"spec": {"a": 1}}, {}, applier("one"))
    live = applied(live, {"spec": {"a": 1}}, {}, applier("two"))
    live = applied(live, {"spec": {}}, {}, applier("one"))
    assert spec(live) == {"a": 1}
    assert "a" not in spec(applied(live, {"spec": {}}, {}, applier("two")))


VALUES = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=1),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
OBJECTS = st.builds(lambda value: {"spec": value}, st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=3))


@given(OBJECTS)
def test_applying_again_changes_nothing(said: dict[str, Any]) -> None:
    once = applied({}, said, {}, applier())
    assert applied(once, said, {}, applier()) == once


@given(OBJECTS, OBJECTS)
def test_a_sole_applier_gets_what_it_said_last(first: dict[str, Any], last: dict[str, Any]) -> None:
    live = applied(applied({}, first, {}, applier()), last, {}, applier())
    assert live["spec"] == last["spec"] or not last["spec"]


async def test_apply_creates_then_leaves_the_revision(api: Served) -> None:
    path = f"{SERVICES}/db?fieldManager=t"
    status, made = await api.call("PATCH", path, service(), token=JOE, Content_Type=KIND)
    assert status == 201
    status, same = await api.call("PATCH", path, service(), token=JOE, Content_Type=KIND)
    assert (status, same) == (200, made)


async def test_apply_takes_yaml_without_aliases(api: Served) -> None:
    path = f"{SERVICES}/db?fieldManager=t"
    text = (
        b"apiVersion: datumapis.com/v1alpha\nkind: DRTPService\nmetadata: {name: db}\n"
        b"spec: {protocol: TCP, local: {host: a, port: 1}, displayName: 2030-01-01}\n"
    )
    status, made = await api.call("PATCH", path, text, Content_Type=KIND)
    assert (status, made["spec"]["displayName"]) == (201, "2030-01-01")
    for bad in (b"a: &x [1]\nb: *x\n", b"[" * 5000, b"a: !!python/object:os.system {}\n", b"? [a]\n: 1\n", b"- a\n"):
        assert (await api.call("PATCH", path, bad, Content_Type=KIND))[0] == 400


async def test_apply_of_status_owns_status_alone(api: Served) -> None:
    _, made = await api.call("POST", SERVICES, service())
    said = service(displayName="x") | {"status": {"connections": 2}}
    path = f"{SERVICES}/db/status?fieldManager=t"
    status, now = await api.call("PATCH", path, said, Content_Type=KIND)
    assert (status, now["status"], now["spec"]) == (200, {"connections": 2}, made["spec"])


async def test_ownership_is_written_by_applies_only(api: Served) -> None:
    obj = service()
    obj["metadata"]["managedFields"] = [{"manager": "x", "fieldsV1": 5}]
    _, made = await api.call("POST", SERVICES, obj)
    assert "managedFields" not in made["metadata"]
    await api.call("PATCH", f"{SERVICES}/db?fieldManager=t", service(), Content_Type=KIND)
    patch = {"metadata": {"managedFields": None}}
    _, now = await api.call("PATCH", f"{SERVICES}/db", patch, Content_Type="application/merge-patch+json")
    assert now["metadata"]["managedFields"][0]["manager"] == "t"


async def test_apply_needs_a_manager(api: Served) -> None:
    assert (await api.call("PATCH", f"{SERVICES}/db", service(), Content_Type=KIND))[0] == 400
