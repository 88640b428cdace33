"""The catalogue as one project sees it: entries that are computed for each reader, and kept nowhere.

`kubectl get catalogentries -n PROJECT` reads them as it reads everything, and whoever may read in the project may. What
the project may not see is not there, in no form: an entry is looked for among those that are visible to it alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from drtp.api.catalogue import (
    CATALOG_GROUP,
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
from drtp.rules import catalogue, catalogue_grants, catalogue_indexes, conditions
from drtp.rules.catalogue import Standing
from drtp.store.protocol import Listing, NotFound, Select, Stored
from drtp.store.view import View, kind_key

ENTRY = kind_key(CatalogEntry)
AVAILABLE = "Available"
"""The state of what the project sees and has not asked for."""

_HEAD = msgspec.json.encode({"apiVersion": f"{CATALOG_GROUP}/v1alpha", "kind": "CatalogEntry"})[:-1] + b","
"""What the model leaves out, since it is the same in each of a thousand."""

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
        """`view` follows the kinds of `rules.catalogue_indexes`; its indexes are declared here."""
        self._view = view
        self._clock = clock
        catalogue_indexes.declare(view)

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
        return Stored(Key(ENTRY, project, metadata.name), self.revision, _HEAD + msgspec.json.encode(entry)[1:])

    def _status(self, publication: DRTPPublication, project: str) -> CatalogEntryStatus:
        now = self._clock.now()
        service = catalogue.service_of(self._view, publication)
        stands = self._best(publication, project, now)
        grant = catalogue_grants.grant_by(self._view, publication, project, now)
        state = stands[0].state.value if stands is not None else AVAILABLE
        told = CatalogEntryStatus(
            state=state if grant is None else SubscriptionState.APPROVED.value,
            subscription=stands[1].metadata.name if stands is not None else None,
            since=stands[1].status.since if stands is not None else None,
        )
        own = publication.metadata.namespace == project
        if grant is None and not own:
            return told
        addresses = catalogue.addresses_of(publication, service)
        return msgspec.structs.replace(
            told,
            ready=catalogue.ready(publication, service).status is conditions.TRUE,
            expires=grant.until if grant is not None else None,
            connect=f"{publication.metadata.namespace}/{publication.spec.service_ref.name}",
            address=_written(addresses),
            addresses=addresses,
        )

    def _best(
        self, publication: DRTPPublication, project: str, now: datetime
    ) -> tuple[Standing, DRTPSubscription] | None:
        """Of the project's subscriptions on record the one that serves it best, and where it stands."""
        approvals = catalogue.approvals_of(self._view, publication, project)
        mine = (catalogue.subscription_of(self._view, one, publication) for one in approvals)
        stands = [(catalogue.standing(self._view, one, now), one) for one in mine if one is not None]
        return min(stands, key=lambda pair: _rank(pair[0].state), default=None)


def _rank(state: SubscriptionState) -> int:
    return _BEST.index(state) if state in _BEST else len(_BEST)


def _written(addresses: tuple[ServiceAddress, ...]) -> str | None:
    """The first address as people write it."""
    if not addresses:
        return None
    first = addresses[0]
    host = first.hostname or first.ip or ""
    return first.url or (f"{host}:{first.port}" if first.port else host)
