"""Kubernetes' own kinds that DRTP keeps: namespaces, services, secrets, accounts, quotas, events, leases and the like.

Typed as far as DRTP reads them; the API door keeps every other member of an object as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from drtp.api.meta import Model, ObjectMeta

ORGANIZATION_LABEL = "datumapis.com/organization"
"""On a Namespace: the organisation it belongs to. The operator's to write."""


class NamespaceSpec(Model, frozen=True, kw_only=True):
    """metav1 finalizers of the namespace itself."""

    finalizers: tuple[str, ...] = ()


class NamespaceStatus(Model, frozen=True, kw_only=True):
    """`phase` is Active or Terminating."""

    phase: str | None = None


class Namespace(Model, frozen=True, kw_only=True):
    """A project: the tenant. Label `datumapis.com/organization` names its organisation."""

    api_version: str = "v1"
    kind: str = "Namespace"
    metadata: ObjectMeta
    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


def organization_of(project: Namespace | None) -> str:
    """The organisation that the project's label names; "" where there is none, or no project."""
    return project.metadata.labels.get(ORGANIZATION_LABEL, "") if project is not None else ""


def home_of(project: Namespace | None, find: Callable[[str], Namespace | None]) -> str:
    """The organisation's own project, whose roles and quotas hold for all of its projects; "" where there is none."""
    organization = organization_of(project)
    return organization if organization and organization_of(find(organization)) == organization else ""


class ServicePort(Model, frozen=True, kw_only=True):
    """One port that a service exposes."""

    name: str | None = None
    port: int
    protocol: str | None = None
    app_protocol: str | None = None
    target_port: int | str | None = None


class ServiceSpec(Model, frozen=True, kw_only=True):
    """A service's ports and how it is reached."""

    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] | None = None
    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)
    type: str | None = None


class Service(Model, frozen=True, kw_only=True):
    """A named set of endpoints inside a cluster."""

    api_version: str = "v1"
    kind: str = "Service"
    metadata: ObjectMeta
    spec: ServiceSpec = ServiceSpec()


class Secret(Model, frozen=True, kw_only=True):
    """Secret data. Values of `data` are base64; `stringData` is write-only and becomes `data`."""

    api_version: str = "v1"
    kind: str = "Secret"
    metadata: ObjectMeta
    type: str | None = None
    immutable: bool | None = None
    data: dict[str, str] = {}


class ConfigMap(Model, frozen=True, kw_only=True):
    """Configuration in plain text."""

    api_version: str = "v1"
    kind: str = "ConfigMap"
    metadata: ObjectMeta
    immutable: bool | None = None
    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}


class ServiceAccount(Model, frozen=True, kw_only=True):
    """A program's identity in its project: a user named `system:serviceaccount:<namespace>:<name>`.

    Its `metadata.uid` tells it from a later one of the same name.
    """

    api_version: str = "v1"
    kind: str = "ServiceAccount"
    metadata: ObjectMeta
    automount_service_account_token: bool | None = None


class ResourceQuotaSpec(Model, frozen=True, kw_only=True):
    """`hard`: what is counted or limited, to the most there may be."""

    hard: dict[str, int | str] = {}


class ResourceQuotaStatus(Model, frozen=True, kw_only=True):
    """The limits in force, and how much of each counted one is used."""

    hard: dict[str, int | str] = {}
    used: dict[str, int | str] = {}


class ResourceQuota(Model, frozen=True, kw_only=True):
    """How much a project may have. Written by the operator alone."""

    api_version: str = "v1"
    kind: str = "ResourceQuota"
    metadata: ObjectMeta
    spec: ResourceQuotaSpec = ResourceQuotaSpec()
    status: ResourceQuotaStatus = ResourceQuotaStatus()


class ObjectReference(Model, frozen=True, kw_only=True):
    """Names any object; `resource_version` is the one an event speaks of."""

    api_version: str | None = None
    kind: str | None = None
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    field_path: str | None = None


class EventSource(Model, frozen=True, kw_only=True):
    """The part that reports an event."""

    component: str | None = None
    host: str | None = None


class Event(Model, frozen=True, kw_only=True):
    """Something that happened to an object; `type` is Normal or Warning, `reason` CamelCase."""

    api_version: str = "v1"
    kind: str = "Event"
    metadata: ObjectMeta
    involved_object: ObjectReference
    reason: str | None = None
    message: str | None = None
    type: str | None = None
    count: int | None = None
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    source: EventSource | None = None
    action: str | None = None
    reporting_component: str | None = None
    reporting_instance: str | None = None
    related: ObjectReference | None = None


class LeaseSpec(Model, frozen=True, kw_only=True):
    """Who holds the lease, since when, and until when it counts."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: datetime | None = None
    renew_time: datetime | None = None
    lease_transitions: int | None = None


class Lease(Model, frozen=True, kw_only=True):
    """A heartbeat or a leader's claim."""

    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"
    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()


class Endpoint(Model, frozen=True, kw_only=True):
    """Addresses of one backend and its conditions (`ready`, `serving`, `terminating`)."""

    addresses: tuple[str, ...]
    conditions: dict[str, bool] = {}
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None


class EndpointPort(Model, frozen=True, kw_only=True):
    """One port that every endpoint of the slice serves."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class EndpointSlice(Model, frozen=True, kw_only=True):
    """Endpoints of a service, for foreign gateways. Tenants never write these."""

    api_version: str = "discovery.k8s.io/v1"
    kind: str = "EndpointSlice"
    metadata: ObjectMeta
    address_type: str
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()
