"""The plain routes: enrol, renew what has expired, mint a secret, fetch the roots. Small bodies, few attempts."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets as randomness
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import Counter

from drtp.api import drtp
from drtp.api.feed import (
    EdgeRole,
    EnrolRequest,
    EnrolResponse,
    RenewRequest,
    SecretRequest,
    SecretResponse,
    renewal_proof,
)
from drtp.api.internal import Bound
from drtp.api.meta import Key
from drtp.api.people import Authenticator, Authoriser
from drtp.api.spiffe import PeerRole, SpiffeId
from drtp.edgeserver.answers import answer, bearer_of, fault, key_of, leaf_of, plain_fault, remote_of
from drtp.edgeserver.enrolment import Enrolled, Enrolment
from drtp.edgeserver.identities import GRACE, Identities
from drtp.edgeserver.registrations import SERVICE
from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority
from drtp.issuers.digests import Pepper
from drtp.issuers.requests import proven_key
from drtp.issuers.secrets import EnrolmentSecrets
from drtp.kit.buckets import AddressBuckets
from drtp.kit.clock import Clock
from drtp.kit.errors import DrtpError, Invalid, Refused
from drtp.kit.observe import REGISTRY, logger
from drtp.store.protocol import Store

log = logger("edgeserver")

_ANSWERS = Counter(
    "drtp_edge_answers_total", "Answers of the edge door's plain routes.", ["route", "status"], registry=REGISTRY
)

BODY_BYTES_MAX = 64 << 10
BODY_TIMEOUT_S = 10.0
NONCE_LIFETIME_S = 120
_DER = serialization.Encoding.DER

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """Handlers; `advertised` gives the host:port that edges are to use."""

    def __init__(
        self,
        store: Store,
        authority: Authority,
        enrolment: Enrolment,
        identities: Identities,
        secrets: EnrolmentSecrets,
        *,
        authenticator: Authenticator,
        authoriser: Authoriser,
        audit: AuditLog,
        attempts: AddressBuckets,
        advertised: Callable[[], str],
        clock: Clock,
    ) -> None:
        self._store = store
        self._authority = authority
        self._enrolment = enrolment
        self._identities = identities
        self._secrets = secrets
        self._authenticator = authenticator
        self._authoriser = authoriser
        self._audit = audit
        self._attempts = attempts
        self._advertised = advertised
        self._clock = clock
        self._nonces = Pepper(randomness.token_bytes(32))

    def add_to(self, app: web.Application) -> None:
        """Serve them."""
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/v1/bundle", self._bundle)
        app.router.add_get("/v1/nonce", self._nonce)
        app.router.add_post("/v1/enrol", self._enrol)
        app.router.add_post("/v1/renew", self._renew)
        app.router.add_post("/v1/secrets", self._mint)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _bundle(self, _request: web.Request) -> web.Response:
        """The roots: public, and worth nothing until compared with a pin or a root that is known."""
        return web.Response(body=self._authority.public_bundle_pem, content_type="application/x-pem-file")

    async def _nonce(self, _request: web.Request) -> web.Response:
        """Proof of freshness that we need not remember."""
        expiry = int(self._clock.now().timestamp()) + NONCE_LIFETIME_S
        text = f"{expiry}.{randomness.token_urlsafe(12)}"
        return web.Response(text=f"{text}.{self._nonces.digest(text)}")

    async def _enrol(self, request: web.Request) -> web.Response:
        """One answer for every failure that a stranger could cause: 403 DRTP-2001."""
        remote = remote_of(request)
        if not self._attempts.take(remote):
            return plain_fault("DRTP-2003", 429)
        try:
            wanted = msgspec.json.decode(await _body(request), type=EnrolRequest)
            if wanted.secret is not None:
                return self._given(await self._enrolment.by_secret(wanted, remote))
        except (Refused, Invalid, msgspec.DecodeError, ValueError) as error:
            if isinstance(error, Refused) and error.code in {"DRTP-2024", "DRTP-2050"}:
                raise  # whoever holds a good secret is no stranger, and should know
            reason = getattr(error, "what", None) or type(error).__name__
            log.info("enrolment refused", remote=remote, reason=reason)
            self._audit.write_paced("enrolment refused", remote=remote, decision="refused", reason=reason)
            return plain_fault("DRTP-2001", 403)
        token = bearer_of(request)
        user = await self._authenticator.authenticate(token, None, remote) if token else None
        if user is None:
            return plain_fault("DRTP-2004", 401)
        try:
            return self._given(await self._enrolment.by_user(wanted, user, remote))
        except Refused as error:
            by = f"user {user.uid or user.name}"
            self._audit.write_paced(
                "enrolment refused", source=by, by=by, remote=remote, decision="refused", reason=error.code
            )
            raise

    def _given(self, enrolled: Enrolled) -> web.Response:
        spec = enrolled.spec
        return answer(
            EnrolResponse(
                chain_pem=spec.certificate_pem,
                bundle_pem=self._authority.bundle_pem.decode(),
                uri=spec.uri,
                uid=enrolled.uid,
                generation=spec.generation,
                trust_domain=self._authority.trust_domain,
                suffix=self._authority.suffix,
                feed_url=f"https://{self._advertised()}/v1/feed",
            )
        )

    async def _renew(self, request: web.Request) -> web.Response:
        """Within the grace period; possession of the expired certificate's key is proven by a signature."""
        remote = remote_of(request)
        if not self._attempts.take(remote):
            return plain_fault("DRTP-2003", 429)
        try:
            wanted = msgspec.json.decode(await _body(request), type=RenewRequest)
            leaf, name, on_record = await self._expired_holder(wanted)
        except (Refused, msgspec.DecodeError, ValueError, UnsupportedAlgorithm) as error:
            reason = getattr(error, "what", None) or type(error).__name__
            log.info("late renewal refused", remote=remote, reason=reason)
            self._audit.write_paced("renewal refused", remote=remote, decision="refused", reason=reason)
            return plain_fault("DRTP-2001", 403)
        # A user's connector comes back by a login, what was off over a weekend and has nobody to log in by its old key.
        of_user = name.role is PeerRole.CONNECTOR and not name.project
        if of_user or self._clock.now() - leaf.not_valid_after_utc > GRACE:
            reason = "expired for longer than the grace"
            self._audit.write_paced(
                "renewal refused", source=name.uid, identity=name.uid, remote=remote, decision="refused", reason=reason
            )
            return plain_fault("DRTP-2009", 403)
        uid = name.uid
        key = proven_key(wanted.csr_pem)
        if not on_record:
            await self._identities.caught_up(uid, key_of(leaf), leaf.not_valid_after_utc, wanted.generation)
        return answer(await self._identities.renew(uid, key_of(leaf), key, wanted.generation, remote=remote))

    async def _expired_holder(self, wanted: RenewRequest) -> tuple[x509.Certificate, SpiffeId, bool]:
        """The leaf, its name, and whether its key is on record for that name.

        Nonce, signature and chain (at its last valid moment) hold then. Raises: Refused.
        """
        text, _, seal = wanted.nonce.rpartition(".")
        if not self._nonces.fits(text, seal) or int(text.partition(".")[0]) < self._clock.now().timestamp():
            raise Refused("DRTP-2001", "stale nonce")
        chain = x509.load_pem_x509_certificates(wanted.chain_pem.encode())
        public = chain[0].public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise Refused("DRTP-2011")
        try:
            proof = base64.b64decode(wanted.signature, validate=True)
            message = renewal_proof(wanted.nonce, wanted.csr_pem, wanted.generation)
            public.verify(proof, message, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, binascii.Error):
            raise Refused("DRTP-2001", "no proof of possession") from None
        ending = chain[0].not_valid_after_utc - timedelta(seconds=1)
        try:
            return chain[0], self._authority.verify_edge(chain, ending), False
        except Refused:
            if not self._authority.abandons:
                raise
            name = self._authority.verify_abandoned(chain, ending)
        held = await self._identities.find(name.uid)
        if held is None or held.record.spec.key_now != key_of(chain[0]):
            raise Refused("DRTP-2001", "under a root that was rolled back, with a key that is not on record")
        return chain[0], name, True

    async def _mint(self, request: web.Request) -> web.Response:
        """A one-time secret for a service that the user may change; authorised before the service is looked up."""
        remote = remote_of(request)
        if not self._attempts.take(remote):
            return plain_fault("DRTP-2003", 429)
        leaf = leaf_of(request)
        user = await self._authenticator.authenticate(
            bearer_of(request), leaf.public_bytes(_DER) if leaf else None, remote
        )
        if user is None:
            return plain_fault("DRTP-2004", 401)
        try:
            wanted = msgspec.json.decode(await _body(request), type=SecretRequest)
        except msgspec.DecodeError as error:
            raise Invalid("DRTP-2020", f"The request cannot be read: {error}") from None
        allowed = self._authoriser.decide(
            user, "update", drtp.GROUP, "drtpservices", "", wanted.namespace, wanted.service
        )
        if not allowed.allowed:
            raise Refused("DRTP-2005")
        secret, expires_at = await mint_service_secret(
            self._store, self._secrets, wanted, created_by=f"user {user.uid or user.name}"
        )
        joined = f"{secret}@{self._advertised()}#{self._authority.pin}"
        return answer(SecretResponse(secret=joined, expires_at=expires_at))


@web.middleware
async def faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error of a route as one `Fault`; what we did not foresee shows nothing of itself.

    One request for each connection, whatever the caller does: a keep-alive would be a second chance to be slow.
    """
    response = await _answered(request, handler)
    if not response.prepared:
        response.force_close()
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "other"
        _ANSWERS.labels(route, str(response.status)).inc()
    return response


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except DrtpError as error:
        return fault(error)
    except web.HTTPRequestEntityTooLarge:
        return plain_fault("DRTP-2016", 413)
    except TimeoutError:
        return plain_fault("DRTP-2001", 408)
    except web.HTTPException as refusal:
        refusal.force_close()
        raise


async def mint_service_secret(
    store: Store, secrets: EnrolmentSecrets, wanted: SecretRequest, *, created_by: str
) -> tuple[str, datetime]:
    """A secret for a service that exists, and when it expires. Raises: store NotFound, Invalid.

    The caller has been authorised, and makes the one string of it: `<secret>@<host>:<port>#<pin>`.
    """
    service = await store.get(Key(SERVICE, wanted.namespace, wanted.service))
    minted = await secrets.mint(
        EdgeRole.AGENT,
        Bound(kind=SERVICE, name=wanted.service, namespace=wanted.namespace, uid=service.uid),
        uses_max=wanted.uses,
        lifetime_s=wanted.lifetime_s,
        source_cidrs=wanted.source_cidrs,
        created_by=created_by,
    )
    return minted.secret.reveal(), minted.expires_at


async def _body(request: web.Request) -> bytes:
    """The whole body, capped before it is buffered (GHSA-q8g9-jc4c-jp6q, GHSA-j952-6x8x-jmj6), and in time."""
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, request.content_length or 0)
    async with asyncio.timeout(BODY_TIMEOUT_S):
        return await request.read()
