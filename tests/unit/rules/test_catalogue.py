"""Who sees, who stands where, who may connect: the answers agree with each other in every world that can be made."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from hypothesis import given
from hypothesis import strategies as st

from drtp.api.catalogue import (
    AccessMode,
    AllowedSubscriber,
    CatalogAccess,
    Decision,
    DRTPApproval,
    DRTPApprovalSpec,
    DRTPPublication,
    DRTPPublicationSpec,
    DRTPSubscription,
    DRTPSubscriptionSpec,
    DRTPSubscriptionStatus,
    PublicationRef,
    Subscriber,
    SubscriptionState,
    Visibility,
)
from drtp.api.core import ORGANIZATION_LABEL, Namespace
from drtp.api.meta import LocalRef, Model, ObjectMeta, OwnerReference
from drtp.rules import catalogue, catalogue_grants, catalogue_indexes

M = TypeVar("M", bound=Model)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PUBLISHER, PROJECTS = "joe", ("joe", "quay", "eve", "lamp", "alone")
ORGANIZATIONS = {"joe": "harbour", "quay": "harbour", "eve": "lantern", "lamp": "lantern", "alone": ""}


class Shelf:
    """Lookups by scanning: what a View answers from its indexes."""

    def __init__(self, objects: Iterable[Model]) -> None:
        self._objects = tuple(objects)
        self._indexes: dict[tuple[type[Model], str], Callable[[Any], Iterable[Hashable]]] = {}
        catalogue_indexes.declare(self)

    def add_index(self, model: type[M], index: str, values_of: Callable[[M], Iterable[Hashable]]) -> None:
        self._indexes[model, index] = values_of

    def list(self, model: type[M], namespace: str | None = None) -> Sequence[M]:
        found = (cast("Any", one) for one in self._objects if isinstance(one, model))
        return [one for one in found if namespace in {None, one.metadata.namespace}]

    def get(self, model: type[M], namespace: str, name: str) -> M | None:
        found = self.list(model, namespace)
        return next((one for one in found if cast("Any", one).metadata.name == name), None)

    def indexed(self, model: type[M], index: str, value: Hashable) -> Sequence[M]:
        values_of = self._indexes[model, index]
        return [one for one in self.list(model) if value in tuple(values_of(one))]

    def count(self, model: type[M], index: str, value: Hashable) -> int:
        return len(self.indexed(model, index, value))


def publication(visibility: Visibility, mode: AccessMode, *allowed: AllowedSubscriber) -> DRTPPublication:
    access = CatalogAccess(mode, allowed)
    spec = DRTPPublicationSpec(LocalRef("pg"), "Orders", visibility=visibility, access=access)
    return DRTPPublication(metadata=ObjectMeta(name="pg", namespace=PUBLISHER, uid="u-pg"), spec=spec)


def subscription(
    project: str, uid: str = "", expires: datetime | None = None, state: SubscriptionState | None = None
) -> DRTPSubscription:
    spec = DRTPSubscriptionSpec(PublicationRef(PUBLISHER, "pg"), expires=expires)
    metadata = ObjectMeta(name="pg", namespace=project, uid=uid or f"u-{project}", creation_timestamp=NOW)
    return DRTPSubscription(metadata=metadata, spec=spec, status=DRTPSubscriptionStatus(state=state))


def approval(
    project: str, decision: Decision, uid: str = "", expires: datetime | None = None, number: int = 0
) -> DRTPApproval:
    spec = DRTPApprovalSpec(LocalRef("pg"), Subscriber(project, "pg", uid or f"u-{project}"), decision, expires=expires)
    metadata = ObjectMeta(name=f"pg-{project}-{number}", namespace=PUBLISHER, uid=f"a-{project}-{number}")
    return DRTPApproval(metadata=metadata, spec=spec)


def namespaces() -> list[Namespace]:
    return [
        Namespace(metadata=ObjectMeta(name=name, labels={ORGANIZATION_LABEL: organization} if organization else {}))
        for name, organization in ORGANIZATIONS.items()
    ]


MOMENTS = st.sampled_from([None, NOW - timedelta(1), NOW, NOW + timedelta(1)])
LISTED = st.lists(
    st.builds(
        AllowedSubscriber, st.sampled_from(["harbour", "lantern", "else"]), st.sampled_from([None, "eve", "quay"])
    ),
    max_size=2,
)


@st.composite
def worlds(draw: st.DrawFn) -> Shelf:
    """A publisher, what it says of each project, and what each project has asked for."""
    objects: list[Model] = [*namespaces()]
    if draw(st.integers(0, 9)):
        mode = draw(st.sampled_from(AccessMode))
        allowed = () if mode is AccessMode.OPEN else tuple(draw(LISTED))
        objects.append(publication(draw(st.sampled_from(Visibility)), mode, *allowed))
    for project in PROJECTS:
        if draw(st.booleans()):
            held = draw(st.none() | st.sampled_from(SubscriptionState))
            objects.append(subscription(project, expires=draw(MOMENTS), state=held))
        for number, uid in enumerate(draw(st.lists(st.sampled_from([f"u-{project}", f"old-{project}"]), max_size=3))):
            objects.append(approval(project, draw(st.sampled_from(Decision)), uid, draw(MOMENTS), number))
    return Shelf(objects)


@given(worlds())
def test_one_answer_the_whole_list_and_what_a_project_finds_agree(shelf: Shelf) -> None:
    grants = catalogue_grants.grants(shelf, PUBLISHER, "pg")
    for project in PROJECTS:
        organization = catalogue.organization_of(shelf, project)
        one = catalogue_grants.may_connect(shelf, project, PUBLISHER, "pg", NOW)
        assert (one is not None) is any(grant.holds_for(organization, project, NOW) for grant in grants)
        found = catalogue_grants.reachable(shelf, project, NOW)
        assert [(each.namespace, each.service) for each in found] == ([(PUBLISHER, "pg")] if one else [])


@given(worlds())
def test_without_a_clock_an_end_is_the_controllers_word(shelf: Shelf) -> None:
    grants = catalogue_grants.grants(shelf, PUBLISHER, "pg")
    projects = set(catalogue_grants.projects(shelf, PUBLISHER, "pg"))
    for project in PROJECTS:
        organization = catalogue.organization_of(shelf, project)
        assert (project in projects) is any(grant.holds_for(organization, project, None) for grant in grants)
        for grant in grants:
            if grant.project == project and grant.subscription:
                (mine,) = shelf.list(DRTPSubscription, project)
                assert grant.ended is (mine.status.state is SubscriptionState.EXPIRED)


@given(worlds())
def test_whoever_may_connect_sees_it_and_whoever_sees_it_finds_it(shelf: Shelf) -> None:
    offered = shelf.get(DRTPPublication, PUBLISHER, "pg")
    for project in PROJECTS:
        sees = offered is not None and catalogue.sees(shelf, offered, project)
        assert bool(catalogue.visible(shelf, project)) is sees
        if catalogue_grants.may_connect(shelf, project, PUBLISHER, "pg", NOW) is not None:
            assert sees


@given(worlds())
def test_a_subscription_stands_approved_exactly_where_it_would_let_in(shelf: Shelf) -> None:
    offered = shelf.get(DRTPPublication, PUBLISHER, "pg")
    for mine in shelf.list(DRTPSubscription):
        project = mine.metadata.namespace
        stands = catalogue.standing(shelf, mine, NOW)
        approved = stands.state is SubscriptionState.APPROVED
        grants = catalogue_grants.grants(shelf, PUBLISHER, "pg")
        granted = any(one.subscription and one.holds_for(one.organization, project, NOW) for one in grants)
        # Until the publisher has a record of it nobody is let in by it; the controller's turn makes one.
        assert granted is (approved and stands.approval is not None)
        if stands.until is not None:
            assert stands.until > NOW
        if offered is None or not (catalogue.sees(shelf, offered, project) or stands.approval is not None):
            assert stands.publication is None


@given(worlds(), st.sampled_from(PROJECTS))
def test_a_hidden_publication_stands_as_one_that_is_not_there(shelf: Shelf, project: str) -> None:
    offered = shelf.get(DRTPPublication, PUBLISHER, "pg")
    if offered is None or catalogue.sees(shelf, offered, project):
        return
    held = list(shelf.list(DRTPSubscription, project))
    unknown = Shelf([*namespaces(), *held])
    for mine in held:
        if any(one.spec.subscriber.uid == mine.metadata.uid for one in shelf.list(DRTPApproval)):
            continue  # the publisher has spoken to this very subscription
        here, there = (catalogue.standing(one, mine, NOW) for one in (shelf, unknown))
        assert (here.state, here.approved, here.until) == (there.state, there.approved, there.until)


def test_a_record_for_a_publication_of_before_says_nothing_of_the_present_one() -> None:
    offered = publication(Visibility.EVERYONE, AccessMode.APPROVAL)
    owner = OwnerReference(api_version="datumapis.com/v1alpha", kind="DRTPPublication", name="pg", uid="u-before")
    said = approval("eve", Decision.APPROVED)
    metadata = ObjectMeta(name="pg-1", namespace=PUBLISHER, owner_references=(owner,))
    old = DRTPApproval(metadata=metadata, spec=said.spec)
    for record, admitted in ((said, True), (old, False)):
        shelf = Shelf([*namespaces(), offered, subscription("eve"), record])
        assert (catalogue_grants.may_connect(shelf, "eve", PUBLISHER, "pg", NOW) is not None) is admitted


def test_the_end_is_the_sooner_of_both_sides_dates_and_that_moment_is_out() -> None:
    offered = publication(Visibility.EVERYONE, AccessMode.APPROVAL)
    later = NOW + timedelta(hours=1)
    shelf = Shelf(
        [
            *namespaces(),
            offered,
            subscription("eve", expires=later),
            approval("eve", Decision.APPROVED, expires=later + timedelta(hours=1)),
        ]
    )
    (grant,) = catalogue_grants.grants(shelf, PUBLISHER, "pg")
    assert grant.until == later
    just_before = later - timedelta(microseconds=1)
    assert [grant.holds_for("lantern", "eve", at) for at in (just_before, later)] == [True, False]
    assert catalogue_grants.may_connect(shelf, "eve", PUBLISHER, "pg", later) is None


def test_of_two_records_of_one_subscription_the_refusal_counts() -> None:
    offered = publication(Visibility.EVERYONE, AccessMode.APPROVAL)
    for first, second in ((Decision.APPROVED, Decision.REVOKED), (Decision.REVOKED, Decision.APPROVED)):
        records = [approval("eve", decision, number=number) for number, decision in enumerate((first, second))]
        shelf = Shelf([*namespaces(), offered, subscription("eve"), *records])
        assert catalogue.standing(shelf, subscription("eve"), NOW).state is SubscriptionState.REVOKED
        assert catalogue_grants.may_connect(shelf, "eve", PUBLISHER, "pg", NOW) is None


def test_an_approval_of_a_subscription_that_was_made_anew_shows_nothing_and_lets_nobody_in() -> None:
    offered = publication(Visibility.SUBSCRIBERS, AccessMode.APPROVAL)
    shelf = Shelf([*namespaces(), offered, subscription("eve"), approval("eve", Decision.APPROVED, "u-before")])
    assert not catalogue.sees(shelf, offered, "eve")
    assert catalogue_grants.may_connect(shelf, "eve", PUBLISHER, "pg", NOW) is None
    assert catalogue.standing(shelf, subscription("eve"), NOW).state is SubscriptionState.NOT_FOUND
