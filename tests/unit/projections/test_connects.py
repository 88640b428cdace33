"""Who may call a service, what each side is told of it, and that a change costs what it touches."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from drtp.api.drtp import Protocol
from drtp.api.internal import CallerRecord, EdgeRole
from drtp.api.snapshots import PlanConnect, PlanServer, PlanService, RouteEntry
from drtp.projections.projector import Projector
from drtp.projections.settings import ProjectionSettings
from drtp.rules import callers
from drtp.store.memory import MemoryStore
from drtp.store.observed import EdgeRef
from drtp.store.protocol import Stored, kind_of
from drtp.store.view import View
from tower import DRTP, INTERNAL, SUFFIX, service
from unit.projections.test_projector import body, followed

RBAC = "rbac.authorization.k8s.io/v1"
CONNECT = {"verbs": ["connect"], "apiGroups": ["datumapis.com"], "resources": ["drtpservices/connect"]}


def connector(name: str, user: str, *wants: str, **more: Any) -> dict[str, Any]:
    caller = {"kind": "user", "uid": f"uid-{user}", "name": user, "groups": ["system:authenticated"]}
    spec = {"role": "connector", "uri": "x", "caller": caller, "wants": list(wants)}
    return body(INTERNAL, "EdgeIdentity", "", name, spec | more)


def account(user: str, *groups: str, disabled: bool = False) -> dict[str, Any]:
    """What the control plane knows of a local user: connectors are judged by it, whatever they said once."""
    spec = {"name": user, "groups": list(groups), "disabled": disabled}
    return body(INTERNAL, "Account", "", f"uid-{user}", spec)


def grant(namespace: str, user: str) -> dict[str, Any]:
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    return {
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "metadata": {"name": f"{user}-connects", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [subject],
    }


ROLE = {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": "edit"}, "rules": [CONNECT]}


class Bed:
    """A projector over a store with one served service, `joe/a`, on one tunnel server."""

    def __init__(self, store: MemoryStore, view: View) -> None:
        self.store, self.view = store, view
        self.projector = Projector(view, ProjectionSettings(SUFFIX))
        self.changes = view.subscribe()

    async def put(self, obj: dict[str, Any]) -> set[EdgeRef]:
        kind = kind_of(obj["apiVersion"], obj["kind"])
        held = [one for one in await self.named(kind, obj) if one.key.namespace == obj["metadata"].get("namespace", "")]
        if held:
            stored = await self.store.update({**held[0].object, "spec": obj["spec"]})
        else:
            stored = await self.store.create(obj)
        return await self._seen(stored.revision)

    async def put_status(self, obj: dict[str, Any]) -> set[EdgeRef]:
        stored = await self.store.update_status(obj)
        return await self._seen(stored.revision)

    async def drop(self, obj: dict[str, Any]) -> set[EdgeRef]:
        kind = kind_of(obj["apiVersion"], obj["kind"])
        (held,) = await self.named(kind, obj)
        await self.store.delete(held.key)
        return await self._seen(self.store.revision)

    async def named(self, kind: str, obj: dict[str, Any]) -> list[Stored]:
        return [one for one in (await self.store.list(kind)).items if one.key.name == obj["metadata"]["name"]]

    def ends(self) -> list[str]:
        """Until when the one caller may, as POP and agent are told; "" for no end."""
        entries = [one for edge in self.projector.edges() for one in self.projector.entries(edge).values()]
        told = [one.callers for one in entries if isinstance(one, RouteEntry | PlanService)]
        return [one.until.date().isoformat() if one.until else "" for (one,) in told]

    async def _seen(self, revision: int) -> set[EdgeRef]:
        await self.view.reached(revision)
        return self.projector.changed(self.changes.take_now())

    def plan(self, uid: str) -> PlanConnect:
        found = self.projector.entries(EdgeRef(EdgeRole.CONNECTOR, uid))["connect/joe/a"]
        assert isinstance(found, PlanConnect)
        return found

    def served_plan(self) -> PlanService:
        entries = self.projector.entries(EdgeRef(EdgeRole.AGENT, "agent-1")).values()
        return next(one for one in entries if isinstance(one, PlanService))

    def told(self) -> list[RouteEntry | PlanService]:
        """What POP and agent are told, one after the other."""
        entries = [self.projector.entries(edge) for edge in self.projector.edges()]
        return [one for each in entries for one in each.values() if isinstance(one, RouteEntry | PlanService)]

    def callers(self) -> list[tuple[str, ...]]:
        """Who is let in for certain."""
        return [tuple(caller.identity for caller in one.callers) for one in self.told()]


@asynccontextmanager
async def served() -> AsyncGenerator[Bed]:
    store = MemoryStore()
    server = {
        "pop": "nyc",
        "location": {"latitude": "1", "longitude": "2"},
        "serverIP": "127.0.0.1",
        "listeners": [{"transport": "TLS", "port": 7000}],
    }
    assigned = [{"role": "Primary", "serverRef": {"name": "nyc"}}]
    connection = {"serviceRef": {"name": "a"}, "client": {"agentID": "agent-1"}, "servers": assigned}
    agent = {"role": "agent", "uri": "x", "namespace": "joe"}
    whole = [
        service("a", "joe", "TCP"),
        body(DRTP, "DRTPServer", "", "nyc", server),
        body(DRTP, "DRTPConnection", "joe", "a-1", connection),
        body(INTERNAL, "EdgeIdentity", "", "agent-1", agent),
        ROLE,
        *(account(user) for user in ("bob", "eve", "stranger")),
    ]
    for obj in whole:
        await store.create(obj)
    async with followed(store) as view:
        bed = Bed(store, view)
        bed.projector.rebuild()
        yield bed


async def test_a_user_with_the_verb_is_told_the_way_and_both_ends_are_told_the_user() -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        await bed.put(connector("c-1", "bob", "joe/a"))
        plan = bed.plan("c-1")
        assert plan.reason == ""
        assert [way.agent for way in plan.ways] == ["agent-1"]
        entries = bed.projector.entries(EdgeRef(EdgeRole.CONNECTOR, "c-1"))
        servers = [one for one in entries.values() if isinstance(one, PlanServer)]
        assert [one.server for one in servers] == list(plan.ways[0].servers)
        assert bed.callers() == [("c-1",), ("c-1",)]


async def test_who_may_not_is_told_the_same_of_what_is_there_and_of_what_is_not() -> None:
    async with served() as bed:
        await bed.put(connector("c-1", "eve", "joe/a", "joe/absent"))
        entries = bed.projector.entries(EdgeRef(EdgeRole.CONNECTOR, "c-1"))
        there, absent = entries["connect/joe/a"], entries["connect/joe/absent"]
        assert isinstance(there, PlanConnect)
        assert isinstance(absent, PlanConnect)
        assert (there.reason, there.service, there.ways, there.sources) == ("NotAllowed", "", (), ())
        assert (absent.reason, absent.service, absent.ways, absent.sources) == ("NotAllowed", "", (), ())
        assert not [one for one in entries.values() if isinstance(one, PlanServer)]
        assert bed.callers() == [(), ()]


@pytest.mark.parametrize("how", ["the role binding", "the identity", "the wish"])
async def test_what_takes_the_right_away_reaches_pop_agent_and_connector_at_once(how: str) -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        await bed.put(connector("c-1", "bob", "joe/a"))
        assert bed.callers() == [("c-1",), ("c-1",)]
        if how == "the role binding":
            changed = await bed.drop(grant("joe", "bob"))
            assert bed.plan("c-1").reason == "NotAllowed"
            assert {edge.role for edge in changed} == {EdgeRole.POP, EdgeRole.AGENT, EdgeRole.CONNECTOR}
        elif how == "the identity":
            await bed.put(connector("c-1", "bob", "joe/a", revoked=True))
            assert EdgeRef(EdgeRole.CONNECTOR, "c-1") not in bed.projector.edges()
        else:
            await bed.put(connector("c-1", "bob"))
        assert bed.callers() == [(), ()]


async def test_a_narrowed_token_reaches_nothing_outside_its_projects() -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        caller = {"kind": "user", "uid": "uid-bob", "name": "bob", "within": ["elsewhere"]}
        await bed.put(connector("c-1", "bob", "joe/a", caller=caller))
        assert bed.plan("c-1").reason == "NotAllowed"


async def test_who_is_in_a_group_no_more_is_cut_whatever_the_sign_in_said() -> None:
    async with served() as bed:
        await bed.put(account("bob", "system:masters"))
        caller = {"kind": "user", "uid": "uid-bob", "name": "bob", "groups": ["system:masters"]}
        await bed.put(connector("c-1", "bob", "joe/a", caller=caller))
        assert bed.callers() == [("c-1",), ("c-1",)]
        changed = await bed.put(account("bob"))
        assert {edge.role for edge in changed} == {EdgeRole.POP, EdgeRole.AGENT, EdgeRole.CONNECTOR}
        assert bed.plan("c-1").reason == "NotAllowed"
        assert bed.callers() == [(), ()]
        await bed.put(account("bob", "system:masters"))
        assert bed.callers() == [("c-1",), ("c-1",)]


@pytest.mark.parametrize("how", ["shut", "gone"])
async def test_a_local_user_without_a_good_account_calls_nobody(how: str) -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        await bed.put(connector("c-1", "bob", "joe/a"))
        assert bed.plan("c-1").reason == ""
        await (bed.put(account("bob", disabled=True)) if how == "shut" else bed.drop(account("bob")))
        assert bed.plan("c-1").reason == "NotAllowed"
        assert bed.callers() == [(), ()]


async def test_groups_of_a_foreign_issuer_hold_for_the_certificate_unless_its_user_is_shut_out() -> None:
    group = {"kind": "Group", "name": "https://idp.example#dba", "apiGroup": "rbac.authorization.k8s.io"}
    caller = {"kind": "user", "uid": "uid-f", "name": "https://idp.example#7", "groups": [group["name"]]}
    async with served() as bed:
        await bed.put(grant("joe", "dba") | {"subjects": [group]})
        await bed.put(connector("c-1", "f", "joe/a", caller=caller))
        assert bed.callers() == [("c-1",), ("c-1",)]
        await bed.put(account("f", disabled=True))
        assert bed.callers() == [(), ()]


async def test_a_disabled_service_and_an_absent_agent_are_said_to_those_who_may() -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        await bed.put(connector("c-1", "bob", "joe/a"))
        off = service("a", "joe", "TCP")
        off["spec"]["enabled"] = False
        await bed.put(off)
        assert (bed.plan("c-1").reason, bed.plan("c-1").ways) == ("Disabled", ())
        await bed.put(service("a", "joe", "TCP"))
        await bed.drop(body(INTERNAL, "EdgeIdentity", "", "agent-1", {}))
        assert bed.plan("c-1").reason == "AgentAway"


async def test_a_udp_service_is_told_its_ways_to_connectors_that_carry_udp_alone() -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        await bed.put(service("a", "joe", "UDP"))
        await bed.put(connector("c-1", "bob", "joe/a", datagrams=True))
        await bed.put(connector("c-0", "bob", "joe/a"))
        now, before = bed.plan("c-1"), bed.plan("c-0")
        assert (now.protocol, now.reason, [way.agent for way in now.ways]) == (Protocol.UDP, "", ["agent-1"])
        assert (before.protocol, before.reason, before.ways) == (Protocol.UDP, "UdpNotSealed", ())
        assert bed.callers() == [("c-0", "c-1"), ("c-0", "c-1")]
        assert bed.served_plan().protocol is Protocol.UDP


async def test_a_way_says_where_its_agent_has_no_session() -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        await bed.put(connector("c-1", "bob", "joe/a"))
        (way,) = bed.plan("c-1").ways
        assert way.away == way.servers
        on = {"role": "Primary", "serverRef": {"name": "nyc"}, "programmingStatus": "Programmed"}
        for status, away in (("Connected", ()), ("Disconnected", way.servers)):
            (held,) = await bed.named("DRTPConnection.datumapis.com", {"metadata": {"name": "a-1"}})
            await bed.put_status({**held.object, "status": {"servers": [{**on, "clientStatus": status}]}})
            assert bed.plan("c-1").ways[0].away == away


async def test_a_grant_in_another_project_costs_nothing_here() -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        await bed.put(connector("c-1", "bob", "joe/a"))
        before = bed.projector.runs
        assert await bed.put(grant("elsewhere", "bob")) == set()
        assert bed.projector.runs == before


async def test_a_caller_is_judged_once_however_many_connectors_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    may_connect = callers.may_connect

    def counted(caller: CallerRecord, *where: Any) -> bool:
        judged.append(caller.name)
        return may_connect(caller, *where)

    monkeypatch.setattr(callers, "may_connect", counted)
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        for number in range(5):
            ends = f"2030-01-0{number + 1}T00:00:00Z"
            caller = {"kind": "user", "uid": "uid-bob", "name": "bob", "until": ends}
            await bed.put(connector(f"c-{number}", "bob", "joe/a", caller=caller))
        judged.clear()
        second = {"serviceRef": {"name": "a"}, "client": {"agentID": "agent-1"}}
        await bed.put(body(DRTP, "DRTPConnection", "joe", "a-2", second))
        assert judged == [], "another agent of the service asks nobody's roles"
        await bed.drop(grant("joe", "bob"))
        assert judged == ["bob"]
        assert bed.callers()[0] == ()


async def test_a_connector_that_renews_or_comes_back_costs_one_step() -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        for number in range(8):
            await bed.put(connector(f"c-{number}", "bob", "joe/a"))
        before = bed.projector.runs
        assert await bed.put(connector("c-3", "bob", "joe/a", generation=2, hostname="elsewhere")) == set()
        assert bed.projector.runs == before + 1


async def test_a_service_without_a_public_place_takes_sealed_streams_alone() -> None:
    async with served() as bed:
        assert not bed.served_plan().sealed_only
        private = service("a", "joe", "TCP")
        private["spec"].pop("expose", None)
        await bed.put(private)
        assert bed.served_plan().sealed_only
        private["spec"]["edgeAllowlist"] = ["203.0.113.0/24"]
        await bed.put(private)
        assert not bed.served_plan().sealed_only


def policy(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    target = {"group": "datumapis.com", "kind": "DRTPService", "name": "a"}
    return body(DRTP, "DRTPAccessPolicy", "joe", "p", {"targetRefs": [target], "rules": list(rules)} | more)


EVENING = {"weekly": [{"start": "18:00", "end": "23:00"}], "timeZone": "Europe/Berlin"}
BOB = {"action": "Allow", "principals": ["user:bob"]}


@pytest.mark.parametrize(
    ("rules", "prospect"),
    [
        ([BOB], "certain"),
        ([{"action": "Allow", "principals": ["user:ann"]}], "none"),
        ([{"action": "Deny", "principals": ["user:bob"]}], "none"),
        ([], "none"),
        # Where the caller is, when it comes and what carries it are for POPs to know.
        ([BOB | {"clientCIDRs": ["203.0.113.0/24"]}], "conditional"),
        ([BOB | {"countries": ["DE"]}], "conditional"),
        ([BOB | {"schedule": EVENING}], "conditional"),
        ([BOB | {"through": {"pops": ["nyc"]}}], "conditional"),
        ([{"action": "Deny", "clientCIDRs": ["203.0.113.0/24"]}, BOB], "conditional"),
        ([{"action": "Deny", "schedule": EVENING}, BOB], "conditional"),
        ([{"action": "Allow", "clientCIDRs": ["203.0.113.0/24"], "principals": ["user:ann"]}], "none"),
        ([BOB, {"action": "Deny", "clientCIDRs": ["203.0.113.0/24"]}], "certain"),
    ],
)
async def test_a_policy_on_the_service_narrows_its_callers(rules: list[dict[str, Any]], prospect: str) -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        await bed.put(connector("c-1", "bob", "joe/a"))
        await bed.put(policy(*({"name": f"rule-{number}"} | rule for number, rule in enumerate(rules))))
        assert bed.plan("c-1").reason == ("NotAllowed" if prospect == "none" else "")
        for told in bed.told():
            named = {"certain": told.callers, "conditional": told.conditional, "none": ()}
            assert [caller.name for caller in named.pop(prospect)] == ([] if prospect == "none" else ["bob"])
            assert not any(named.values())
            # The policy goes along wherever somebody is named, so that edges judge by it too.
            assert (told.caller_access is None) == (prospect == "none")


async def test_an_edge_is_told_a_policy_of_callers_only_where_somebody_calls() -> None:
    async with served() as bed:
        await bed.put(policy({"name": "all", **BOB}))
        assert [told.caller_access for told in bed.told()] == [None, None]
        before = [told.sources for told in bed.told()]
        await bed.put(policy({"name": "all", **BOB, "clientCIDRs": ["203.0.113.0/24"]}))
        assert all(was != now.sources for was, now in zip(before, bed.told(), strict=True)), "what is enforced is said"


def project(name: str, organization: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"datumapis.com/organization": organization}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata, "spec": {}}


def published_to(*organizations: str) -> dict[str, Any]:
    allowed = [{"organization": one} for one in organizations]
    spec = {"serviceRef": {"name": "a"}, "title": "A", "access": {"mode": "AllowList", "allowed": allowed}}
    return body(DRTP, "DRTPPublication", "joe", "a", spec)


async def subscriber(bed: Bed) -> None:
    """Bob may use subscriptions of eve, a project of lantern; his connector asks for a service of harbour's."""
    for one in (project("joe", "harbour"), project("eve", "lantern")):
        await bed.put(one)
    use = {"verbs": ["connect"], "apiGroups": ["datumapis.com"], "resources": ["drtpsubscriptions/connect"]}
    await bed.store.update({**ROLE, "rules": [use]})
    await bed.put(grant("eve", "bob"))
    await bed.put(connector("c-1", "bob", "joe/a"))


async def test_an_organisation_on_the_publishers_list_connects_until_it_is_on_it_no_more() -> None:
    async with served() as bed:
        await subscriber(bed)
        await bed.put(connector("c-2", "stranger", "joe/a"))
        assert bed.plan("c-1").reason == "NotAllowed"
        await bed.put(published_to("lantern"))
        assert (bed.plan("c-1").reason, bed.plan("c-2").reason) == ("", "NotAllowed")
        assert bed.callers() == [("c-1",), ("c-1",)]
        changed = await bed.put(published_to("another"))
        assert {edge.role for edge in changed} == {EdgeRole.POP, EdgeRole.AGENT, EdgeRole.CONNECTOR}
        assert bed.plan("c-1").reason == "NotAllowed"
        assert bed.callers() == [(), ()]


def member(organization: str, user: str) -> dict[str, Any]:
    binding = grant(organization, user)
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "organization-viewer"}
    return binding | {"metadata": {"name": f"{user}-of-it", "namespace": organization}, "roleRef": role}


async def test_a_caller_is_of_the_organisation_of_the_project_it_comes_from_and_of_those_it_is_a_member_of() -> None:
    async with served() as bed:
        await bed.put(project("guild", "guild"))
        await subscriber(bed)
        await bed.put(published_to("lantern"))
        for name, organizations in (("lantern", ["lantern"]), ("guild", ["guild"]), ("harbour", ["harbour"])):
            await bed.put(policy({"name": name, "action": "Allow", "organizations": organizations}))
            assert bed.callers() == ([("c-1",)] * 2 if name == "lantern" else [(), ()]), name
        assert bed.plan("c-1").reason == "NotAllowed"
        await bed.put(policy({"name": "guild", "action": "Allow", "principals": ["org:guild"]}))
        assert bed.callers() == [(), ()]
        await bed.put(member("guild", "bob"))
        assert [told.callers[0].organizations for told in bed.told()] == [("guild", "lantern")] * 2
        await bed.drop(member("guild", "bob"))
        assert bed.callers() == [(), ()]


async def test_the_end_of_a_subscription_goes_to_the_edges_and_a_way_without_one_counts_more() -> None:
    async with served() as bed:
        await subscriber(bed)
        await bed.put(published_to())
        asked = {"publicationRef": {"namespace": "joe", "name": "a"}, "expires": "2030-01-01T00:00:00Z"}
        held = await bed.store.create(body(DRTP, "DRTPSubscription", "eve", "a", asked))
        asker = {"namespace": "eve", "name": "a", "uid": held.uid}
        decided = {"publicationRef": {"name": "a"}, "subscriber": asker, "decision": "Approved"}
        await bed.put(body(DRTP, "DRTPApproval", "joe", "a-eve", decided))
        assert bed.ends() == ["2030-01-01", "2030-01-01"]
        await bed.put(body(DRTP, "DRTPApproval", "joe", "a-eve", decided | {"expires": "2029-01-01T00:00:00Z"}))
        assert bed.ends() == ["2029-01-01", "2029-01-01"]
        await bed.put(published_to("lantern"))
        assert bed.ends() == ["", ""]


async def test_a_caller_is_told_no_pop_that_a_policy_keeps_the_bytes_from() -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        await bed.put(connector("c-1", "bob", "joe/a"))
        rule = {"name": "home", "action": "Allow", "clientCIDRs": [], "through": {"pops": ["ewr"]}}
        target = {"group": "datumapis.com", "kind": "DRTPService", "name": "a"}
        await bed.put(body(DRTP, "DRTPAccessPolicy", "joe", "p", {"targetRefs": [target], "rules": [rule]}))
        plan = bed.plan("c-1")
        assert not [server for way in plan.ways for server in way.servers]
        assert plan.reason != ""


async def test_an_application_goes_with_its_service_account_and_a_later_one_of_its_name_is_another() -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "namespace": "joe"}}
    async with served() as bed:
        name = "system:serviceaccount:joe:app"
        await bed.put(grant("joe", name) | {"metadata": {"name": "app-connects", "namespace": "joe"}})
        held = await bed.store.create(account)
        caller = {"kind": "app", "uid": held.uid, "name": name}
        await bed.put(connector("c-1", "app", "joe/a", caller=caller))
        assert bed.plan("c-1").reason == ""
        await bed.drop(account)
        assert bed.plan("c-1").reason == "NotAllowed"
        assert bed.callers() == [(), ()]
        await bed.put(account)
        assert bed.plan("c-1").reason == "NotAllowed", "another account of the same name"


async def test_a_connection_that_names_a_policy_nobody_has_is_closed_to_callers_too() -> None:
    async with served() as bed:
        await bed.put(grant("joe", "bob"))
        await bed.put(connector("c-1", "bob", "joe/a"))
        (held,) = await bed.named("DRTPConnection.datumapis.com", {"metadata": {"name": "a-1"}})
        spec = {**held.object["spec"], "accessPolicyRef": {"name": "absent"}}
        await bed.put(body(DRTP, "DRTPConnection", "joe", "a-1", spec))
        assert bed.plan("c-1").reason == "NotAllowed"
        assert bed.callers() == [(), ()]
