"""The catalogue's joint agreement: asked on one side, decided on the other, the same on both."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from drtp.api.catalogue import DRTPApproval, DRTPPublication, DRTPSubscription, SubscriptionState
from drtp.api.core import ORGANIZATION_LABEL, Event
from drtp.api.drtp import DRTPService
from drtp.api.gatewayapi import HTTPRoute
from drtp.api.internal import EdgeRole
from drtp.api.meta import Key
from drtp.api.snapshots import HttpHost, PlanConnect
from drtp.controllers.writing import plain
from drtp.rules import catalogue, catalogue_grants
from tower import DRTP, INTERNAL, SUFFIX, Tower, route, service

JOE, EVE, ZEPHYR = "joe", "eve", "zephyr"
ORGANIZATIONS = {JOE: "harbour", EVE: "lantern", ZEPHYR: "harbour"}


def publication(name: str = "web", **spec: Any) -> dict[str, Any]:
    said = {"serviceRef": {"name": "web"}, "title": "Web", "visibility": "Everyone", **spec}
    return {"apiVersion": DRTP, "kind": "DRTPPublication", "metadata": {"name": name, "namespace": JOE}, "spec": said}


def subscription(project: str = EVE, name: str = "web", to: str = "web", **spec: Any) -> dict[str, Any]:
    said = {"publicationRef": {"namespace": JOE, "name": to}, **spec}
    metadata = {"name": name, "namespace": project}
    return {"apiVersion": DRTP, "kind": "DRTPSubscription", "metadata": metadata, "spec": said}


@asynccontextmanager
async def running() -> AsyncGenerator[Tower]:
    async with Tower().running() as tower:
        for project, organization in ORGANIZATIONS.items():
            await tower.store.delete(tower_key(project))
            metadata = {"name": project, "labels": {ORGANIZATION_LABEL: organization}}
            await tower.store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        await tower.apply(service())
        yield tower


def tower_key(project: str) -> Key:
    return Key("Namespace", "", project)


def approval_of(tower: Tower, project: str = EVE, name: str = "web") -> DRTPApproval:
    (found,) = tower.view.indexed(DRTPApproval, "subscriber", (project, name))
    return found


def states(tower: Tower, project: str = EVE, name: str = "web") -> tuple[str, str]:
    """On the subscriber's side and on the publisher's; since when is the same on both."""
    mine, theirs = tower.get(DRTPSubscription, project, name).status, approval_of(tower, project, name).status
    assert mine.state
    assert theirs.state
    assert mine.since == theirs.since
    assert [(one.type, one.status, one.reason, one.message) for one in mine.conditions] == [
        (one.type, one.status, one.reason, one.message) for one in theirs.conditions
    ]
    return mine.state.value, theirs.state.value


async def decide(tower: Tower, decision: str, project: str = EVE, name: str = "web", **spec: Any) -> None:
    held = approval_of(tower, project, name).metadata
    await tower.patch(DRTPApproval, JOE, held.name, {"spec": {"decision": decision, **spec}})


def lets_in(tower: Tower, project: str = EVE) -> bool:
    """What connect asks, one at a time and as the whole list."""
    now = tower.clock.now()
    one = catalogue_grants.may_connect(tower.view, project, JOE, "web", now) is not None
    listed = catalogue_grants.grants(tower.view, JOE, "web")
    organization = catalogue.organization_of(tower.view, project)
    assert one is any(grant.holds_for(organization, project, now) for grant in listed)
    assert one is any(found.service == "web" for found in catalogue_grants.reachable(tower.view, project, now))
    return one


def events(tower: Tower, namespace: str) -> set[str]:
    return {str(one.reason) for one in tower.view.list(Event, namespace)}


async def test_a_request_waits_and_both_sides_see_the_same_through_its_life() -> None:
    async with running() as tower:
        await tower.apply(publication())
        await tower.apply(subscription(purpose="reports"))
        assert states(tower) == ("Pending", "Pending")
        assert not lets_in(tower)
        record = approval_of(tower)
        assert (record.metadata.namespace, record.status.purpose, record.status.organization) == (
            JOE,
            "reports",
            "lantern",
        )
        assert tower.get(DRTPSubscription, EVE, "web").status.connect is None
        await decide(tower, "Approved", reason="as agreed")
        assert states(tower) == ("Approved", "Approved")
        assert lets_in(tower)
        mine = tower.get(DRTPSubscription, EVE, "web").status
        assert (mine.connect, mine.organization, mine.title) == ("joe/web", "harbour", "Web")
        assert tower.condition(tower.get(DRTPSubscription, EVE, "web"), "Approved") == ("True", "Approved")
        counted = tower.get(DRTPPublication, JOE, "web").status
        assert (counted.subscribers, counted.pending) == (1, 0)
        await decide(tower, "Revoked", reason="contract ended")
        assert states(tower) == ("Revoked", "Revoked")
        assert not lets_in(tower)
        mine = tower.get(DRTPSubscription, EVE, "web").status
        assert "contract ended" in mine.conditions[0].message
        assert (mine.connect, mine.addresses) == (None, ())
        assert events(tower, EVE) >= {"Approved", "ApprovedRevoked"}
        assert events(tower, JOE) >= {"Subscribed", "Approved", "ApprovedRevoked"}


async def test_each_side_ends_it_by_deleting_its_own_object() -> None:
    async with running() as tower:
        await tower.apply(publication())
        await tower.apply(subscription())
        await decide(tower, "Approved")
        await tower.delete(DRTPSubscription, EVE, "web")
        assert not lets_in(tower)
        assert tower.view.list(DRTPApproval, JOE) == []
        await tower.apply(subscription())
        assert states(tower) == ("Pending", "Pending")
        await decide(tower, "Approved")
        await tower.delete(DRTPApproval, JOE, approval_of(tower).metadata.name)
        assert states(tower) == ("Pending", "Pending")
        await decide(tower, "Approved")
        await tower.delete(DRTPPublication, JOE, "web")
        assert tower.get(DRTPSubscription, EVE, "web").status.state is SubscriptionState.REVOKED
        assert tower.view.list(DRTPApproval, JOE) == []
        await tower.apply(publication())
        assert states(tower) == ("Pending", "Pending")
        assert not lets_in(tower)


@pytest.mark.parametrize("side", ["subscriber", "publisher"])
async def test_the_sooner_date_ends_it_by_the_clock_alone(side: str) -> None:
    async with running() as tower:
        sooner, later = (tower.clock.now() + timedelta(hours=one) for one in (2, 5))
        await tower.apply(publication())
        own, other = (sooner, later) if side == "subscriber" else (later, sooner)
        await tower.apply(subscription(expires=own.isoformat()))
        await decide(tower, "Approved", expires=other.isoformat())
        assert tower.get(DRTPSubscription, EVE, "web").status.expires == sooner
        for seconds in (3600, 3599):
            await tower.clock.advance(seconds)
            await tower.settle()
        assert (states(tower), lets_in(tower)) == (("Approved", "Approved"), True)
        await tower.clock.advance(1)
        await tower.settle()
        assert (states(tower), lets_in(tower)) == (("Expired", "Expired"), False)
        message = tower.get(DRTPSubscription, EVE, "web").status.conditions[0].message
        assert f"the {side}'s date" in message
        assert tower.get(DRTPPublication, JOE, "web").status.subscribers == 0


async def test_who_is_on_the_list_needs_no_subscription_and_no_approval() -> None:
    async with running() as tower:
        access = {"mode": "AllowList", "allowed": [{"organization": "lantern"}]}
        await tower.apply(publication(visibility="Subscribers", access=access))
        assert lets_in(tower)
        (found,) = catalogue_grants.reachable(tower.view, EVE, tower.clock.now())
        assert (found.service, found.subscription) == ("web", "")
        assert not lets_in(tower, ZEPHYR)
        await tower.apply(subscription())
        assert states(tower) == ("Approved", "Approved")
        assert tower.condition(tower.get(DRTPSubscription, EVE, "web"), "Approved") == ("True", "Listed")
        await tower.patch(DRTPPublication, JOE, "web", {"spec": {"access": {"mode": "AllowList", "allowed": []}}})
        assert not lets_in(tower)
        assert states(tower) == ("Revoked", "Revoked")


async def test_one_project_of_an_organisation_can_be_listed_alone() -> None:
    async with running() as tower:
        access = {"mode": "AllowList", "allowed": [{"organization": "harbour", "project": ZEPHYR}]}
        await tower.apply(publication(access=access))
        assert [lets_in(tower, project) for project in (ZEPHYR, EVE)] == [True, False]
        # The name alone is not the project: under another organisation it is somebody else's.
        namespace = await tower.store.get(tower_key(ZEPHYR))
        moved = {**namespace.metadata, "labels": {ORGANIZATION_LABEL: "lantern"}}
        await tower.store.update({**namespace.object, "metadata": moved})
        await tower.settle()
        assert not lets_in(tower, ZEPHYR)


async def test_whoever_is_sent_away_does_not_come_back_by_subscribing_anew() -> None:
    async with running() as tower:
        access = {"mode": "AllowList", "allowed": [{"organization": "lantern"}]}
        for name, how in (("web", {"mode": "Open"}), ("listed", access)):
            await tower.apply(publication(name, access=how))
            await tower.apply(subscription(name=name, to=name))
        assert states(tower, name="listed") == states(tower) == ("Approved", "Approved")
        for name in ("web", "listed"):
            await decide(tower, "Revoked", name=name)
        assert not lets_in(tower)
        for name in ("web", "listed"):
            await tower.delete(DRTPSubscription, EVE, name)
            assert not lets_in(tower)
            await tower.apply(subscription(name=f"{name}-again", to=name))
            assert states(tower, name=f"{name}-again") == ("Pending", "Pending")
        assert not lets_in(tower)
        await decide(tower, "Approved", name="web-again")
        assert lets_in(tower)


async def test_an_approval_is_of_one_subscription_and_not_of_its_name() -> None:
    async with running() as tower:
        await tower.apply(publication())
        await tower.apply(subscription())
        await decide(tower, "Approved")
        held = approval_of(tower)
        await tower.delete(DRTPSubscription, EVE, "web")
        # Somebody brings the old record back, as from a backup, with the old uid in it.
        body = (await tower.store.create(_as_object(held))).key
        await tower.apply(subscription())
        assert not lets_in(tower)
        assert tower.view.stored(body) is None
        assert states(tower) == ("Pending", "Pending")


def _as_object(held: DRTPApproval) -> dict[str, Any]:
    made = plain(held)
    metadata = {name: made["metadata"][name] for name in ("name", "namespace", "ownerReferences")}
    spec = {"decision": "Approved", **made["spec"]}
    return {"apiVersion": DRTP, "kind": "DRTPApproval", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("hidden", [{"visibility": "Subscribers"}, {"visibility": "Organization"}, None])
async def test_an_unknown_and_an_invisible_publication_are_the_same_and_the_publisher_is_not_bothered(
    hidden: dict[str, Any] | None,
) -> None:
    async with running() as tower:
        if hidden is not None:
            await tower.apply(publication(**hidden))
        await tower.apply(subscription())
        mine = tower.get(DRTPSubscription, EVE, "web").status
        assert mine.state is SubscriptionState.NOT_FOUND
        assert mine.conditions[0].message == (
            "There is no such publication, or it is not for your project to see (DRTP-6050)."
        )
        assert (mine.title, mine.organization, mine.protocol) == (None, None, None)
        assert tower.view.list(DRTPApproval, JOE) == []
        assert "Subscribed" not in events(tower, JOE)


@pytest.mark.parametrize("how", ["deleted", "hidden"])
async def test_deleted_and_hidden_are_the_same_to_whoever_had_it_and_to_whoever_waited(how: str) -> None:
    async with running() as tower:
        await tower.apply(publication())
        await tower.apply(subscription(EVE))
        await tower.apply(subscription(ZEPHYR))
        await tower.patch(DRTPPublication, JOE, "web", {"spec": {"access": {"mode": "Open"}}})
        await decide(tower, "Rejected", ZEPHYR)
        if how == "deleted":
            await tower.delete(DRTPPublication, JOE, "web")
        else:
            await tower.patch(DRTPPublication, JOE, "web", {"spec": {"visibility": "Subscribers"}})
        had = tower.get(DRTPSubscription, EVE, "web")
        assert tower.condition(had, "Approved") == ("False", "Withdrawn")
        assert had.status.conditions[0].message.startswith("The publisher has taken the publication, or your sight")
        assert tower.get(DRTPSubscription, ZEPHYR, "web").status.state is SubscriptionState.REJECTED
        assert not lets_in(tower)


async def test_visible_to_the_organisation_is_visible_to_its_projects_only() -> None:
    async with running() as tower:
        await tower.apply(publication(visibility="Organization", access={"mode": "Open"}))
        await tower.apply(subscription(ZEPHYR))
        await tower.apply(subscription(EVE))
        assert states(tower, ZEPHYR) == ("Approved", "Approved")
        assert tower.get(DRTPSubscription, EVE, "web").status.state is SubscriptionState.NOT_FOUND
        # The operator moves a project to the organisation.
        namespace = await tower.store.get(tower_key(EVE))
        moved = {**namespace.metadata, "labels": {ORGANIZATION_LABEL: "harbour"}}
        await tower.store.update({**namespace.object, "metadata": moved})
        await tower.settle()
        assert states(tower, EVE) == ("Approved", "Approved")


async def test_one_project_cannot_fill_a_publishers_project_with_requests() -> None:
    async with running() as tower:
        await tower.apply(publication())
        for number in range(catalogue.SUBSCRIPTIONS_MAX + 2):
            await tower.apply(subscription(name=f"s{number:02}"))
        assert len(tower.view.list(DRTPApproval, JOE)) == catalogue.SUBSCRIPTIONS_MAX
        last = tower.get(DRTPSubscription, EVE, "s09")
        assert tower.condition(last, "Approved") == ("False", "TooManySubscriptions")
        await tower.delete(DRTPSubscription, EVE, "s00")
        waiting = [tower.get(DRTPSubscription, EVE, name).status.state for name in ("s08", "s09")]
        assert SubscriptionState.PENDING in waiting
        assert len(tower.view.list(DRTPApproval, JOE)) <= catalogue.SUBSCRIPTIONS_MAX + 1


async def test_a_thousand_subscriptions_cost_what_one_change_concerns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    real = catalogue.standing

    def counted(*arguments: Any) -> Any:
        turns.append(arguments[1].metadata.name)
        return real(*arguments)

    async with running() as tower:
        await tower.apply(publication())
        for number in range(1000):
            project = f"p{number}"
            await tower.store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": project}})
            await tower.store.create(subscription(project, f"s{number}"))
        await tower.settle()
        assert tower.get(DRTPPublication, JOE, "web").status.pending == 1000
        monkeypatch.setattr(catalogue, "standing", counted)
        await decide(tower, "Approved", "p500", "s500")
        assert set(turns) == {"s500"}
        assert len(turns) <= 4
        assert tower.get(DRTPPublication, JOE, "web").status.subscribers == 1
        looks: list[str] = []
        seen = tower.view.indexed
        monkeypatch.setattr(tower.view, "indexed", lambda *asked: looks.append(asked[1]) or seen(*asked))
        assert catalogue_grants.may_connect(tower.view, "p500", JOE, "web", tower.clock.now()) is not None
        assert catalogue_grants.may_connect(tower.view, "p501", JOE, "web", tower.clock.now()) is None
        assert len(looks) <= 8


async def test_health_is_the_services_and_is_told_to_whoever_is_approved() -> None:
    async with running() as tower:
        await tower.apply(publication())
        await tower.apply(subscription())
        assert tower.condition(tower.get(DRTPSubscription, EVE, "web"), "Ready") == ("False", "NotApproved")
        await decide(tower, "Approved")
        assert tower.condition(tower.get(DRTPSubscription, EVE, "web"), "Ready") == ("False", "ServiceNotReady")
        assert tower.condition(tower.get(DRTPPublication, JOE, "web"), "Ready") == ("False", "ServiceNotReady")
        await tower.delete(DRTPService, JOE, "web")
        assert tower.condition(tower.get(DRTPSubscription, EVE, "web"), "Ready") == ("False", "ServiceNotFound")
        assert tower.condition(tower.get(DRTPPublication, JOE, "web"), "Accepted") == ("False", "ServiceNotFound")


async def test_scope_says_which_addresses_are_told() -> None:
    async with running() as tower:
        await tower.apply(publication(access={"mode": "Open"}))
        await tower.apply(subscription())
        assert tower.get(DRTPSubscription, EVE, "web").status.addresses == ()
        assert tower.condition(tower.get(DRTPPublication, JOE, "web"), "Accepted") == ("True", "AlsoPublic")
        await tower.patch(DRTPPublication, JOE, "web", {"spec": {"scope": "Public"}})
        assert tower.condition(tower.get(DRTPPublication, JOE, "web"), "Ready")[1] in {"NotExposed", "ServiceNotReady"}
        assert tower.condition(tower.get(DRTPPublication, JOE, "web"), "Accepted") == ("True", "Accepted")


async def test_what_cannot_be_read_lets_nobody_in_and_loses_no_decision() -> None:
    async with running() as tower:
        await tower.apply(publication())
        await tower.apply(subscription())
        await decide(tower, "Approved")
        await tower.patch(DRTPPublication, JOE, "web", {"spec": {"visibility": "Perhaps"}})
        assert not lets_in(tower)
        assert len(tower.view.list(DRTPApproval, JOE)) == 1
        await tower.patch(DRTPPublication, JOE, "web", {"spec": {"visibility": "Everyone"}})
        assert states(tower) == ("Approved", "Approved")
        assert lets_in(tower)


async def test_an_approved_subscriber_is_a_caller_until_the_publisher_revokes() -> None:
    rbac = "rbac.authorization.k8s.io"
    rule = {"verbs": ["connect"], "apiGroups": ["datumapis.com"], "resources": ["drtpsubscriptions/connect"]}
    names = {"name": "uses", "namespace": EVE}
    reference = {"kind": "Role", "name": "uses", "apiGroup": rbac}
    subject = {"kind": "User", "name": "bob", "apiGroup": rbac}
    caller = {"kind": "user", "uid": "uid-bob", "name": "bob", "groups": ["system:authenticated"]}
    asks = {"role": "connector", "uri": "x", "caller": caller, "wants": ["joe/web"]}
    async with running() as tower:

        def told() -> str:
            entry = tower.entries(EdgeRole.CONNECTOR, "c-1")["connect/joe/web"]
            assert isinstance(entry, PlanConnect)
            return entry.reason

        await tower.apply({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": names, "rules": [rule]})
        binding = {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": names}
        await tower.apply({**binding, "roleRef": reference, "subjects": [subject]})
        account = {"apiVersion": INTERNAL, "kind": "Account", "metadata": {"name": "uid-bob"}, "spec": {"name": "bob"}}
        await tower.apply(account)
        await tower.apply({"apiVersion": INTERNAL, "kind": "EdgeIdentity", "metadata": {"name": "c-1"}, "spec": asks})
        await tower.apply(publication(access={"mode": "Approval"}))
        await tower.apply(subscription(purpose="reports"))
        assert told() == "NotAllowed"
        await decide(tower, "Approved")
        assert told() == "AgentAway", "let in, and nobody serves"
        await decide(tower, "Revoked")
        assert told() == "NotAllowed"


async def test_an_approved_subscriber_publishes_the_service_under_a_name_of_its_own() -> None:
    """What is offered for more than connect: by a route of the subscriber's, for as long as it is let in."""
    host = f"reports.{SUFFIX}"
    refs = [{"group": "datumapis.com", "kind": "DRTPService", "namespace": JOE, "name": "web"}]
    async with running() as tower:
        await tower.gateway()

        def published() -> tuple[str, str]:
            (parent,) = tower.get(HTTPRoute, EVE, "reports").status.parents
            one = next(one for one in parent.conditions if one.type == "ResolvedRefs")
            entry = tower.entries(EdgeRole.GATEWAY, "gw-1").get(f"http/127.0.0.1/8080/{host}")
            assert isinstance(entry, HttpHost)
            uid = tower.get(DRTPService, JOE, "web").metadata.uid
            leads = [backend.service for rule in entry.rules for backend in rule.backends] == [uid]
            assert leads is (one.status.value == "True")
            return one.status.value, one.reason

        await tower.apply(publication())
        await tower.apply(route("HTTPRoute", "reports", EVE, "", hostnames=[host], rules=[{"backendRefs": refs}]))
        assert published() == ("False", "RefNotPermitted")
        await tower.apply(subscription())
        await decide(tower, "Approved")
        assert published() == ("False", "RefNotPermitted"), "scope Private is by connect alone"
        for scope in ("Public", "Policy"):
            await tower.patch(DRTPPublication, JOE, "web", {"spec": {"scope": scope}})
            assert published() == ("True", "ResolvedRefs")
        await decide(tower, "Revoked")
        assert published() == ("False", "RefNotPermitted")
        await decide(tower, "Approved", expires=(tower.clock.now() + timedelta(hours=1)).isoformat())
        assert published() == ("True", "ResolvedRefs")
        await tower.clock.advance(3600)
        await tower.settle()
        assert published() == ("False", "RefNotPermitted")


async def test_a_list_alone_lets_nobody_publish() -> None:
    """Who is on the list connects without asking; for a public name the publisher decides on a subscription."""
    async with running() as tower:
        await tower.apply(publication(scope="Public", access={"allowed": [{"organization": "lantern"}]}))
        assert lets_in(tower)
        assert not catalogue_grants.may_publish(tower.view, EVE, JOE, "web")
        await tower.apply(subscription())
        assert catalogue_grants.may_publish(tower.view, EVE, JOE, "web")
        assert not catalogue_grants.may_publish(tower.view, ZEPHYR, JOE, "web")
