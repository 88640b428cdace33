"""What gateways and POPs are told of visitors who sign in: where, who is of which organisation, and who is shut out."""

from __future__ import annotations

from typing import Any

from drtp.api.internal import EdgeRole
from drtp.api.snapshots import DenyEntry, Entry, Membership, RouteEntry, SignInEntry
from drtp.rules.hostnames import known_as
from drtp.store.observed import EdgeRef
from tower import DRTP, INTERNAL, SUFFIX, Tower, service
from unit.projections.test_connects import Bed, account, member, policy, project, served
from unit.projections.test_projector import body

GATEWAY = EdgeRef(EdgeRole.GATEWAY, "gw-1")


def group_member(organization: str, group: str) -> dict[str, Any]:
    binding = member(organization, group)
    subject = {"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"}
    return binding | {"metadata": {"name": "staff-of-it", "namespace": organization}, "subjects": [subject]}


async def with_edges(bed: Bed) -> None:
    await bed.put(
        body(INTERNAL, "EdgeIdentity", "", "gw-1", {"role": "gateway", "uri": "x", "addresses": ["127.0.0.1"]})
    )
    await bed.put(body(INTERNAL, "EdgeIdentity", "", "pop-1", {"role": "pop", "uri": "x"}))


def entries(bed: Bed, edge: EdgeRef) -> dict[str, Entry]:
    return dict(bed.projector.entries(edge))


async def test_gateways_are_told_where_visitors_sign_in_once_it_is_known_and_whenever_it_changes() -> None:
    async with served() as bed:
        await with_edges(bed)
        assert "sign-in" not in entries(bed, GATEWAY)
        spec = {"issuer": "https://cp/oidc", "url": "https://cp/oidc/visit", "keys": '{"keys": []}'}
        for keys in ('{"keys": []}', '{"keys": [1]}'):
            changed = await bed.put(body(INTERNAL, "SignIn", "", "visitors", {**spec, "keys": keys}))
            assert changed == {GATEWAY}
            told = entries(bed, GATEWAY)["sign-in"]
            assert isinstance(told, SignInEntry) and (told.url, told.keys) == (spec["url"], keys)


async def test_when_somebody_was_let_in_again_is_told_to_gateways() -> None:
    async with served() as bed:
        await with_edges(bed)
        bob = account("bob")
        await bed.put({**bob, "spec": {**bob["spec"], "countsFrom": "2026-11-28T12:00:00.7Z"}})
        told = entries(bed, GATEWAY)["deny"]
        assert isinstance(told, DenyEntry) and told == DenyEntry(since={"bob": 1_795_867_200})
        await bed.put({**bob, "spec": {**bob["spec"], "disabled": True, "countsFrom": "2026-11-28T12:00:00.7Z"}})
        assert entries(bed, GATEWAY)["deny"] == DenyEntry(people=("bob",))


async def test_keys_that_edges_left_behind_are_told_to_whom_they_would_be_shown() -> None:
    async with served() as bed:
        await with_edges(bed)
        former = {"formerKeys": [{"key": "ab" * 32, "until": "2030-01-01T00:00:00Z"}]}
        gateway = {"role": "gateway", "uri": "x", "addresses": ["127.0.0.1"]}
        await bed.put(body(INTERNAL, "EdgeIdentity", "", "g", {**gateway, **former}))
        assert denied_keys(bed) == {EdgeRole.POP: ("ab" * 32,)}
        await bed.put(body(INTERNAL, "EdgeIdentity", "", "g", gateway))
        await bed.put(body(INTERNAL, "EdgeIdentity", "", "pop-1", {"role": "pop", "uri": "x", **former}))
        assert denied_keys(bed) == {EdgeRole.POP: ("ab" * 32,), EdgeRole.AGENT: ("ab" * 32,)}
        (agent,) = (edge for edge in bed.projector.edges() if edge.role is EdgeRole.AGENT)
        assert entries(bed, agent)["deny"] == DenyEntry({"pop-1": 0}, ("ab" * 32,))
        assert "deny" not in entries(bed, GATEWAY)


def denied_keys(bed: Bed) -> dict[EdgeRole, tuple[str, ...]]:
    told = ((edge.role, entries(bed, edge).get("deny")) for edge in bed.projector.edges())
    return {role: one.keys for role, one in told if isinstance(one, DenyEntry) and one.keys}


async def test_people_who_are_shut_out_are_named_to_pops_and_gateways_and_programs_are_not() -> None:
    async with served() as bed:
        await with_edges(bed)
        assert "deny" not in entries(bed, GATEWAY)
        await bed.put(account("bob", disabled=True))
        robot = account("robot", disabled=True)
        await bed.put({**robot, "spec": {**robot["spec"], "name": "system:serviceaccount:joe:robot"}})
        for edge in (GATEWAY, EdgeRef(EdgeRole.POP, "pop-1")):
            told = entries(bed, edge)["deny"]
            assert isinstance(told, DenyEntry) and told.people == ("bob",)
        await bed.put(account("bob"))
        assert "deny" not in entries(bed, GATEWAY)


async def test_a_route_says_who_is_of_the_organisations_that_its_rules_name_and_of_no_other() -> None:
    async with served() as bed:
        await bed.put(project("guild", "guild"))
        await bed.put(project("mint", "mint"))
        await bed.put(project("workshop", "guild"))
        for one in (member("guild", "bob"), member("mint", "eve"), member("workshop", "stranger")):
            await bed.put(one)
        await bed.put(group_member("guild", "idp#staff"))
        assert memberships(bed) == ()
        rules = ({"name": "r", "action": "Allow", "organizations": ["guild", "unknown"]},)
        await bed.put(policy(*rules))
        assert memberships(bed) == (Membership("guild", ("bob",), ("idp#staff",)),)
        await bed.put(policy({"name": "r", "action": "Deny", "principals": ["org:mint", "user:bob"]}))
        assert memberships(bed) == (Membership("mint", ("eve",)),)
        changed = await bed.drop(member("mint", "eve"))
        assert {edge.role for edge in changed} == {EdgeRole.POP} and memberships(bed) == ()
        assert await bed.drop(group_member("guild", "idp#staff")) == set(), "nobody asks for it any more"


async def test_everybody_who_has_signed_in_is_no_organisation_whoever_binds_them() -> None:
    async with served() as bed:
        await bed.put(project("guild", "guild"))
        await bed.put(group_member("guild", "system:authenticated"))
        await bed.put(policy({"name": "r", "action": "Allow", "organizations": ["guild"]}))
        assert memberships(bed) == ()


def memberships(bed: Bed) -> tuple[Membership, ...]:
    (route,) = [one for one in bed.told() if isinstance(one, RouteEntry)]
    return route.memberships


async def test_a_host_is_known_where_a_rule_asks_who_visitors_are() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        for name in ("plain", "asks"):
            await tower.apply(service(name, expose={"hostname": f"{name}.{SUFFIX}"}))
        target = {"group": "datumapis.com", "kind": "DRTPService", "name": "asks"}
        rules = [{"name": "r", "action": "Allow", "organizations": ["joe"]}]
        await tower.apply(body(DRTP, "DRTPAccessPolicy", "joe", "asks", {"targetRefs": [target], "rules": rules}))
        find = tower.projector.host_of_sign_in
        assert (find(f"asks.{SUFFIX}"), find(f"plain.{SUFFIX}"), find("")) == (f"asks.{SUFFIX}", None, None)


def test_a_name_comes_to_itself_or_to_the_nearest_wildcard() -> None:
    hosts = {"a.b.test", "*.b.test", "*.test"}
    names = ("a.b.test", "x.b.test", "x.y.b.test", "x.test", "test", "b.other", "")
    assert [known_as(one, hosts) for one in names] == ["a.b.test", "*.b.test", "*.b.test", "*.test", None, None, None]
    assert known_as("b.other", {*hosts, "*"}) == "*"
