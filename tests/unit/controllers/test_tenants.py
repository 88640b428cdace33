"""Two tenants who want the same: the second is told so, and nothing it is told speaks of the first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from drtp.api.core import Namespace
from drtp.api.drtp import DRTPService
from drtp.api.gatewayapi import HTTPRoute, ListenerSet
from drtp.api.internal import EdgeRole
from drtp.api.meta import Key
from drtp.api.reasons import Aspect
from drtp.api.reports import ExposureReport, ExposureState, Report
from drtp.api.snapshots import GatewayListener, HttpHost
from drtp.controllers import assembly
from drtp.projections.projector import KINDS
from drtp.rules import conditions
from drtp.rules.conditions import Conclusion
from drtp.store.protocol import NotFound, Object, Stored
from tower import DRTP, FALSE, GATEWAY_API, SUFFIX, TRUE, Tower, route, service

FIRST, SECOND = "umbra", "zephyr"
SHARED = ("Gateway.gateway.networking.k8s.io", "GatewayClass.gateway.networking.k8s.io", "DRTPServer.datumapis.com")
"""The operator's, which everybody may read."""


@asynccontextmanager
async def two_tenants() -> AsyncGenerator[Tower]:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(namespace(FIRST))
        yield tower


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def listener_set(name: str, tenant: str, *listeners: dict[str, Any]) -> Object:
    return {
        "apiVersion": GATEWAY_API,
        "kind": "ListenerSet",
        "metadata": {"name": name, "namespace": tenant},
        "spec": {"parentRef": {"name": "global", "namespace": "datum-system"}, "listeners": list(listeners)},
    }


def objects(tower: Tower, *tenants: str) -> Iterator[Stored]:
    """What lives in these namespaces ("" for what lives in none)."""
    for kind in sorted({*KINDS, *assembly.KINDS}):
        for key in tower.view.keys(kind):
            stored = tower.view.stored(key)
            if stored is not None and key.namespace in tenants:
                yield stored


async def made_anew(tower: Tower, tenant: str) -> None:
    """The namespace goes away with everything in it, as the apiserver deletes one, and another of its name comes."""
    async with asyncio.timeout(10):
        while left := list(objects(tower, tenant)):
            for stored in left:
                with suppress(NotFound):
                    await tower.store.delete(stored.key)
            await tower.settle()
    await tower.delete(Namespace, "", tenant)
    await tower.apply(namespace(tenant))


def traces(tower: Tower, of: str, to: str) -> set[str]:
    """What would give a tenant away to another: namespace, uids, and the names that the other does not use itself."""
    uids = {stored.uid for stored in objects(tower, of)} | {tower.get(Namespace, "", of).metadata.uid}
    names = {stored.key.name for stored in objects(tower, of)} - {stored.key.name for stored in objects(tower, to)}
    return {of} | uids | names


def told(tower: Tower, to: str) -> Iterator[str]:
    """Everything that the product says to a tenant: status of what it may read, its Events, and whose things are."""
    for stored in objects(tower, to, "", "datum-system"):
        if stored.key.namespace != to and stored.key.kind not in SHARED:
            continue
        if stored.key.kind == "Event":
            yield json.dumps(stored.object)
        else:
            yield json.dumps([stored.object.get("status"), stored.metadata.get("annotations")])


def assert_unseen(tower: Tower, of: str = FIRST, to: str = SECOND) -> None:
    marks = traces(tower, of, to)
    said = list(told(tower, to))
    assert said
    assert not [(mark, text) for text in said for mark in marks if mark in text]


def concluded(found: Any, kind: str) -> Conclusion:
    """A condition of an object, or of the one parent that a route has."""
    held = found.status.parents[0].conditions if hasattr(found.status, "parents") else found.status.conditions
    one = conditions.find(held, kind)
    assert one is not None, f"no condition {kind}"
    return Conclusion(Aspect(one.type), one.status, one.reason, one.message)


def rules_at(tower: Tower, hostname: str) -> list[str]:
    """The services behind a hostname at the gateway, by name."""
    host = tower.entries(EdgeRole.GATEWAY, "gw-1")[f"http/127.0.0.1/8080/{hostname}"]
    assert isinstance(host, HttpHost)
    owners = {stored.uid: f"{stored.key.namespace}/{stored.key.name}" for stored in objects(tower, FIRST, SECOND)}
    return [owners.get(backend.service, "") for rule in host.rules for backend in rule.backends]


# ---- the same wish --------------------------------------------------------------------------------------------------


async def test_two_tenants_have_a_service_of_the_same_name_each() -> None:
    async with two_tenants() as tower:
        for tenant in (FIRST, SECOND):
            await tower.apply(service("web", tenant))
        found = [tower.get(DRTPService, tenant, "web").status.addresses[0].hostname for tenant in (FIRST, SECOND)]
        assert len({*found}) == 2
        for tenant, hostname in zip((FIRST, SECOND), found, strict=True):
            assert hostname
            assert rules_at(tower, hostname) == [f"{tenant}/web"]
        assert_unseen(tower)
        assert_unseen(tower, SECOND, FIRST)


@pytest.mark.parametrize(
    ("protocol", "expose", "reason"),
    [
        ("TCP", {"port": 15432}, "PortClaimed"),
        ("TCP", {"address": "127.0.7.3"}, "AddressClaimed"),
        ("HTTP", {"hostname": "shop"}, "HostnameClaimed"),
        ("TLS", {"hostname": "shop"}, "HostnameClaimed"),
    ],
)
async def test_what_is_anothers_is_refused_with_a_code_and_no_word_of_whose_it_is(
    protocol: str, expose: dict[str, Any], reason: str
) -> None:
    async with two_tenants() as tower:
        await tower.apply(service("ledger", FIRST, protocol=protocol, expose=expose))
        before = dict(tower.entries(EdgeRole.GATEWAY, "gw-1"))
        await tower.apply(service("mine", SECOND, protocol=protocol, expose=expose))
        found = concluded(tower.get(DRTPService, SECOND, "mine"), "Accepted")
        assert (found.status.value, found.reason) == (FALSE, reason)
        assert "DRTP-6006" in found.message
        assert dict(tower.entries(EdgeRole.GATEWAY, "gw-1")) == before
        assert_unseen(tower)


async def test_a_hand_written_route_on_anothers_hostname_is_told_so() -> None:
    async with two_tenants() as tower:
        await tower.apply(service("ledger", FIRST, expose={"hostname": "shop"}))
        await tower.apply(service("mine", SECOND, expose=None))
        await tower.apply(route("HTTPRoute", "steal", SECOND, "mine", hostnames=[f"shop.{SUFFIX}"]))
        found = concluded(tower.get(HTTPRoute, SECOND, "steal"), "Accepted")
        assert (found.status.value, found.reason) == (FALSE, "HostnameClaimed")
        assert "DRTP-6006" in found.message
        assert rules_at(tower, f"shop.{SUFFIX}") == [f"{FIRST}/ledger"]
        assert_unseen(tower)


async def test_a_route_is_told_which_of_its_hostnames_it_does_not_get() -> None:
    async with two_tenants() as tower:
        await tower.apply(service("ledger", FIRST, expose={"hostname": "shop"}))
        await tower.apply(service("mine", SECOND, expose=None))
        both = [f"own.{SUFFIX}", f"shop.{SUFFIX}"]
        await tower.apply(route("HTTPRoute", "half", SECOND, "mine", hostnames=both))
        found = concluded(tower.get(HTTPRoute, SECOND, "half"), "Accepted")
        assert (found.status.value, found.reason) == (TRUE, "Accepted")
        assert f"shop.{SUFFIX}" in found.message
        assert "DRTP-6006" in found.message
        assert f"own.{SUFFIX}" not in found.message
        assert rules_at(tower, f"own.{SUFFIX}") == [f"{SECOND}/mine"]
        assert rules_at(tower, f"shop.{SUFFIX}") == [f"{FIRST}/ledger"]
        assert_unseen(tower)


async def test_a_listener_on_anothers_port_is_told_so() -> None:
    async with two_tenants() as tower:
        await tower.apply(service("ledger", FIRST, protocol="TCP", expose={"port": 15432}))
        await tower.apply(listener_set("mine", SECOND, {"name": "a", "port": 15432, "protocol": "TCP"}))
        found = tower.get(ListenerSet, SECOND, "mine").status.listeners[0]
        assert {one.type: one.reason for one in found.conditions}["Accepted"] == "PortUnavailable"
        assert_unseen(tower)


# ---- what another tenant has, and whether it has it -----------------------------------------------------------------


@pytest.mark.parametrize("exists", [True, False])
async def test_a_backend_without_a_grant_reads_the_same_whether_it_exists(exists: bool) -> None:
    async with two_tenants() as tower:
        if exists:
            await tower.apply(service("ledger", FIRST, expose=None))
        good = {"group": "datumapis.com", "kind": "DRTPService", "name": "mine"}
        rules = [{"backendRefs": [good]}, {"backendRefs": [good, good | {"name": "ledger", "namespace": FIRST}]}]
        await tower.apply(service("mine", SECOND, expose=None))
        await tower.apply(route("HTTPRoute", "app", SECOND, "mine", hostnames=[f"app.{SUFFIX}"], rules=rules))
        found = concluded(tower.get(HTTPRoute, SECOND, "app"), "ResolvedRefs")
        assert (found.status.value, found.reason) == (FALSE, "RefNotPermitted")
        assert found.message == (
            "spec.rules[1].backendRefs[1] is in another namespace, "
            "and no ReferenceGrant there lets this HTTPRoute refer to it (DRTP-6020)."
        )
        assert rules_at(tower, f"app.{SUFFIX}") == [f"{SECOND}/mine", f"{SECOND}/mine", ""]
        assert_unseen(tower)


@pytest.mark.parametrize("exists", [True, False])
async def test_a_certificate_without_a_grant_reads_the_same_whether_it_exists(exists: bool) -> None:
    async with two_tenants() as tower:
        if exists:
            head = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vault-key", "namespace": FIRST}}
            await tower.apply({**head, "type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}})
        tls = {"certificateRefs": [{"name": "vault-key", "namespace": FIRST}]}
        mine = {"name": "a", "port": 8443, "protocol": "HTTPS", "hostname": f"own.{SUFFIX}", "tls": tls}
        await tower.apply(listener_set("mine", SECOND, mine))
        listener = tower.get(ListenerSet, SECOND, "mine").status.listeners[0]
        found = conditions.find(listener.conditions, "ResolvedRefs")
        assert found is not None
        assert (found.status.value, found.reason) == (FALSE, "RefNotPermitted")
        assert found.message == (
            "tls.certificateRefs[0] of listener a is in another namespace, "
            "and no ReferenceGrant there lets this ListenerSet refer to it (DRTP-6020)."
        )
        assert_unseen(tower)


@pytest.mark.parametrize("exists", [True, False])
async def test_a_route_learns_nothing_of_anothers_listener_set(exists: bool) -> None:
    async with two_tenants() as tower:
        if exists:
            await tower.apply(service("ledger", FIRST, protocol="TCP"))
        await tower.apply(service("mine", SECOND, protocol="TCP", expose=None))
        for name in ("public", "guess"):
            parent = {"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "ledger.public"}
            refs = [parent | {"namespace": FIRST, "sectionName": name}]
            await tower.apply(route("TCPRoute", f"to-{name}", SECOND, "mine", parentRefs=refs))
        stored = {one.key.name: one for one in objects(tower, SECOND) if one.key.kind.startswith("TCPRoute.")}
        assert {name: (one.object.get("status") or {}).get("parents", []) for name, one in stored.items()} == {
            "to-public": [],
            "to-guess": [],
        }
        assert_unseen(tower)


async def test_a_listener_set_that_admits_others_shows_them_only_the_listener_that_does() -> None:
    async with two_tenants() as tower:
        listeners = [
            {"name": name, "port": port, "protocol": "TCP"} for name, port in (("open", 15001), ("own", 15002))
        ]
        everybody = {"namespaces": {"from": "All"}}
        await tower.apply(listener_set("hall", FIRST, listeners[0] | {"allowedRoutes": everybody}, listeners[1]))
        await tower.apply(service("mine", SECOND, protocol="TCP", expose=None))
        said: dict[str, Any] = {}
        for name in ("open", "own", "guess"):
            parent = {"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "hall", "namespace": FIRST}
            await tower.apply(route("TCPRoute", name, SECOND, "mine", parentRefs=[parent | {"sectionName": name}]))
            stored = tower.view.stored(Key("TCPRoute.gateway.networking.k8s.io", SECOND, name))
            assert stored is not None
            (parent,) = stored.object["status"]["parents"]
            said[name] = [(one["type"], one["status"], one["message"]) for one in parent["conditions"]]
        assert ("Accepted", TRUE, "The route is attached.") in said["open"]
        assert said["own"] == said["guess"]
        assert said["own"] != said["open"]


@pytest.mark.parametrize("exists", [True, False])
async def test_an_owner_in_another_namespace_is_no_owner(exists: bool) -> None:
    async with two_tenants() as tower:
        stored = await tower.apply(service("ledger", FIRST, expose=None))
        if not exists:
            await tower.delete(DRTPService, FIRST, "ledger")
        mine = service("mine", SECOND, expose=None)
        owner = {"apiVersion": DRTP, "kind": "DRTPService", "name": "ledger", "uid": stored.uid}
        mine["metadata"]["ownerReferences"] = [owner]
        await tower.apply(mine)
        assert tower.view.get(DRTPService, SECOND, "mine") is None


# ---- what was another's ---------------------------------------------------------------------------------------------


async def test_a_hand_written_route_gets_a_released_hostname_only_after_a_day() -> None:
    async with two_tenants() as tower:
        await tower.apply(service("ledger", FIRST, expose={"hostname": "shop"}))
        await tower.apply(service("mine", SECOND, expose=None))
        await tower.apply(route("HTTPRoute", "wait", SECOND, "mine", hostnames=[f"shop.{SUFFIX}"]))
        await tower.delete(DRTPService, FIRST, "ledger")
        await tower.advance(3600)
        found = concluded(tower.get(HTTPRoute, SECOND, "wait"), "Accepted")
        assert (found.status.value, found.reason) == (FALSE, "HostnameClaimed")
        assert_unseen(tower)
        await tower.clock.advance(24 * 3600)
        await tower.settle()
        found = concluded(tower.get(HTTPRoute, SECOND, "wait"), "Accepted")
        assert (found.status.value, found.reason) == (TRUE, "Accepted")
        assert rules_at(tower, f"shop.{SUFFIX}") == [f"{SECOND}/mine"]


@pytest.mark.parametrize(
    ("protocol", "expose"),
    [("TCP", {"port": 15432}), ("TCP", {"address": "127.0.7.3"}), ("HTTP", {"hostname": "shop"})],
)
async def test_a_namespace_made_anew_inherits_nothing_of_the_former_one(protocol: str, expose: dict[str, Any]) -> None:
    async with two_tenants() as tower:
        await tower.apply(service("ledger", FIRST, protocol=protocol, expose=expose))
        old = tower.get(Namespace, "", FIRST).metadata.uid
        await made_anew(tower, FIRST)
        await tower.apply(service("other", FIRST, protocol=protocol, expose=expose))
        found = concluded(tower.get(DRTPService, FIRST, "other"), "Accepted")
        assert found.status.value == FALSE
        assert "somebody else" in found.message
        assert not [text for text in told(tower, FIRST) if "ledger" in text or old in text]
        await tower.clock.advance(24 * 3600 + 120)
        await tower.settle()
        assert tower.condition(tower.get(DRTPService, FIRST, "other"), "Accepted") == (TRUE, "Accepted")


async def test_a_name_under_a_former_namespaces_name_is_quarantined_too() -> None:
    async with two_tenants() as tower:
        await tower.apply(service("ledger", FIRST, expose={"hostname": "shop"}))
        await made_anew(tower, FIRST)
        await tower.apply(service("other", FIRST, expose={"hostname": f"login.shop.{SUFFIX}"}))
        assert tower.condition(tower.get(DRTPService, FIRST, "other"), "Accepted") == (FALSE, "HostnameClaimed")


# ---- what is shared -------------------------------------------------------------------------------------------------


async def test_a_gateways_words_about_a_shared_port_reach_only_the_operator() -> None:
    async with two_tenants() as tower:
        await tower.apply(service("ledger", FIRST, protocol="TLS", expose={"hostname": "ledger"}))
        await tower.apply(service("mine", SECOND, protocol="TLS", expose={"hostname": "mine"}))
        words = f"filter chain ledger.{SUFFIX} of {FIRST}/ledger.public is bad"
        said: dict[str, Report] = {
            key: ExposureReport(state=ExposureState.FAILED, message=words, sources=entry.sources)
            for key, entry in tower.entries(EdgeRole.GATEWAY, "gw-1").items()
            if isinstance(entry, GatewayListener) and entry.port == 8443
        }
        await tower.say("gw-1", said, whole=True)
        await tower.advance(2)
        found = tower.get(ListenerSet, SECOND, "mine.public")
        programmed = concluded(found, "Programmed")
        assert programmed.status.value == FALSE
        assert "DRTP-6011" in programmed.message
        assert_unseen(tower)


async def test_a_gateways_words_about_ones_own_port_are_told() -> None:
    async with two_tenants() as tower:
        await tower.apply(service("mine", SECOND, protocol="TCP", expose={"port": 15432}))
        await tower.gateway_programs(failing="listener/127.0.0.1/15432")
        await tower.advance(2)
        assert "address in use" in concluded(tower.get(ListenerSet, SECOND, "mine.public"), "Programmed").message


async def test_nothing_of_one_tenant_shows_to_another_whatever_both_try() -> None:
    """Every collision above in one house, with agents, POPs and a gateway that fails one port; seen from both sides."""
    async with two_tenants() as tower:
        for name in ("nyc", "fra"):
            await tower.pop(name)
        for tenant, own in ((FIRST, "ledger"), (SECOND, "mine")):
            other = SECOND if tenant == FIRST else FIRST
            await tower.apply(service("web", tenant))
            await tower.apply(service(own, tenant, protocol="TCP", expose={"port": 15432}))
            await tower.apply(service(f"{own}-shop", tenant, expose={"hostname": "shop"}))
            await tower.apply(service(f"{own}-tls", tenant, protocol="TLS", expose={"hostname": f"{own}.{SUFFIX}"}))
            ref = {"group": "datumapis.com", "kind": "DRTPService", "name": "web", "namespace": other}
            rules = [{"backendRefs": [ref]}]
            names = [f"shop.{SUFFIX}", f"{own}-hand.{SUFFIX}"]
            await tower.apply(route("HTTPRoute", f"{own}-hand", tenant, "web", hostnames=names, rules=rules))
            squat = {"name": "a", "port": 15432, "protocol": "TCP"}
            await tower.apply(listener_set(f"{own}-squat", tenant, squat))
            await tower.agent(f"{own}-agent", tenant, "web")
        for name in ("nyc", "fra"):
            await tower.pop_serves(name)
        await tower.gateway_programs(failing="listener/127.0.0.1/15432")
        await tower.advance(10)
        await tower.delete(DRTPService, FIRST, "ledger")
        await tower.advance(60)
        assert any(stored.key.kind == "Event" for stored in objects(tower, SECOND))
        assert_unseen(tower)
        assert_unseen(tower, SECOND, FIRST)
