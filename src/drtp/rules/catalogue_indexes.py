"""What the catalogue's rules look things up by: one spelling for controllers, projections and the API."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from drtp.api.catalogue import Decision, DRTPApproval, DRTPPublication, DRTPSubscription, SubscriptionState, Visibility
from drtp.api.core import ORGANIZATION_LABEL, Namespace
from drtp.api.drtp import DRTPService
from drtp.api.meta import Model
from drtp.rules.indexes import Name

M = TypeVar("M", bound=Model)

KINDS: tuple[type[Model], ...] = (Namespace, DRTPService, DRTPPublication, DRTPSubscription, DRTPApproval)
"""What the catalogue's answers depend on."""


class Lookups(Protocol):
    """Where objects are found: a View, what a projection reads through, or whatever a test puts in its place."""

    def get(self, model: type[M], namespace: str, name: str) -> M | None:
        """One object."""
        ...

    def indexed(self, model: type[M], index: str, value: Hashable) -> Sequence[M]:
        """Every object for which the index function gave `value`."""
        ...


class Overview(Lookups, Protocol):
    """Lookups that can tell of many: a View."""

    def list(self, model: type[M], namespace: str | None = None) -> Sequence[M]:
        """Every object of a kind, in one namespace or all."""
        ...

    def count(self, model: type[M], index: str, value: Hashable) -> int:
        """How many objects `indexed` would give."""
        ...


class Declares(Protocol):
    """Takes the indexes that `Lookups` answers from."""

    def add_index(self, model: type[M], index: str, values_of: Callable[[M], Iterable[Hashable]]) -> None:
        """Keep objects of `model` findable by what `values_of` gives for each."""
        ...


def declare(view: Declares) -> None:
    """Declare every index of the catalogue."""
    for one in INDEXES:
        view.add_index(*one)


def _organizations(namespace: Namespace) -> Iterator[str]:
    if organization := namespace.metadata.labels.get(ORGANIZATION_LABEL):
        yield organization


def _audience(publication: DRTPPublication) -> Iterator[tuple[str, str]]:
    """Whom it is listed for: everyone, the organisation of its own namespace, organisations by name."""
    if publication.spec.visibility is Visibility.EVERYONE:
        yield ("everyone", "")
    if publication.spec.visibility is Visibility.ORGANIZATION:
        yield ("namespace", publication.metadata.namespace)
    for entry in publication.spec.access.allowed:
        yield ("listed", entry.organization)


def _approved_of(approval: DRTPApproval) -> Iterator[str]:
    if approval.spec.decision is Decision.APPROVED:
        yield approval.spec.subscriber.namespace


def _state_in(approval: DRTPApproval) -> Iterator[tuple[str, str, SubscriptionState]]:
    if approval.status.state is not None:
        yield (*offered_in(approval), approval.status.state)


def _of_service(publication: DRTPPublication) -> Iterator[Name]:
    yield (publication.metadata.namespace, publication.spec.service_ref.name)


def _subscribed(subscription: DRTPSubscription) -> Iterator[Name]:
    yield publication_of(subscription)


def _subscribed_from(subscription: DRTPSubscription) -> Iterator[tuple[str, str, str]]:
    yield (*publication_of(subscription), subscription.metadata.namespace)


def _offered(approval: DRTPApproval) -> Iterator[Name]:
    yield offered_in(approval)


def _subscriber(approval: DRTPApproval) -> Iterator[Name]:
    yield (approval.spec.subscriber.namespace, approval.spec.subscriber.name)


def _offered_to(approval: DRTPApproval) -> Iterator[tuple[str, str, str]]:
    yield (*offered_in(approval), approval.spec.subscriber.namespace)


INDEXES: tuple[tuple[type[Any], str, Callable[[Any], Iterable[Hashable]]], ...] = (
    (Namespace, "organization", _organizations),
    (DRTPPublication, "service", _of_service),
    (DRTPPublication, "audience", _audience),
    (DRTPSubscription, "publication", _subscribed),
    (DRTPSubscription, "from", _subscribed_from),
    (DRTPApproval, "publication", _offered),
    (DRTPApproval, "subscriber", _subscriber),
    (DRTPApproval, "project", _offered_to),
    (DRTPApproval, "approved", _approved_of),
    (DRTPApproval, "state", _state_in),
)
"""Model, name and values of each index."""


def publication_of(subscription: DRTPSubscription) -> Name:
    """The publication that a subscription names."""
    reference = subscription.spec.publication_ref
    return (reference.namespace, reference.name)


def offered_in(approval: DRTPApproval) -> Name:
    """The publication that an approval is for."""
    return (approval.metadata.namespace, approval.spec.publication_ref.name)
