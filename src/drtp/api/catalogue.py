"""The catalogue's kinds: what a publisher offers, what a subscriber asks for, and the publisher's word on each request.

Each side writes in its own project alone. A DRTPApproval lives with the publisher: a controller makes it when somebody
subscribes, and the publisher decides in it. Both sides' status is the same conclusion.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated

from msgspec import Meta

from drtp.api.drtp import API_VERSION, Conditions, Protocol, ServiceAddress
from drtp.api.fields import (
    LIST_SET,
    Count,
    DnsLabel,
    DnsName,
    Int64,
    Port,
    Text63,
    Text128,
    Text253,
    Text1024,
    Text2048,
    rules,
)
from drtp.api.meta import LocalRef, Model, ObjectMeta

CATALOG_GROUP = "catalog.datumapis.com"
"""Of what is computed for each reader. A group of its own, as an aggregated API on Kubernetes needs it."""

_LINE = r"^[^\x00-\x1f\x7f-\x9f]+$"
"""One line without control characters: it is shown in other organisations' terminals."""

Line128 = Annotated[str, Meta(min_length=1, max_length=128, pattern=_LINE)]
Line1024 = Annotated[str, Meta(min_length=1, max_length=1024, pattern=_LINE)]
Paragraph = Annotated[str, Meta(max_length=2048, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]
LabelValue = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")]
"""An organisation, as the label of a namespace can name it."""

OfGeneration = Annotated[Int64 | None, Meta(description="The generation of the spec that this status speaks of.")]


def _fixed(field: str) -> dict[str, object]:
    return rules(("self == oldSelf", f"{field} is immutable"))


def _kept(field: str) -> tuple[str, str]:
    """What the publisher has read and decided on: asking for something else is another subscription."""
    same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    return same, f"{field} is immutable: delete the subscription and ask again"


# ---- the publisher's offer ------------------------------------------------------------------------------------------


class Visibility(Enum):
    """Who sees the listing."""

    SUBSCRIBERS = "Subscribers"
    """Who is on the list, or approved already."""
    ORGANIZATION = "Organization"
    EVERYONE = "Everyone"


class Scope(Enum):
    """How the service is reached."""

    PUBLIC = "Public"
    PRIVATE = "Private"
    POLICY = "Policy"


class AccessMode(Enum):
    """What makes a subscription approved."""

    OPEN = "Open"
    APPROVAL = "Approval"
    ALLOW_LIST = "AllowList"


class AllowedSubscriber(Model, frozen=True):
    """An organisation, or one project of it. Projects are named with theirs: a name may be another's tomorrow."""

    organization: LabelValue
    project: Annotated[DnsLabel | None, Meta(description="This project of it only; all of them where absent.")] = None


class CatalogAccess(Model, frozen=True):
    """Who may use it. Who is in `allowed` needs no subscription and no approval."""

    mode: Annotated[AccessMode, Meta(description="What makes a subscription approved.")] = AccessMode.APPROVAL
    allowed: Annotated[
        tuple[AllowedSubscriber, ...],
        Meta(max_length=256, description="Who finds the service on their side without asking."),
    ] = ()


class DRTPPublicationSpec(Model, frozen=True):
    """What is offered, to whom, and how it is reached."""

    service_ref: Annotated[
        LocalRef,
        Meta(description="The service offered; immutable.", extra_json_schema=_fixed("serviceRef")),
    ]
    title: Annotated[Line128, Meta(description="Its name for people.")]
    summary: Annotated[Paragraph | None, Meta(description="What it is and for whom.")] = None
    tags: Annotated[
        tuple[DnsLabel, ...], Meta(max_length=16, description="Words to find it by.", extra_json_schema=LIST_SET)
    ] = ()
    visibility: Annotated[Visibility, Meta(description="Who sees the listing.")] = Visibility.SUBSCRIBERS
    scope: Annotated[Scope, Meta(description="How it is reached: on the web, by connect only, as policies say.")] = (
        Scope.PRIVATE
    )
    access: Annotated[
        CatalogAccess,
        Meta(
            extra_json_schema=rules(
                (
                    "!has(self.mode) || self.mode != 'Open' || !has(self.allowed) || size(self.allowed) == 0",
                    "a list means nothing where access is Open to all who see it",
                ),
                (
                    "!has(self.mode) || self.mode != 'AllowList' || has(self.allowed)",
                    "AllowList needs the list, which may be empty",
                ),
            )
            | {"default": {}}
        ),
    ] = CatalogAccess()


class DRTPPublicationStatus(Model, frozen=True):
    """Conditions: Accepted, Ready."""

    subscribers: Annotated[Count | None, Meta(description="Subscriptions approved now.")] = None
    pending: Annotated[Count | None, Meta(description="Subscriptions that wait for a decision.")] = None
    observed_generation: OfGeneration = None
    conditions: Conditions = ()


class DRTPPublication(Model, frozen=True, kw_only=True):
    """A service offered in the catalogue."""

    api_version: str = API_VERSION
    kind: str = "DRTPPublication"
    metadata: ObjectMeta
    spec: DRTPPublicationSpec
    status: DRTPPublicationStatus = DRTPPublicationStatus()


# ---- the subscriber's half ------------------------------------------------------------------------------------------


class PublicationRef(Model, frozen=True):
    """A publication, in whichever project."""

    namespace: DnsLabel
    name: DnsName


class SubscriptionLocal(Model, frozen=True):
    """How the subscriber's `connect` presents it."""

    port: Port


class SubscriptionState(Enum):
    """What became of a subscription, the same word on both sides."""

    PENDING = "Pending"
    APPROVED = "Approved"
    REJECTED = "Rejected"
    EXPIRED = "Expired"
    REVOKED = "Revoked"
    NOT_FOUND = "NotFound"
    """There is no such publication, or it is not for this project to see: the two are never told apart."""


class DRTPSubscriptionSpec(Model, frozen=True):
    """What is asked for, and why."""

    publication_ref: Annotated[
        PublicationRef,
        Meta(description="The publication; immutable.", extra_json_schema=_fixed("publicationRef")),
    ]
    purpose: Annotated[Line1024 | None, Meta(description="What for: the publisher reads it.")] = None
    expires: Annotated[datetime | None, Meta(description="When the subscriber needs it no more.")] = None
    local: Annotated[SubscriptionLocal | None, Meta(description="Where `connect` presents it by default.")] = None


class DRTPSubscriptionStatus(Model, frozen=True):
    """Conditions: Approved, Ready. Of the publication, what an approved subscriber needs."""

    state: Annotated[SubscriptionState | None, Meta(description="Where it stands.")] = None
    since: Annotated[datetime | None, Meta(description="Since when it stands so.")] = None
    expires: Annotated[datetime | None, Meta(description="When it ends, the sooner of both sides' words.")] = None
    title: Text128 | None = None
    organization: Annotated[Text63 | None, Meta(description="The publisher's.")] = None
    protocol: Protocol | None = None
    connect: Annotated[Text2048 | None, Meta(description="What to give `datumctl connect`.")] = None
    addresses: Annotated[
        tuple[ServiceAddress, ...], Meta(max_length=16, description="Public addresses, where its scope has some.")
    ] = ()
    observed_generation: OfGeneration = None
    conditions: Conditions = ()


class DRTPSubscription(Model, frozen=True, kw_only=True):
    """A request for a published service; while approved, what lets the project use it."""

    api_version: str = API_VERSION
    kind: str = "DRTPSubscription"
    metadata: ObjectMeta
    spec: Annotated[
        DRTPSubscriptionSpec,
        Meta(extra_json_schema=rules(_kept("purpose"), _kept("expires"))),
    ]
    status: DRTPSubscriptionStatus = DRTPSubscriptionStatus()


# ---- the publisher's word -------------------------------------------------------------------------------------------


class Decision(Enum):
    """The publisher's word on one subscription."""

    PENDING = "Pending"
    APPROVED = "Approved"
    REJECTED = "Rejected"
    REVOKED = "Revoked"


class Subscriber(Model, frozen=True):
    """One subscription in somebody's project. By uid: one that is made again is another."""

    namespace: DnsLabel
    name: DnsName
    uid: Annotated[str, Meta(min_length=1, max_length=63)]


class DRTPApprovalSpec(Model, frozen=True):
    """Whose subscription, and what is decided of it."""

    publication_ref: Annotated[
        LocalRef, Meta(description="The publication; immutable.", extra_json_schema=_fixed("publicationRef"))
    ]
    subscriber: Annotated[
        Subscriber, Meta(description="Who subscribes; immutable.", extra_json_schema=_fixed("subscriber"))
    ]
    decision: Annotated[Decision, Meta(description="The publisher's word.")] = Decision.PENDING
    reason: Annotated[Line1024 | None, Meta(description="Why: the subscriber reads it.")] = None
    expires: Annotated[datetime | None, Meta(description="When an approval ends by itself.")] = None


class DRTPApprovalStatus(Model, frozen=True):
    """What the subscription says. Conditions: Approved, Ready."""

    state: Annotated[SubscriptionState | None, Meta(description="Where the subscription stands.")] = None
    since: Annotated[datetime | None, Meta(description="Since when it stands so.")] = None
    expires: Annotated[datetime | None, Meta(description="When it ends, the sooner of both sides' words.")] = None
    organization: Annotated[Text63 | None, Meta(description="The subscriber's.")] = None
    purpose: Annotated[Text1024 | None, Meta(description="What for, in the subscriber's words.")] = None
    requested: Annotated[datetime | None, Meta(description="When it was asked for.")] = None
    observed_generation: OfGeneration = None
    conditions: Conditions = ()


class DRTPApproval(Model, frozen=True, kw_only=True):
    """The publisher's record of one subscription, made when it is asked for; the publisher decides in it."""

    api_version: str = API_VERSION
    kind: str = "DRTPApproval"
    metadata: ObjectMeta
    spec: DRTPApprovalSpec
    status: DRTPApprovalStatus = DRTPApprovalStatus()


# ---- what a project finds -------------------------------------------------------------------------------------------


class CatalogEntrySpec(Model, frozen=True, kw_only=True):
    """A publication, as far as whoever may see it is told."""

    publication_ref: PublicationRef
    title: Text128
    summary: Text2048 | None = None
    tags: Annotated[tuple[Text63, ...], Meta(max_length=16)] = ()
    organization: Annotated[Text63 | None, Meta(description="The publisher's.")] = None
    protocol: Protocol | None = None
    application_type: Text63 | None = None
    scope: Scope
    access: AccessMode


class CatalogEntryStatus(Model, frozen=True, kw_only=True):
    """Where this project stands. `ready`, `connect` and `addresses` are there where it may use the service."""

    state: Annotated[str, Meta(max_length=63, description="Available, or the state of this project's use.")]
    ready: Annotated[bool | None, Meta(description="Whether the service would answer now.")] = None
    subscription: Annotated[Text253 | None, Meta(description="This project's; none is needed on the list.")] = None
    since: datetime | None = None
    expires: datetime | None = None
    connect: Text2048 | None = None
    address: Text2048 | None = None
    addresses: Annotated[tuple[ServiceAddress, ...], Meta(max_length=16)] = ()


class CatalogEntry(Model, frozen=True, kw_only=True):
    """What the catalogue has for this project: computed for each reader, and kept nowhere."""

    api_version: str = f"{CATALOG_GROUP}/v1alpha"
    kind: str = "CatalogEntry"
    metadata: ObjectMeta
    spec: CatalogEntrySpec
    status: CatalogEntryStatus
