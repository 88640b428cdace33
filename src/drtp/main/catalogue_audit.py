"""The catalogue's lines in the audit log: what people did, and what became of each subscription, on both sides.

Acts come from the API, with who did them. What follows is seen on the subscription itself, whatever brought it about,
the clock included; it is written twice, once for each side, under `organization` and `project` of that side. The other
side is `peer`: its project, never its people.
"""

from __future__ import annotations

from drtp.api.catalogue import DRTPApproval, DRTPPublication, DRTPSubscription, SubscriptionState
from drtp.api.people import User
from drtp.issuers.audit import AuditLog
from drtp.rules import catalogue, catalogue_indexes, conditions
from drtp.store.protocol import Stored
from drtp.store.view import Change, View, kind_key

_PUBLICATION, _SUBSCRIPTION, _APPROVAL = (
    kind_key(model) for model in (DRTPPublication, DRTPSubscription, DRTPApproval)
)
_ACTS = {_PUBLICATION: "publication", _SUBSCRIPTION: "subscription", _APPROVAL: "approval"}
_PAST = {"create": "made", "delete": "deleted", "deletecollection": "deleted"}

_WORDS = {
    SubscriptionState.PENDING: "subscription requested",
    SubscriptionState.APPROVED: "subscription approved",
    SubscriptionState.REJECTED: "subscription rejected",
    SubscriptionState.EXPIRED: "subscription expired",
    SubscriptionState.REVOKED: "subscription revoked",
}


class CatalogueAudit:
    """A witness of the API, and a listener of the View once that has synced: what it finds there is no news."""

    def __init__(self, view: View, audit: AuditLog) -> None:
        catalogue_indexes.declare(view)
        self._view = view
        self._audit = audit
        view.listen(self._changed)

    def wrote(self, user: User, verb: str, stored: Stored) -> None:
        """An act of somebody on an object of the catalogue, in a project of theirs."""
        what = _ACTS.get(stored.key.kind)
        if what is None:
            return
        project = stored.key.namespace
        self._audit.write(
            f"{what} {_PAST.get(verb, 'changed')}",
            organization=catalogue.organization_of(self._view, project),
            project=project,
            name=stored.key.name,
            by=user.name,
            **_told(stored),
        )

    def _changed(self, change: Change) -> None:
        if change.key.kind != _SUBSCRIPTION or not self._view.synced.is_set():
            return
        before, after = (self._read(stored) for stored in (change.before, change.after))
        was, now_is = (_WORDS.get(one.status.state) if one and one.status.state else None for one in (before, after))
        if after is not None and now_is is not None and now_is != was:
            self._both(now_is, after)
        elif before is not None and was is not None and now_is is None:
            self._both("subscription ended", before)

    def _read(self, stored: Stored | None) -> DRTPSubscription | None:
        return None if stored is None else self._view.typed(DRTPSubscription, stored)

    def _both(self, event: str, subscription: DRTPSubscription) -> None:
        publisher, publication = catalogue_indexes.publication_of(subscription)
        subscriber, name = subscription.metadata.namespace, subscription.metadata.name
        approved = conditions.find(subscription.status.conditions, "Approved")
        state = subscription.status.state
        told = {
            "publication": f"{publisher}/{publication}",
            "subscription": f"{subscriber}/{name}",
            "state": state.value if state is not None else "",
            "reason": approved.reason if approved is not None else "",
            "why": approved.message if approved is not None else "",
            "purpose": subscription.spec.purpose or "",
        }
        for project, peer in ((subscriber, publisher), (publisher, subscriber)):
            organization = catalogue.organization_of(self._view, project)
            self._audit.write(event, organization=organization, project=project, peer=peer, **told)


def _told(stored: Stored) -> dict[str, str]:
    """Of an approval the decision, which is what its writing is about."""
    if stored.key.kind != _APPROVAL:
        return {}
    spec = stored.object["spec"]
    subscriber = spec["subscriber"]
    return {
        "publication": f"{stored.key.namespace}/{spec['publicationRef']['name']}",
        "subscription": f"{subscriber['namespace']}/{subscriber['name']}",
        "decision": str(spec.get("decision", "")),
        "reason": str(spec.get("reason") or ""),
    }
