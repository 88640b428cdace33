"""Names and metadata that every object carries, and the key that finds it.

Kubernetes' own shapes (metav1), frozen and typed. A `Key` holds the tenant, so that nothing is ever looked up,
cached or coalesced without it.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from drtp.api.fields import DnsLabel, DnsName, Int64


class Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A value that crosses a process: camelCase on the wire, unknown fields ignored, defaults left out."""


class Key(NamedTuple):
    """Where one object lives. `kind` is `<Kind>.<group>`, or `<Kind>` in core; `namespace` is "" if cluster-scoped."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """`Kind namespace/name`, for logs and messages."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class OwnerReference(Model, frozen=True):
    """The object that this one goes away with."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model, frozen=True):
    """metav1.ObjectMeta, as far as DRTP reads it; the store keeps every other member as it came."""

    name: str = ""
    generate_name: str | None = None
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()


class ConditionStatus(Enum):
    """Three values: nobody has reported is Unknown, never False."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model, frozen=True, omit_defaults=False):
    """One aspect of the state (metav1.Condition). `reason` is stable, `message` a sentence for the owner."""

    type: Annotated[str, Meta(max_length=316)]
    status: ConditionStatus
    reason: Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    message: Annotated[str, Meta(max_length=32768)]
    last_transition_time: datetime
    observed_generation: Int64 = 0


class LocalRef(Model, frozen=True):
    """An object in the same namespace, or a cluster-scoped one, by name."""

    name: DnsName


class NamespacedRef(Model, frozen=True):
    """An object by name; the referring object's namespace where none is given."""

    name: DnsName
    namespace: DnsLabel | None = None
