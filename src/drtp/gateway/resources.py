"""What Envoy is given: one named resource, its content-hash version, and the order in which kinds must travel."""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import NamedTuple

import msgspec

_PREFIX = "type.googleapis.com/"


class Kind(Enum):
    """xDS resource types, in the order additions are sent: whatever is referred to goes first."""

    SECRET = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
    CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
    ENDPOINTS = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
    EXTENSION = _PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
    LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"
    ROUTES = _PREFIX + "envoy.config.route.v3.RouteConfiguration"

    __hash__ = object.__hash__  # members are singletons, and the stock hash runs in Python a million times a change

    @property
    def wildcard(self) -> bool:
        """Envoy takes all of these; of the others it asks for those that are referred to."""
        return self in (Kind.CLUSTER, Kind.LISTENER)


class Ref(NamedTuple):
    """A resource by kind and name."""

    kind: Kind
    name: str


class Resource(msgspec.Struct, frozen=True):
    """An encoded resource. Equal content has an equal version, so that a reconnect costs names and hashes only.

    `endpoints`: of a cluster, the endpoints that must be sent again whenever it is.
    """

    name: str
    version: str
    body: bytes
    endpoints: str = ""


def content_hash(*parts: bytes) -> str:
    """A version. It is taken from what was built, not from protobuf bytes, whose map order differs from run to run."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


Resources = dict[Kind, dict[str, Resource]]
"""Everything Envoy shall hold, by kind and name."""


def no_resources() -> Resources:
    """One empty dict for each kind."""
    return {kind: {} for kind in Kind}
