"""The catalogue as one project sees it: entries that are computed for each reader, and kept nowhere.

`kubectl get catalogentries -n PROJECT` reads them as it reads everything, and whoever may read in the project may. What
the project may not see is not there, in no form: an entry is looked for among those that are visible to it alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from drtp.api.catalogue import (
    CatalogEntry,
    CatalogEntrySpec,
    CatalogEntryStatus,
    DRTPPublication,
    DRTPSubscription,
    PublicationRef,
    SubscriptionState,
)
from drtp.api.core import Namespace
from drtp.api.drtp import ServiceAddress
from drtp.api.meta import Key, ObjectMeta
from drtp.apiserver.failures import Failure
from drtp.kit.clock import Clock
from drtp.rules import catalogue, conditions
from drtp.store.protocol import Listing, NotFound, Select, Stored, object_of
from drtp.store.view import View, kind_key

ENTRY = kind_key(CatalogEntry)
AVAILABLE = "Available"
"""The state of what the project sees and has not asked for."""

_BEST = (
    SubscriptionState.APPROVED,
    SubscriptionState.PENDING,
    SubscriptionState.EXPIRED,
    SubscriptionState.REVOKED,
    SubscriptionState.REJECTED,
)
"""Of several subscriptions to one publication the one that serves the project best is told."""


class Catalogue:
    """Reads as a store does: get one, list one project's."""

    def __init__(self, view: View, clock: Clock) -> None:
        """`view` follows `KINDS`; its indexes are declared here."""
        self._view = view
        self._clock = clock
        catalogue.declare(view)

    @property
    def revision(self) -> int:
        """Of the state that entries are computed from."""
        return self._view.revision

    async def get(self, key: Key) -> Stored:
        """One entry, by `<project>.<publication>`. Raises: NotFound, the same for what is hidden and what is not."""
        namespace, _, name = key.name.partition(".")
        publication = self._view.get(DRTPPublication, namespace, name)
        if (
            publication is None
            or not self._lives(key.namespace)
            or not catalogue.sees(self._view, publication, key.namespace)
            or not self._is_offered(publication, key.namespace)
        ):
            raise NotFound(key)
        return self._entry(publication, key.namespace)

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        limit: int = 0,
        after: str | None = None,
        select: Select | None = None,
    ) -> Listing:
        """Every entry of one project; always whole. Raises: Failure 405 without a project."""
        if namespace is None:
            raise Failure(405, "DRTP-1018", "the catalogue is read in one namespace: what there is depends on it")
        entries = list(self._entries(namespace)) if self._lives(namespace) else []
        return Listing([one for one in entries if select is None or select(one)], self.revision, None)

    def _entries(self, project: str) -> Iterator[Stored]:
        for publication in catalogue.visible(self._view, project):
            if self._is_offered(publication, project):
                yield self._entry(publication, project)

    def _lives(self, project: str) -> bool:
        return self._view.get(Namespace, "", project) is not None

    def _is_offered(self, publication: DRTPPublication, project: str) -> bool:
        """Without its service it is nothing but its owner's to mend."""
        own = publication.metadata.namespace == project
        return own or catalogue.service_of(self._view, publication) is not None

    def _entry(self, publication: DRTPPublication, project: str) -> Stored:
        namespace, name = publication.metadata.namespace, publication.metadata.name
        service = catalogue.service_of(self._view, publication)
        spec = CatalogEntrySpec(
            publication_ref=PublicationRef(namespace, name),
            title=publication.spec.title,
            summary=publication.spec.summary,
            tags=publication.spec.tags,
            organization=catalogue.organization_of(self._view, namespace) or None,
            protocol=service.spec.protocol if service is not None else None,
            application_type=service.spec.application_type if service is not None else None,
            scope=publication.spec.scope,
            access=publication.spec.access.mode,
        )
        metadata = ObjectMeta(
            name=f"{namespace}.{name}",
            namespace=project,
            resource_version=str(self.revision),
            creation_timestamp=publication.metadata.creation_timestamp,
        )
        entry = CatalogEntry(metadata=metadata, spec=spec, status=self._status(publication, project))
        raw = msgspec.json.encode(_whole(entry))
        return Stored(Key(ENTRY, project, metadata.name), self.revision, raw)

    def _status(self, publication: DRTPPublication, project: str) -> CatalogEntryStatus:
        namespace, name = publication.metadata.namespace, publication.metadata.name
        now = self._clock.now()
        service = catalogue.service_of(self._view, publication)
        mine = self._view.indexed(DRTPSubscription, "from", (namespace, name, project))
        best = min(
            ((catalogue.standing(self._view, one, now), one) for one in mine),
            key=lambda pair: _rank(pair[0].state),
            default=None,
        )
        state = best[0].state.value if best is not None else AVAILABLE
        grant = catalogue.grant_by(self._view, publication, project, now)
        if grant is not None:
            state = SubscriptionState.APPROVED.value
        addresses = catalogue.addresses_of(publication, service) if grant is not None else ()
        health = catalogue.ready(publication, service)
        return CatalogEntryStatus(
            state=state,
            ready=health.status is conditions.TRUE,
            subscription=best[1].metadata.name if best is not None else None,
            since=best[1].status.since if best is not None else None,
            expires=grant.until if grant is not None else None,
            connect=f"{namespace}/{publication.spec.service_ref.name}" if grant is not None else None,
            address=_written(addresses),
            addresses=addresses,
        )


def _rank(state: SubscriptionState) -> int:
    return _BEST.index(state) if state in _BEST else len(_BEST)


def _whole(entry: CatalogEntry) -> dict[str, Any]:
    """As JSON, with the booleans that are false: a column shows them."""
    plain = object_of(entry)
    plain["status"].setdefault("ready", False)
    return plain


def _written(addresses: tuple[ServiceAddress, ...]) -> str | None:
    """The first address as people write it."""
    if not addresses:
        return None
    first = addresses[0]
    host = first.hostname or first.ip or ""
    return first.url or (f"{host}:{first.port}" if first.port else host)
