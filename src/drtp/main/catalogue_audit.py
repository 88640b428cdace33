"""What became of each subscription, in the audit log of both organisations, whatever brought it about.

It is written twice, once for each side, under `project` and `organization` of that side. The other side is `peer`: its
project, never its people. Who asked and who decided is told to their own side by the API.
"""

from __future__ import annotations

from drtp.api.catalogue import DRTPSubscription, SubscriptionState
from drtp.issuers.audit import AuditLog
from drtp.rules import catalogue, catalogue_indexes, conditions
from drtp.store.protocol import Stored
from drtp.store.view import Change, View, kind_key

_SUBSCRIPTION = kind_key(DRTPSubscription)

_WORDS = {
    SubscriptionState.PENDING: "subscription requested",
    SubscriptionState.APPROVED: "subscription approved",
    SubscriptionState.REJECTED: "subscription rejected",
    SubscriptionState.EXPIRED: "subscription expired",
    SubscriptionState.REVOKED: "subscription revoked",
}


class CatalogueAudit:
    """A listener of the View once that has synced: what it finds there is no news."""

    def __init__(self, view: View, audit: AuditLog) -> None:
        catalogue_indexes.declare(view)
        self._view = view
        self._audit = audit
        view.listen(self._changed)

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
