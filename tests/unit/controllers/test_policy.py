"""Access policies: they narrow, they deny when unreadable, and say Enforced only when every point has said so."""

from __future__ import annotations

from typing import Any

import pytest

from drtp.api.admission import admit
from drtp.api.drtp import DRTPAccessPolicy, DRTPConnection, DRTPService
from drtp.api.gatewayapi import BackendTLSPolicy, HTTPRoute
from drtp.api.internal import EdgeRole
from drtp.api.meta import Key
from drtp.api.registry import REGISTRY
from drtp.api.reports import LocalState
from drtp.api.snapshots import Access, HttpHost, PopPlace, RouteEntry
from drtp.rules import asking
from drtp.rules.access import permits
from drtp.store.view import kind_key
from tower import DRTP, FALSE, GATEWAY_API, Tower, service


def policy(name: str = "office", **spec: Any) -> dict[str, Any]:
    target = {"group": "datumapis.com", "kind": "DRTPService", "name": "web"}
    rule = {"name": "office", "action": "Allow", "clientCIDRs": ["203.0.113.0/24"]}
    return {
        "apiVersion": DRTP,
        "kind": "DRTPAccessPolicy",
        "metadata": {"name": name, "namespace": "joe"},
        "spec": {"targetRefs": [target], "rules": [rule], **spec},
    }


async def serving(tower: Tower) -> None:
    await tower.pop("nyc")
    await tower.gateway()
    await tower.apply(service())
    await tower.agent("a1", "joe", "web")
    await tower.pop_serves("nyc")
    await tower.agent_says("a1", LocalState.REACHABLE)
    await tower.gateway_programs()


async def everywhere(tower: Tower) -> None:
    """Every point has in force what it was told."""
    await tower.pop_serves("nyc")
    await tower.gateway_programs()
    await tower.agent_says("a1", LocalState.REACHABLE)


def at_tunnel(tower: Tower) -> Access:
    entries = tower.entries(EdgeRole.POP, tower.servers["nyc"]).values()
    return next(one.access for one in entries if isinstance(one, RouteEntry))


def at_gateway(tower: Tower) -> Access:
    entries = tower.entries(EdgeRole.GATEWAY, "gw-1").values()
    return next(one.rules[0].access for one in entries if isinstance(one, HttpHost))


def enforced(tower: Tower) -> tuple[str, str, int]:
    (ancestor,) = tower.get(DRTPAccessPolicy, "joe", "office").status.ancestors
    one = next(one for one in ancestor.conditions if one.type == "Enforced")
    return one.status.value, one.reason, one.observed_generation


async def test_a_policy_narrows_at_both_points() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        assert permits(at_tunnel(tower), "198.51.100.1")
        await tower.apply(policy())
        for access in (at_tunnel(tower), at_gateway(tower)):
            assert permits(access, "203.0.113.9")
            assert not permits(access, "198.51.100.1")


async def test_enforced_only_when_every_point_has_reported_this_generation() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.apply(policy())
        assert enforced(tower)[:2] == ("Unknown", "Pending")
        await tower.pop_serves("nyc")
        assert enforced(tower)[:2] == ("Unknown", "Pending")
        await tower.gateway_programs()
        assert enforced(tower)[:2] == ("Unknown", "Pending"), "the agent holds callers to it"
        await tower.agent_says("a1", LocalState.REACHABLE)
        assert enforced(tower) == ("True", "Enforced", 1)


async def test_a_tunnel_policy_leaves_the_gateway_as_it_was() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.apply(policy(enforcementPoints=["Tunnel"]))
        assert not permits(at_tunnel(tower), "198.51.100.1")
        assert permits(at_gateway(tower), "198.51.100.1")


async def test_an_unreadable_cidr_denies_everybody_and_says_where() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        rule = {"name": "typo", "action": "Deny", "clientCIDRs": ["203.0.113.0/33"]}
        await tower.apply(policy(rules=[rule], defaultAction="Allow"))
        assert not permits(at_tunnel(tower), "198.51.100.1")
        (ancestor,) = tower.get(DRTPAccessPolicy, "joe", "office").status.ancestors
        said = next(one for one in ancestor.conditions if one.type == "Accepted")
        assert (said.status.value, said.reason) == (FALSE, "Invalid")
        assert "spec.rules[0].clientCIDRs[0]" in said.message


async def test_stored_host_bits_deny_everybody_and_the_network_that_was_meant_is_named() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        rule = {"name": "typo", "action": "Allow", "clientCIDRs": ["10.0.0.1/8"]}
        await tower.apply(policy(rules=[rule]))
        assert not permits(at_tunnel(tower), "10.0.0.1")
        (ancestor,) = tower.get(DRTPAccessPolicy, "joe", "office").status.ancestors
        said = next(one for one in ancestor.conditions if one.type == "Accepted")
        assert (said.status.value, said.reason) == (FALSE, "Invalid")
        assert "'10.0.0.1/8', where the network would be 10.0.0.0/8" in said.message


async def test_an_unreadable_policy_closes_its_namespace_until_it_is_gone() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.apply(policy(defaultAction="Perhaps"))
        assert not permits(at_tunnel(tower), "203.0.113.9")
        assert not permits(at_gateway(tower), "203.0.113.9")
        await tower.delete(DRTPAccessPolicy, "joe", "office")
        assert permits(at_tunnel(tower), "203.0.113.9")


async def test_a_policy_for_nobody_says_so() -> None:
    async with Tower().running() as tower:
        target = {"group": "datumapis.com", "kind": "DRTPService", "name": "nobody"}
        await tower.apply(policy(targetRefs=[target]))
        (ancestor,) = tower.get(DRTPAccessPolicy, "joe", "office").status.ancestors
        assert {one.reason for one in ancestor.conditions} == {"TargetNotFound"}


async def test_an_allowlist_change_reaches_both_points_in_one_turn() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.patch(DRTPService, "joe", "web", {"spec": {"edgeAllowlist": []}})
        assert not permits(at_tunnel(tower), "203.0.113.9")
        assert not permits(at_gateway(tower), "203.0.113.9")


async def test_a_changed_policy_is_not_enforced_before_every_point_has_the_change() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.apply(policy())
        await everywhere(tower)
        assert enforced(tower) == ("True", "Enforced", 1)
        await tower.patch(DRTPAccessPolicy, "joe", "office", {"spec": {"rules": []}})
        assert enforced(tower) == ("False", "Pending", 2)
        await tower.pop_serves("nyc")
        assert enforced(tower) == ("False", "Pending", 2)
        await tower.gateway_programs()
        assert enforced(tower) == ("False", "Pending", 2)
        await tower.agent_says("a1", LocalState.REACHABLE)
        assert enforced(tower) == ("True", "Enforced", 2)


async def test_a_point_that_went_away_is_waited_for_no_more() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.apply(policy())
        await tower.gateway_programs()
        assert enforced(tower)[:2] == ("Unknown", "Pending")
        await tower.hang_up(tower.servers["nyc"])
        assert enforced(tower)[:2] == ("Unknown", "Pending")
        await tower.hang_up("a1")
        assert enforced(tower)[:2] == ("True", "Enforced")


async def test_a_policy_on_what_is_no_target_says_that_it_is_not_enforced() -> None:
    async with Tower().running() as tower:
        for kind in ("GatewayClass", "GRPCRoute"):
            target = {"group": "gateway.networking.k8s.io", "kind": kind, "name": "web"}
            await tower.apply(policy(f"on-{kind.lower()}", targetRefs=[target]))
            (ancestor,) = tower.get(DRTPAccessPolicy, "joe", f"on-{kind.lower()}").status.ancestors
            said = {one.type: (one.status.value, one.reason) for one in ancestor.conditions}
            assert said == dict.fromkeys(("Accepted", "Enforced"), (FALSE, "TargetNotSupported"))


async def test_a_policy_on_a_route_narrows_at_gateways_alone() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        (route,) = tower.view.list(HTTPRoute, "joe")
        target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": route.metadata.name}
        await tower.apply(policy(targetRefs=[target]))
        assert permits(at_tunnel(tower), "198.51.100.1")
        assert not permits(at_gateway(tower), "198.51.100.1")
        assert permits(at_gateway(tower), "203.0.113.9")
        assert enforced(tower)[:2] == ("Unknown", "Pending")
        await tower.gateway_programs()
        assert enforced(tower) == ("True", "Enforced", 1)


async def test_a_policy_on_a_gateway_narrows_everything_there() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "global"}
        theirs = policy(targetRefs=[target])
        await tower.apply(theirs)  # in joe's namespace there is no such Gateway
        assert permits(at_gateway(tower), "198.51.100.1")
        (ancestor,) = tower.get(DRTPAccessPolicy, "joe", "office").status.ancestors
        assert {one.reason for one in ancestor.conditions} == {"TargetNotFound"}
        theirs["metadata"] = {"name": "office", "namespace": "datum-system"}
        await tower.apply(theirs)
        assert not permits(at_gateway(tower), "198.51.100.1")
        await tower.gateway_programs()
        (ancestor,) = tower.get(DRTPAccessPolicy, "datum-system", "office").status.ancestors
        assert {one.reason for one in ancestor.conditions} == {"Accepted", "Enforced"}


@pytest.mark.parametrize("kind", ["DRTPService", "HTTPRoute", "Gateway"])
async def test_who_can_be_read_at_a_gateway_is_refused_there_where_a_policy_demands_it(kind: str) -> None:
    async with Tower().running() as tower:
        await serving(tower)
        (route,) = tower.view.list(HTTPRoute, "joe")
        name = {"DRTPService": "web", "HTTPRoute": route.metadata.name, "Gateway": "global"}[kind]
        group = "datumapis.com" if kind == "DRTPService" else "gateway.networking.k8s.io"
        theirs = policy(
            targetRefs=[{"group": group, "kind": kind, "name": name}],
            rules=[],
            defaultAction="Allow",
            encryption="EndToEnd",
        )
        where = "datum-system" if kind == "Gateway" else "joe"
        theirs["metadata"] = {"name": "office", "namespace": where}
        assert permits(at_gateway(tower), "203.0.113.9")
        await tower.apply(theirs)
        assert not permits(at_gateway(tower), "203.0.113.9")
        assert permits(at_tunnel(tower), "203.0.113.9") is (kind != "DRTPService")
        (ancestor,) = tower.get(DRTPAccessPolicy, where, "office").status.ancestors
        said = next(one for one in ancestor.conditions if one.type == "Accepted")
        assert said.status.value == "True"
        assert ("gateways could read their bytes" in said.message) is (kind != "Gateway")


async def test_what_gateways_cannot_know_denies_where_they_alone_hold_the_policy() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        rule = {"name": "germany", "action": "Allow", "countries": ["DE"]}
        await tower.apply(policy(rules=[rule], enforcementPoints=["Gateway"]))
        assert not permits(at_gateway(tower), "203.0.113.9")
        (ancestor,) = tower.get(DRTPAccessPolicy, "joe", "office").status.ancestors
        said = next(one for one in ancestor.conditions if one.type == "Accepted")
        assert said.reason == "Invalid" and "spec.rules[0].countries" in said.message and "DRTP-6031" in said.message


async def test_a_dry_run_refuses_nobody_and_says_so() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.apply(policy(mode="DryRun", rules=[], limits={"connections": 1}))
        for access in (at_tunnel(tower), at_gateway(tower)):
            assert permits(asking.by_address(access, 0), "198.51.100.1")
        assert asking.decide(at_tunnel(tower), asking.Asking("198.51.100.1")) == (True, True)
        assert route_entry(tower).limits.streams_max == 0
        assert enforced(tower)[:2] == (FALSE, "DryRun")


async def test_the_lowest_cap_of_all_policies_is_the_connections() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.apply(policy("one", limits={"connections": 5, "connectionsPerSecond": 9, "bytesPerSecond": 10**12}))
        await tower.apply(policy("two", limits={"connections": 3, "bytesPerSecond": 1_000_000}))
        limits = route_entry(tower).limits
        assert (limits.streams_max, limits.new_streams_per_s, limits.bytes_per_s) == (3, 9, 1_000_000)


async def test_a_pop_of_before_that_limits_no_bytes_keeps_the_policy_from_being_enforced() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.apply(policy(limits={"bytesPerSecond": 1_000_000}))
        await everywhere(tower)
        assert enforced(tower)[:2] == ("True", "Enforced")
        await tower.pop_serves("nyc", byte_rates=False)
        (ancestor,) = tower.get(DRTPAccessPolicy, "joe", "office").status.ancestors
        said = next(one for one in ancestor.conditions if one.type == "Enforced")
        assert (said.status.value, said.reason) == (FALSE, "UnsupportedValue")
        assert "passed over by the program of nyc" in said.message


async def test_bytes_go_through_the_countries_that_policies_name_and_no_others() -> None:
    async with Tower().running() as tower:
        for name, country in (("nyc", "US"), ("fra", "DE"), ("ber", "DE")):
            await tower.pop(name, country=country)
        await tower.gateway()
        await tower.apply(service())
        rule = {"name": "germany", "action": "Allow", "through": {"countries": ["DE"]}}
        await tower.apply(policy(rules=[rule]))
        await tower.agent("a1", "joe", "web")
        assert servers_of(tower) == {"fra", "ber"}
        told = {name for name in ("nyc", "fra", "ber") if routes_at(tower, name)}
        assert told == {"fra", "ber"}
        assert all(one.place == PopPlace(pop=name, country="DE") for name in told for one in routes_at(tower, name))
        french = {"name": "france", "action": "Allow", "through": {"countries": ["FR"]}}
        await tower.patch(DRTPAccessPolicy, "joe", "office", {"spec": {"rules": [french]}})
        assert servers_of(tower) == set()
        assert not any(routes_at(tower, name) for name in ("nyc", "fra", "ber"))
        (connection,) = tower.view.list(DRTPConnection, "joe")
        assert tower.condition(connection, "Scheduled") == (FALSE, "NoServerAllowed")
        (owned,) = tower.view.list(DRTPService, "joe")
        for told in ("Connected", "Ready"):  # who looks at the service is told why, too
            assert tower.condition(owned, told) == (FALSE, "NoServerAllowed")


def servers_of(tower: Tower) -> set[str]:
    (connection,) = tower.view.list(DRTPConnection, "joe")
    return {one.server_ref.name for one in connection.spec.servers}


def routes_at(tower: Tower, pop: str) -> list[RouteEntry]:
    entries = tower.entries(EdgeRole.POP, tower.servers[pop]).values()
    return [one for one in entries if isinstance(one, RouteEntry)]


def route_entry(tower: Tower) -> RouteEntry:
    (entry,) = routes_at(tower, "nyc")
    return entry


async def test_a_backend_tls_policy_on_a_service_is_told_that_nothing_carries_it_out() -> None:
    def body(policy: str, **target: str) -> dict[str, Any]:
        spec = {"targetRefs": [target], "validation": {"hostname": "a.example", "wellKnownCACertificates": "System"}}
        head = {"apiVersion": GATEWAY_API, "kind": "BackendTLSPolicy"}
        return {**head, "metadata": {"name": policy, "namespace": "joe"}, "spec": spec}

    async with Tower().running() as tower:
        await tower.apply(body("ours", group="datumapis.com", kind="DRTPService", name="web"))
        await tower.apply(body("others", group="", kind="Service", name="web"))
        (ancestor,) = tower.get(BackendTLSPolicy, "joe", "ours").status.ancestors
        (said,) = ancestor.conditions
        assert (said.type, said.status.value, said.reason) == ("Accepted", FALSE, "TargetNotSupported")
        assert ancestor.ancestor_ref.name == "web"
        assert tower.get(BackendTLSPolicy, "joe", "others").status.ancestors == ()
        stored = tower.view.stored(Key(kind_key(BackendTLSPolicy), "joe", "ours"))
        assert stored is not None
        info = REGISTRY[kind_key(BackendTLSPolicy)]
        admit(info, stored.object, stored.object | {"status": {}})
