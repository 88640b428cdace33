"""The messages of the feed: one WebSocket per edge over mutual TLS, JSON text frames, at path `/v1/feed`.

There is no parameter that names a snapshot: the certificate decides what an edge gets. The edge speaks first
(`Hello`); the server answers with a `Snapshot` message, whole or as a delta against the generation the edge holds.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import Enum

import msgspec

from drtp.api.meta import Model
from drtp.api.reports import Registration, Report
from drtp.api.snapshots import Entries, Entry, Generation

PROTOCOL = 1
"""Feed protocol version; a server accepts its own, the one before and the one after."""

HEARTBEAT_INTERVAL_S = 5.0
"""Both ways. Three missed: the other side is gone."""

MESSAGE_BYTES_MAX = 64 << 20
"""A whole snapshot of 10^5 entries fits; nothing sane is larger. Messages from an edge are capped much lower."""


class EdgeRole(Enum):
    """The role part of an edge's SPIFFE URI; it decides which kind of snapshot it gets."""

    AGENT = "agent"
    POP = "pop"
    GATEWAY = "gateway"
    CONNECTOR = "connector"


def digest(entries: Entries) -> str:
    """SHA-256 (hex) of a snapshot's entries, equal on both sides: keys sorted, defaults left out."""
    return hashlib.sha256(msgspec.json.encode(entries, order="deterministic")).hexdigest()


# ---- from the edge -------------------------------------------------------------------------------------------------


class Hello(Model, frozen=True, tag="hello", tag_field="type"):
    """First message. `holds` is the persisted snapshot's generation; `digest` its entries' SHA-256.

    `bundle`: the digest of the roots that the edge trusts (`spiffe.bundle_digest`).
    """

    protocol: int
    registration: Registration
    holds: Generation | None = None
    digest: str = ""
    certificate_generation: int = 0
    bundle: str = ""


class ReportDelta(Model, frozen=True, tag="report", tag_field="type"):
    """`whole`: forget everything before. The first report of a connection is whole."""

    whole: bool
    upsert: dict[str, Report] = {}
    remove: tuple[str, ...] = ()


class Applied(Model, frozen=True, tag="applied", tag_field="type"):
    """A snapshot is in force. `quarantined`: entries this edge could not take, by key, with the reason."""

    generation: Generation
    quarantined: dict[str, str] = {}


class Renew(Model, frozen=True, tag="renew", tag_field="type"):
    """Asks for the next certificate. The CSR's key is new; `generation` is the one in use, and detects a cloned key."""

    csr_pem: str
    generation: int


class Trusting(Model, frozen=True, tag="trusting", tag_field="type"):
    """The roots of this digest are on the edge's disk, and in force at everything it dials and serves."""

    bundle: str


class Heartbeat(Model, frozen=True, tag="heartbeat", tag_field="type"):
    """I am here. Sent by both sides."""


# ---- to the edge ---------------------------------------------------------------------------------------------------


class SnapshotDelta(Model, frozen=True, tag="snapshot", tag_field="type"):
    """Bring the edge to `generation`. `base` None: `upsert` is the whole. Otherwise it applies to exactly `base`."""

    generation: Generation
    base: Generation | None = None
    upsert: dict[str, Entry] = {}
    remove: tuple[str, ...] = ()


class Renewed(Model, frozen=True, tag="renewed", tag_field="type"):
    """The next certificate: leaf first, then intermediates; the trust bundle (roots) beside it."""

    chain_pem: str
    bundle_pem: str
    generation: int


class Trust(Model, frozen=True, tag="trust", tag_field="type"):
    """Trust these roots and no others. `renew_within_s`: and ask for a new certificate, after a random part of it."""

    bundle_pem: str
    renew_within_s: float | None = None


class RenewRefused(Model, frozen=True, tag="renewRefused", tag_field="type"):
    """No certificate. `terminal`: the identity is locked or revoked, do not ask again."""

    code: str
    message: str
    terminal: bool


class Goodbye(Model, frozen=True, tag="goodbye", tag_field="type"):
    """The server closes; come back after a random part of `retry_within_s`. `terminal`: do not come back."""

    code: str
    message: str
    retry_within_s: float = 5.0
    terminal: bool = False


FromEdge = Hello | ReportDelta | Applied | Renew | Trusting | Heartbeat
ToEdge = SnapshotDelta | Renewed | Trust | RenewRefused | Goodbye | Heartbeat


class EnrolRequest(Model, frozen=True):
    """POST `/v1/enrol`, no client certificate. Either `secret`, or an `Authorization: Bearer` user token: with
    `namespace` and `services` for an agent, without them for a connector.
    """

    csr_pem: str
    registration: Registration
    secret: str | None = None
    namespace: str | None = None
    services: tuple[str, ...] = ()


class EnrolResponse(Model, frozen=True):
    """The identity: `uri` is the certificate's SPIFFE URI, `uid` its last part, `generation` 1."""

    chain_pem: str
    bundle_pem: str
    uri: str
    uid: str
    generation: int
    trust_domain: str
    suffix: str
    feed_url: str


class RenewRequest(Model, frozen=True):
    """POST `/v1/renew`, no client certificate: for an edge whose certificate expired while it was off.

    `nonce` comes from GET `/v1/nonce`; `signature` is base64 ECDSA-SHA256 by the expired certificate's key over
    `renewal_proof(nonce, csr_pem, generation)`. The answer is a `Renewed` or a Kubernetes-style error.
    """

    chain_pem: str
    csr_pem: str
    generation: int
    nonce: str
    signature: str


def renewal_proof(nonce: str, csr_pem: str, generation: int) -> bytes:
    """What the old key signs; the first line keeps it from being taken for anything else."""
    return "\n".join(("drtp-renewal-1", nonce, str(generation), csr_pem)).encode()


class SecretRequest(Model, frozen=True):
    """POST `/v1/secrets` with a user token: a one-time secret for a service that the user may change."""

    namespace: str
    service: str
    uses: int = 1
    lifetime_s: int = 1800
    source_cidrs: tuple[str, ...] = ()


class SecretResponse(Model, frozen=True):
    """`secret` is one string that suffices: `drtp_enr_...@host:port#pin`."""

    secret: str
    expires_at: datetime


class Fault(Model, frozen=True):
    """An error of this door's plain HTTP routes."""

    code: str
    message: str
    remedy: str = ""
