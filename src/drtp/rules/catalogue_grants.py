"""Who may connect to a service because of the catalogue: by the publisher's list, or by a subscription that is let in.

Read from what people have written, so that nothing is open because a conclusion is late. An end by the clock is in the
grant; what is computed without a clock takes the controller's word that it has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from drtp.api.catalogue import (
    AccessMode,
    AllowedSubscriber,
    Decision,
    DRTPApproval,
    DRTPPublication,
    Scope,
    SubscriptionState,
)
from drtp.api.core import Namespace
from drtp.api.drtp import GROUP
from drtp.api.people import SYSTEM_MASTERS, User
from drtp.rules import permissions
from drtp.rules.catalogue import (
    SETTLED,
    admitted,
    approval_of,
    approvals_of,
    barred,
    belongs,
    ends,
    organization_of,
    sees,
    subscription_of,
    visible,
)
from drtp.rules.catalogue_indexes import Lookups, Overview
from drtp.rules.indexes import Name


class Grant(NamedTuple):
    """What lets callers of a project ("": of every one of the organisation but `but`) connect, up to `until`.

    `subscription` is its name in the project, "" where the publisher's list lets in. `ended`: a controller has seen
    `until` come.
    """

    publication: Name
    organization: str
    project: str
    until: datetime | None = None
    but: frozenset[str] = frozenset()
    subscription: str = ""
    ended: bool = False

    def holds_for(self, organization: str, project: str, now: datetime | None) -> bool:
        """Whether it lets in a caller of this project now; without a clock, as far as a controller has looked."""
        if self.ended if now is None else self.until is not None and self.until <= now:
            return False
        if self.project:
            return (self.organization, self.project) == (organization, project)
        return bool(organization) and self.organization == organization and project not in self.but


def grants(lookups: Lookups, namespace: str, service: str) -> tuple[Grant, ...]:
    """Whom the catalogue lets connect to a service, whatever the time: for snapshots, which edges hold to the clock."""
    found: list[Grant] = []
    for publication in lookups.indexed(DRTPPublication, "service", (namespace, service)):
        name = (namespace, publication.metadata.name)
        approvals = [one for one in lookups.indexed(DRTPApproval, "publication", name) if belongs(one, publication)]
        out = frozenset(one.spec.subscriber.namespace for one in approvals if one.spec.decision in SETTLED)
        found += _of_list(publication, out)
        granted = (_of_approval(lookups, publication, one) for one in approvals)
        found += [grant for grant in granted if grant is not None]
    return tuple(found)


def may_connect(lookups: Lookups, project: str, namespace: str, service: str, now: datetime) -> Grant | None:
    """What lets callers of `project` connect to a service now; None where the catalogue does not."""
    found = lookups.indexed(DRTPPublication, "service", (namespace, service))
    granted = (grant_by(lookups, publication, project, now) for publication in found)
    return next((grant for grant in granted if grant is not None), None)


def grant_by(lookups: Lookups, publication: DRTPPublication, project: str, now: datetime) -> Grant | None:
    """What lets callers of `project` connect by this publication now."""
    approvals = approvals_of(lookups, publication, project)
    out = frozenset({project}) if barred(approvals) else frozenset[str]()
    granted = (_of_approval(lookups, publication, one) for one in approvals)
    candidates = [*_of_list(publication, out), *(grant for grant in granted if grant is not None)]
    organization = organization_of(lookups, project)
    return next((one for one in candidates if one.holds_for(organization, project, now)), None)


def _of_list(publication: DRTPPublication, out: frozenset[str]) -> list[Grant]:
    access = publication.spec.access
    entries: Sequence[AllowedSubscriber] = () if access.mode is AccessMode.OPEN else access.allowed
    name = (publication.metadata.namespace, publication.metadata.name)
    return [Grant(name, one.organization, one.project or "", None, out) for one in entries if one.project not in out]


def _of_approval(lookups: Lookups, publication: DRTPPublication, approval: DRTPApproval) -> Grant | None:
    """The grant of a subscription that is let in, its end in `until`: both sides' objects have to be there."""
    subscription = subscription_of(lookups, approval, publication)
    if subscription is None or subscription.metadata.deletion_timestamp or approval.spec.decision in SETTLED:
        return None
    project = subscription.metadata.namespace
    counts = approval_of(approvals_of(lookups, publication, project), subscription.metadata.uid)
    if counts is None or counts.metadata.uid != approval.metadata.uid:
        return None
    decided = approval.spec.decision is Decision.APPROVED
    if not decided and not sees(lookups, publication, project):
        return None
    if admitted(lookups, publication, approval, project) is None:
        return None
    name = (publication.metadata.namespace, publication.metadata.name)
    return Grant(
        name,
        organization_of(lookups, project),
        project,
        ends(subscription, approval),
        subscription=subscription.metadata.name,
        ended=subscription.status.state is SubscriptionState.EXPIRED,
    )


def projects(lookups: Lookups, namespace: str, service: str) -> dict[str, datetime | None]:
    """Projects whose callers the catalogue lets connect to a service, and until when: None for no end.

    An end that a controller has seen come is left out; for those to come there is a clock at the edges.
    """
    found: dict[str, datetime | None] = {}
    for grant in grants(lookups, namespace, service):
        if grant.ended:
            continue
        members = lookups.indexed(Namespace, "organization", grant.organization) if not grant.project else ()
        for project in (grant.project,) if grant.project else [one.metadata.name for one in members]:
            organization = organization_of(lookups, project)
            if grant.holds_for(organization, project, None):
                found[project] = later(found[project], grant.until) if project in found else grant.until
    return found


def may_publish(lookups: Lookups, project: str, namespace: str, service: str) -> bool:
    """Whether routes of `project` may lead to a service: by a subscription to what is offered for more than connect.

    As `projects`, it takes a controller's word that an end has come.
    """
    organization = organization_of(lookups, project)
    for publication in lookups.indexed(DRTPPublication, "service", (namespace, service)):
        approvals = approvals_of(lookups, publication, project) if publication.spec.scope is not Scope.PRIVATE else ()
        granted = (_of_approval(lookups, publication, one) for one in approvals)
        if any(grant is not None and grant.holds_for(organization, project, None) for grant in granted):
            return True
    return False


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    """The later of two ends; None is never."""
    return None if one is None or other is None else max(one, other)


USE = ("connect", "drtpsubscriptions", "connect")
"""Verb, resource and subresource: what a role gives, in the subscriber's project, to who may use its subscriptions."""


def projects_of(let_in: Iterable[str], roles: permissions.Grants, user: User) -> Iterator[str]:
    """Of projects that are let in, those as whose caller `user` may connect.

    `user` may use subscriptions there by a role, and is not narrowed to other projects.
    """
    user = user._replace(groups=tuple(group for group in user.groups if group != SYSTEM_MASTERS))
    verb, resource, subresource = USE
    for project in let_in:
        wanted = permissions.Wanted(verb, GROUP, resource, subresource, project, "")
        rules = permissions.rules_for(user, project, roles) if not user.within or project in user.within else ()
        if any(permissions.permits(rule, wanted) for rule in rules):
            yield project


class Reachable(NamedTuple):
    """A service that a project may connect to. `subscription` is "" where the publisher's list lets it in."""

    namespace: str
    service: str
    publication: DRTPPublication
    subscription: str
    until: datetime | None


def reachable(lookups: Overview, project: str, now: datetime) -> tuple[Reachable, ...]:
    """Every service that the catalogue lets a project connect to now, by publication."""
    found: list[Reachable] = []
    for publication in visible(lookups, project):
        grant = grant_by(lookups, publication, project, now)
        if grant is not None:
            where = (publication.metadata.namespace, publication.spec.service_ref.name)
            found.append(Reachable(*where, publication, grant.subscription, grant.until))
    return tuple(found)
