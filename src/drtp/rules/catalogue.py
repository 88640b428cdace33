"""Who sees a publication, who may subscribe, and where a subscription stands at a time.

Pure: everything is asked of `Lookups`, which a followed View is. Indexes keep the price of one answer at what it
concerns, however many subscriptions there are.

Two rules keep tenants apart. Who may not see a publication gets the one answer that an unknown name gets. And what a
publisher has said of one subscription holds for that very object (by uid), inside the publication it was said in (by
owner): names that somebody else gets later inherit nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from drtp.api import core
from drtp.api.catalogue import (
    AccessMode,
    Decision,
    DRTPApproval,
    DRTPPublication,
    DRTPSubscription,
    Scope,
    SubscriptionState,
    Visibility,
)
from drtp.api.core import Namespace
from drtp.api.drtp import DRTPService, ServiceAddress
from drtp.api.reasons import Aspect, Reason
from drtp.rules.catalogue_indexes import Lookups, Overview, offered_in, publication_of
from drtp.rules.conditions import TRUE, Conclusion, find, no, unknown, yes
from drtp.rules.indexes import Name

SUBSCRIPTIONS_MAX = 8
"""Of one project for one publication: each makes an approval in the publisher's project, not theirs to fill.

Turns that run at once may pass it by one each.
"""

SETTLED = (Decision.REJECTED, Decision.REVOKED)
"""Decisions by which a publisher has sent a subscriber away."""

_KNEW = (SubscriptionState.APPROVED, SubscriptionState.EXPIRED, SubscriptionState.REVOKED, SubscriptionState.REJECTED)
"""States in which a subscriber has been told of the publication, and is told nothing new by hearing that it ended."""


# ---- who sees ------------------------------------------------------------------------------------------------------


def organization_of(lookups: Lookups, project: str) -> str:
    """The organisation of a project, "" where it has none or is not there."""
    return core.organization_of(lookups.get(Namespace, "", project))


def approvals_of(lookups: Lookups, publication: DRTPPublication, project: str) -> list[DRTPApproval]:
    """What the publisher has on record of one project, for this very publication."""
    where = (publication.metadata.namespace, publication.metadata.name, project)
    return [one for one in lookups.indexed(DRTPApproval, "project", where) if belongs(one, publication)]


def belongs(approval: DRTPApproval, publication: DRTPPublication) -> bool:
    """Not one that was made for a publication of the same name before."""
    owners = approval.metadata.owner_references
    return not owners or any(owner.uid == publication.metadata.uid for owner in owners)


def approval_of(approvals: Iterable[DRTPApproval], uid: str) -> DRTPApproval | None:
    """The record of one subscription (uid). Of several, which people can make by hand, a refusal counts most."""
    mine = [one for one in approvals if one.spec.subscriber.uid == uid]
    return min(mine, key=lambda one: _WEIGHT[one.spec.decision], default=None)


_WEIGHT = {Decision.REVOKED: 0, Decision.REJECTED: 1, Decision.APPROVED: 2, Decision.PENDING: 3}


def barred(approvals: Iterable[DRTPApproval]) -> bool:
    """Whether the publisher has sent the project away once: then nothing but an approval lets it in again.

    Holds while the record is there, though its subscription be deleted: else whoever is revoked subscribes anew.
    """
    return any(one.spec.decision in SETTLED for one in approvals)


def listed(publication: DRTPPublication, organization: str, project: str) -> bool:
    """Whether the publisher's list names the project, or all of its organisation."""
    access = publication.spec.access
    return (
        bool(organization)
        and access.mode is not AccessMode.OPEN
        and any(one.organization == organization and one.project in {None, project} for one in access.allowed)
    )


def sees(lookups: Lookups, publication: DRTPPublication, project: str) -> bool:
    """Whether a project is told that the publication is there; who sees it may subscribe."""
    publisher = publication.metadata.namespace
    if project == publisher or publication.spec.visibility is Visibility.EVERYONE:
        return True
    organization = organization_of(lookups, project)
    if (
        publication.spec.visibility is Visibility.ORGANIZATION
        and organization
        and organization == organization_of(lookups, publisher)
    ):
        return True
    approvals = approvals_of(lookups, publication, project)
    if listed(publication, organization, project) and not barred(approvals):
        return True
    return any(
        one.spec.decision is Decision.APPROVED and subscription_of(lookups, one, publication) for one in approvals
    )


def subscription_of(lookups: Lookups, approval: DRTPApproval, publication: DRTPPublication) -> DRTPSubscription | None:
    """The subscription that an approval is of, while it is there."""
    subscriber = approval.spec.subscriber
    found = lookups.get(DRTPSubscription, subscriber.namespace, subscriber.name)
    if found is None or found.metadata.uid != subscriber.uid:
        return None
    return found if publication_of(found) == (publication.metadata.namespace, publication.metadata.name) else None


def visible(lookups: Overview, project: str) -> list[DRTPPublication]:
    """Every publication that a project sees, by namespace and name."""
    organization = organization_of(lookups, project)
    found: dict[Name, DRTPPublication] = {}

    def add(publications: Iterable[DRTPPublication]) -> None:
        for one in publications:
            found.setdefault((one.metadata.namespace, one.metadata.name), one)

    add(lookups.list(DRTPPublication, project))
    add(lookups.indexed(DRTPPublication, "audience", ("everyone", "")))
    if organization:
        add(lookups.indexed(DRTPPublication, "audience", ("listed", organization)))
        for namespace in lookups.indexed(Namespace, "organization", organization):
            add(lookups.indexed(DRTPPublication, "audience", ("namespace", namespace.metadata.name)))
    for approval in lookups.indexed(DRTPApproval, "approved", project):
        one = lookups.get(DRTPPublication, *offered_in(approval))
        add(() if one is None else (one,))
    return [found[name] for name in sorted(found) if sees(lookups, found[name], project)]


# ---- where a subscription stands -------------------------------------------------------------------------------------


class Standing(NamedTuple):
    """Where a subscription stands. `until`: when that changes by itself; `approved`: the condition of that name.

    `publication` is None where its project may not know it; `approval` is the publisher's record, if there is one.
    """

    state: SubscriptionState
    approved: Conclusion
    until: datetime | None = None
    publication: DRTPPublication | None = None
    approval: DRTPApproval | None = None


def is_beyond(stands: Standing) -> bool:
    """Whether it is one subscription too many, of which the publisher is not even told."""
    return stands.approved is _TOO_MANY


def standing(lookups: Overview, subscription: DRTPSubscription, now: datetime) -> Standing:
    """Where a subscription stands at `now`, from both sides' words and from what it was told before."""
    namespace, name = publication_of(subscription)
    project = subscription.metadata.namespace
    publication = lookups.get(DRTPPublication, namespace, name)
    approvals = [] if publication is None else approvals_of(lookups, publication, project)
    approval = approval_of(approvals, subscription.metadata.uid)
    decided = approval is not None and approval.spec.decision is not Decision.PENDING
    if publication is None or not (decided or sees(lookups, publication, project)):
        return _out_of_sight(subscription, approval)
    state, told = _judged(lookups, subscription, publication, approval, now)
    lasts = state in {SubscriptionState.APPROVED, SubscriptionState.PENDING}
    return Standing(state, told, ends(subscription, approval) if lasts else None, publication, approval)


_Judgement = tuple[SubscriptionState, Conclusion]


def _judged(
    lookups: Overview,
    subscription: DRTPSubscription,
    publication: DRTPPublication,
    approval: DRTPApproval | None,
    now: datetime,
) -> _Judgement:
    """Of a subscription whose project may know the publication."""
    project = subscription.metadata.namespace
    decision = approval.spec.decision if approval is not None else Decision.PENDING
    if approval is not None and decision in SETTLED:
        return _settled(approval)
    until = ends(subscription, approval)
    if until is not None and until <= now:
        return SubscriptionState.EXPIRED, _expired(subscription, until)
    if approval is None and _beyond(lookups, publication, project):
        return SubscriptionState.REJECTED, _TOO_MANY
    let_in = admitted(lookups, publication, approval, project)
    if let_in is not None:
        return SubscriptionState.APPROVED, let_in
    if publication.spec.access.mode is AccessMode.ALLOW_LIST and not barred(
        approvals_of(lookups, publication, project)
    ):
        was_in = subscription.status.state in {SubscriptionState.APPROVED, SubscriptionState.REVOKED}
        return SubscriptionState.REVOKED if was_in else SubscriptionState.REJECTED, _NOT_LISTED
    return SubscriptionState.PENDING, _PENDING


_PENDING = no(Aspect.APPROVED, Reason.PENDING, "Waiting for the publisher's decision.")
_TOO_MANY = no(
    Aspect.APPROVED,
    Reason.TOO_MANY_SUBSCRIPTIONS,
    f"The publisher has {SUBSCRIPTIONS_MAX} requests of this project on record already; delete one (DRTP-6055).",
)
_NOT_LISTED = no(
    Aspect.APPROVED, Reason.NOT_LISTED, "The publisher's list does not name your organisation or project (DRTP-6054)."
)
_NOT_FOUND = no(
    Aspect.APPROVED,
    Reason.PUBLICATION_NOT_FOUND,
    "There is no such publication, or it is not for your project to see (DRTP-6050).",
)
_WITHDRAWN = no(
    Aspect.APPROVED, Reason.WITHDRAWN, "The publisher has taken the publication, or your sight of it, away (DRTP-6052)."
)


def _out_of_sight(subscription: DRTPSubscription, approval: DRTPApproval | None) -> Standing:
    """Whether the publication is gone or only out of sight shows in nothing."""
    held = subscription.status.state
    found = Standing(SubscriptionState.NOT_FOUND, _NOT_FOUND, approval=approval)
    if held is SubscriptionState.APPROVED:
        return found._replace(state=SubscriptionState.REVOKED, approved=_WITHDRAWN)
    if held in _KNEW:
        return found._replace(state=held, approved=unknown(Aspect.APPROVED, Reason.PUBLICATION_NOT_FOUND))
    return found


def _settled(approval: DRTPApproval) -> _Judgement:
    why = f": {approval.spec.reason}" if approval.spec.reason else "."
    if approval.spec.decision is Decision.REVOKED:
        told = no(Aspect.APPROVED, Reason.REVOKED, f"The publisher has revoked it (DRTP-6052){why}")
        return SubscriptionState.REVOKED, told
    told = no(Aspect.APPROVED, Reason.REJECTED, f"The publisher has rejected it (DRTP-6051){why}")
    return SubscriptionState.REJECTED, told


def ends(subscription: DRTPSubscription, approval: DRTPApproval | None) -> datetime | None:
    """When it ends by itself: the sooner of both sides' words."""
    said = (subscription.spec.expires, approval.spec.expires if approval is not None else None)
    return min((one for one in said if one is not None), default=None)


def _expired(subscription: DRTPSubscription, until: datetime) -> Conclusion:
    whose = "the subscriber's" if subscription.spec.expires == until else "the publisher's"
    return no(Aspect.APPROVED, Reason.EXPIRED, f"It ended at {until.isoformat()}, {whose} date (DRTP-6053).")


def admitted(
    lookups: Lookups, publication: DRTPPublication, approval: DRTPApproval | None, project: str
) -> Conclusion | None:
    """By what a project is let in, the clock apart; None where by nothing."""
    if approval is not None and approval.spec.decision is Decision.APPROVED:
        why = f": {approval.spec.reason}" if approval.spec.reason else "."
        return yes(Aspect.APPROVED, Reason.APPROVED, f"The publisher has approved it{why}")
    if barred(approvals_of(lookups, publication, project)):
        return None
    if publication.spec.access.mode is AccessMode.OPEN:
        return yes(Aspect.APPROVED, Reason.OPEN, "It is open to all who see it.")
    if listed(publication, organization_of(lookups, project), project):
        return yes(Aspect.APPROVED, Reason.LISTED, "The publisher's list names your organisation or project.")
    return None


def _beyond(lookups: Overview, publication: DRTPPublication, project: str) -> bool:
    """Whether the publisher has as many records of the project as may be, refused ones that are kept among them."""
    where = (publication.metadata.namespace, publication.metadata.name, project)
    return lookups.count(DRTPApproval, "project", where) >= SUBSCRIPTIONS_MAX


# ---- health --------------------------------------------------------------------------------------------------------


def accepted(publication: DRTPPublication, service: DRTPService | None) -> Conclusion:
    """Whether there is something to offer."""
    if service is None:
        name = publication.spec.service_ref.name
        return no(Aspect.ACCEPTED, Reason.SERVICE_NOT_FOUND, f"DRTPService {name} does not exist.")
    if publication.spec.scope is Scope.PRIVATE and service.spec.expose is not None:
        what = "It is listed; the service is exposed to the web as well, which scope Private does not undo."
        return yes(Aspect.ACCEPTED, Reason.ALSO_PUBLIC, what)
    return yes(Aspect.ACCEPTED, Reason.ACCEPTED, "It is listed.")


def ready(publication: DRTPPublication, service: DRTPService | None) -> Conclusion:
    """Whether an approved subscriber would be served. Of the service no more is told than one word."""
    if service is None:
        return no(Aspect.READY, Reason.SERVICE_NOT_FOUND, "The service is not there.")
    if publication.spec.scope is Scope.PUBLIC and not service.status.addresses:
        return no(Aspect.READY, Reason.NOT_EXPOSED, "The service has no public address yet.")
    said = find(service.status.conditions, Aspect.READY)
    if said is None or said.status is not TRUE:
        word = said.reason if said is not None else "nothing known yet"
        return no(Aspect.READY, Reason.SERVICE_NOT_READY, f"The service is not ready: {word}.")
    return yes(Aspect.READY, Reason.READY, "The service is ready.")


def not_approved() -> Conclusion:
    """Health of a service that the subscriber may not use."""
    return no(Aspect.READY, Reason.NOT_APPROVED, "The subscription is not approved.")


def service_of(lookups: Lookups, publication: DRTPPublication) -> DRTPService | None:
    """What a publication offers."""
    return lookups.get(DRTPService, publication.metadata.namespace, publication.spec.service_ref.name)


def addresses_of(publication: DRTPPublication, service: DRTPService | None) -> tuple[ServiceAddress, ...]:
    """Public addresses, where the scope has some."""
    return () if service is None or publication.spec.scope is Scope.PRIVATE else service.status.addresses
