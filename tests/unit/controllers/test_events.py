"""Events: what is wrong is told from the beginning, once, where the object is, and nothing of anybody else."""

from __future__ import annotations

from typing import Any

import pytest

from drtp.api.core import Event
from drtp.api.drtp import DRTPService
from drtp.api.gatewayapi import HTTPRoute, ListenerSet
from drtp.api.internal import EnrolmentSecret
from drtp.api.reports import LocalState
from tower import DRTP, GATEWAY_API, INTERNAL, SUFFIX, TRUE, Tower, route, service


def told(tower: Tower, name: str, namespace: str = "joe") -> dict[str, tuple[str, str, int]]:
    """Reason -> (type, message, count) of the Warnings about one object."""
    return {
        str(one.reason): (str(one.type), str(one.message), one.count or 0)
        for one in tower.view.list(Event, namespace)
        if one.involved_object.name == name and one.type == "Warning"
    }


def policy(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": DRTP, "kind": "DRTPAccessPolicy", "metadata": {"name": "p", "namespace": "joe"}, "spec": spec}


def listener_set(*listeners: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": GATEWAY_API,
        "kind": "ListenerSet",
        "metadata": {"name": "own", "namespace": "joe"},
        "spec": {"parentRef": {"name": "global", "namespace": "datum-system"}, "listeners": list(listeners)},
    }


NOWHERE = route("HTTPRoute", "it", "joe", "web", parentRefs=[
    {"name": "global", "namespace": "datum-system", "sectionName": "none"}
])  # fmt: skip


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        (service("it", expose={"gatewayRef": {"name": "no"}}), "AcceptedNoSuchGateway", "no Gateway joe/no"),
        (service("it", edgeAllowlist=["10.0.0.1/8"]), "AcceptedUnreadableAllowlist", "spec.edgeAllowlist[0]"),
        (service("it", expose={"hostname": "www"}), "AcceptedHostnameReserved", f"www.{SUFFIX}"),
        (service("it", protocol="TCP", expose={"port": 1}), "AcceptedPortUnavailable", "10000-32767"),
        (NOWHERE, "AcceptedNoMatchingParent", "section name"),
        (route("HTTPRoute", "it", "joe", "gone", hostnames=[f"a.{SUFFIX}"]), "ResolvedRefsBackendNotFound", "joe/gone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_wrong_from_its_creation_is_told_once(body: dict[str, Any], reason: str, said: str) -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("web", expose=None))
        await tower.apply(body)
        warnings = told(tower, "it")
        assert list(warnings) == [reason]
        assert said in warnings[reason][1]
        assert warnings[reason][2] == 1


async def test_a_service_that_nobody_serves_yet_has_no_warning() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service())
        assert told(tower, "web") == {}


async def test_a_fault_that_comes_back_is_counted() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service(expose={"hostname": "www"}))
        await tower.patch(DRTPService, "joe", "web", {"spec": {"expose": {"hostname": "fine"}}})
        await tower.patch(DRTPService, "joe", "web", {"spec": {"expose": {"hostname": "www"}}})
        assert told(tower, "web")["AcceptedHostnameReserved"][2] == 2


async def test_every_parent_of_a_route_is_told_of_for_itself() -> None:
    parents = [{"name": "global", "namespace": "datum-system", "sectionName": name} for name in ("none", "http")]
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("web", expose=None))
        await tower.apply(route("HTTPRoute", "r", "joe", "web", parentRefs=parents[1:], hostnames=[f"r.{SUFFIX}"]))
        assert told(tower, "r") == {}
        await tower.patch(HTTPRoute, "joe", "r", {"spec": {"parentRefs": parents}})
        assert list(told(tower, "r")) == ["AcceptedNoMatchingParent"]


async def test_a_listener_that_does_not_stand_is_told_of_by_name() -> None:
    good = {"name": "fine", "protocol": "TCP", "port": 15432}
    bad = {"name": "odd", "protocol": "example.com/QUIC", "port": 15433}
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(listener_set(good, bad))
        warnings = told(tower, "own")
        assert list(warnings) == ["AcceptedUnsupportedProtocol"]
        assert warnings["AcceptedUnsupportedProtocol"][1].startswith(
            "Listener odd: example.com/QUIC listeners are not served"
        )


async def test_objects_that_get_their_claims_are_not_blamed_before() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("web", expose=None))
        await tower.apply(route("HTTPRoute", "r", "joe", "web", hostnames=[f"r.{SUFFIX}"]))
        await tower.apply(listener_set({"name": "db", "protocol": "TCP", "port": 15432}))
        assert tower.get(HTTPRoute, "joe", "r").status.parents
        assert tower.get(ListenerSet, "joe", "own").status.conditions
        assert (told(tower, "r"), told(tower, "own")) == ({}, {})


async def test_who_is_refused_another_tenants_name_learns_nothing_of_it_from_events() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("secretive", "ann", expose={"hostname": "shop"}))
        await tower.apply(service("web", "joe", expose={"hostname": "shop"}))
        await tower.apply(route("HTTPRoute", "r", "joe", "web", hostnames=[f"shop.{SUFFIX}"]))
        assert told(tower, "web")
        assert told(tower, "r")
        messages = " ".join(str(one.message) for one in tower.view.list(Event, "joe"))
        assert "ann" not in messages
        assert "secretive" not in messages
        assert not [one for one in tower.view.list(Event, "ann") if one.type == "Warning"]


async def test_events_of_a_server_are_in_the_systems_namespace() -> None:
    async with Tower().running() as tower:
        uid = await tower.pop("nyc")
        await tower.hang_up(uid)
        await tower.advance(30)
        assert "ReadyLeaseExpired" in told(tower, "nyc", "datum-system")


async def test_a_replayed_secret_is_a_warning() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        uid = (await tower.apply(service())).uid
        spec = {
            "digest": "d",
            "role": "agent",
            "bound": {"kind": "DRTPService.datumapis.com", "namespace": "joe", "name": "web", "uid": uid},
            "expiresAt": "2030-01-01T00:00:00Z",
        }
        head = {"apiVersion": INTERNAL, "kind": "EnrolmentSecret", "metadata": {"name": "abcdefgh1234"}}
        await tower.apply({**head, "spec": spec})
        await tower.patch(EnrolmentSecret, "", "abcdefgh1234", {"spec": {"replays": 1}})
        assert list(told(tower, "web")) == ["SecretReplayed"]


async def test_a_service_that_comes_up_as_it_should_has_no_warning_at_all() -> None:
    async with Tower().running() as tower:
        await tower.pop("nyc")
        await tower.pop("ewr")
        await tower.gateway()
        await tower.apply(service())
        await tower.agent("a1", "joe", "web")
        await tower.pop_serves("nyc")
        await tower.pop_serves("ewr")
        await tower.agent_says("a1", LocalState.REACHABLE)
        await tower.gateway_programs()
        assert tower.condition(tower.get(DRTPService, "joe", "web"), "Ready") == (TRUE, "Ready")
        assert [one.reason for one in tower.view.list(Event, "joe") if one.type == "Warning"] == []
