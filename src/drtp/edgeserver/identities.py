"""The records behind certificates: issued, renewed, locked, revoked. Every change is one conditional write."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta

import msgspec
from cryptography import x509

from drtp.api.feed import EdgeRole, Renewed
from drtp.api.internal import EDGE_IDENTITY, CallerKind, CallerRecord, EdgeIdentity, EdgeIdentitySpec, FormerKey
from drtp.api.meta import Key, ObjectMeta
from drtp.api.spiffe import PeerRole, SpiffeId, parse_uri
from drtp.edgeserver.connectors import is_there
from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority, Issued
from drtp.issuers.certificates import Usage
from drtp.issuers.records import Held, as_object, find
from drtp.issuers.requests import ProvenKey
from drtp.kit.buckets import Buckets
from drtp.kit.clock import Clock
from drtp.kit.errors import Conflict, Refused, Retryable
from drtp.store.protocol import Create, NotFound, Store, Update, Write

GRACE = timedelta(days=7)
"""An edge that was off over a long weekend comes back by itself with its expired certificate's key."""
FORGOTTEN_AFTER = timedelta(days=1)
CALLER_FORGOTTEN_AFTER = timedelta(hours=1)
"""A user's connector is not renewed after its end: it enrols again, as another one."""

_FORGETTABLE = frozenset({EdgeRole.AGENT, EdgeRole.CONNECTOR})

CONNECTORS_MAX = 1_000
"""Of one caller, with a certificate that has not ended: a job that starts anew each minute has 480 in eight hours."""
CHANGES_BURST, CHANGES_PER_S = 20, 1 / 30
"""Writes for what one edge says of itself: a laptop that moves all day changes less, a loop of Hellos more."""

ATTEMPTS = 5
"""Conditional writes that lose a race are judged anew this often; then the caller retries."""


class Identities:
    """What the control plane knows of each edge's certificate."""

    def __init__(self, store: Store, authority: Authority, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._authority = authority
        self._audit = audit
        self._clock = clock
        self._changes = Buckets(clock, burst=CHANGES_BURST, per_s=CHANGES_PER_S)

    async def find(self, uid: str) -> Held[EdgeIdentity] | None:
        """The record of an identity."""
        return await find(self._store, EdgeIdentity, uid)

    def first(self, wanted: EdgeIdentitySpec, key: ProvenKey, held: Held[EdgeIdentity] | None) -> tuple[Write, str]:
        """The write that gives `wanted` (no certificate in it yet) a certificate for `key`; and the identity's uid.

        With `held`: the same edge enrols again. The same key keeps its generation; a new one starts the next, and
        what was locked or revoked is good again, because somebody who may has made a new secret for it. The
        certificates of its keys until now are not: they are on the deny-list until they end.
        """
        name = parse_uri(wanted.uri)
        issued = self._issue(name, wanted, key)
        spec = _with(wanted, issued, key)
        if held is None:
            return Create(as_object(EdgeIdentity(metadata=ObjectMeta(name=name.uid), spec=spec))), name.uid
        before = held.record.spec
        same = before.key_now == key.fingerprint
        spec = msgspec.structs.replace(
            spec,
            generation=before.generation if same else before.generation + 1,
            used_generation=before.used_generation,
            key_before=before.key_before if same else "",
            key_superseded=before.key_superseded if same else before.key_now,
            former_keys=self._former(before, key.fingerprint),
        )
        return Update(held.replaced(spec)), name.uid

    async def renew(self, uid: str, presented: str, key: ProvenKey, generation: int, *, remote: str = "") -> Renewed:
        """The next certificate for the holder of the key `presented` (fingerprint), who says it holds `generation`.

        Asking again with the same new key gives the same certificate: an answer may have been lost.
        Raises: Refused DRTP-2006, -2007 (and locks, where it shows a copied key), -2008; Conflict after lost races.
        """
        for _ in range(ATTEMPTS):
            held = await self._good(uid, presented)
            spec = held.record.spec
            if spec.caller is not None and not await self._still_proven(spec.caller):
                raise Refused("DRTP-2009", "What let this connector in has ended.", "Sign in, and connect again.")
            again = (key.fingerprint, presented, generation) == (spec.key_now, spec.key_before, spec.generation - 1)
            if again and usable(spec, self._clock):
                return self._renewed(spec)
            if not again and (
                (presented, generation) != (spec.key_now, spec.generation) or presented == key.fingerprint
            ):
                await self.lock(uid, f"renewal from generation {generation}, newest is {spec.generation}")
                raise Refused("DRTP-2007")
            following = _with(spec, self._issue(parse_uri(spec.uri), spec, key), key)
            if not again:
                following = msgspec.structs.replace(following, generation=spec.generation + 1, key_before=spec.key_now)
            try:
                await self._store.update(held.replaced(following))
            except Conflict:
                continue
            self._audit.write(
                "certificate renewed",
                project=spec.namespace,
                identity=uid,
                generation=following.generation,
                remote=remote,
                decision="allowed",
            )
            return self._renewed(following)
        raise Conflict("DRTP-1003")

    async def _still_proven(self, caller: CallerRecord) -> bool:
        """Whether what let a connector in holds: a sign-in or token that has not ended, or a service account."""
        return (caller.until is None or self._clock.now() < caller.until) and await is_there(self._store, caller)

    async def caught_up(self, uid: str, presented: str, not_after: datetime, generation: int) -> None:
        """Take over a certificate that this authority gave and this record does not know: the record is older.

        That is so after a restore, for an edge that renewed after the backup. A copied key cannot pass for it: its
        certificate ends earlier than the recorded one, and the authority records each before it gives it away.
        `presented`: the key (fingerprint) of a certificate that verified; `generation`: what its holder says.
        """
        for _ in range(ATTEMPTS):
            held = await self.find(uid)
            if held is None or not _overtaken(held.record.spec, presented, not_after, generation):
                return
            spec = held.record.spec
            following = msgspec.structs.replace(
                spec,
                generation=generation,
                key_now=presented,
                key_before=spec.key_now if generation == spec.generation + 1 else "",
                # It cannot be handed out again: what was presented is the leaf alone.
                certificate_pem="",
                not_after=not_after,
            )
            try:
                await self._store.update(held.replaced(following))
            except Conflict:
                continue
            self._audit.write(
                "certificate of a later life accepted", project=spec.namespace, identity=uid, generation=generation
            )
            return

    async def connected(self, uid: str, presented: str, **seen: str | bool | tuple[str, ...]) -> EdgeIdentitySpec:
        """A feed came with the key `presented`; `seen` are fields of the record to update from the Hello.

        Raises: Refused as `renew`. A key older than one that has connected is a copy, and locks the identity.
        """
        for _ in range(ATTEMPTS):
            held = await self._good(uid, presented)
            spec = held.record.spec
            generation = {spec.key_now: spec.generation, spec.key_before: spec.generation - 1}.get(presented, 0)
            if generation < spec.used_generation or generation == 0:
                await self.lock(uid, f"feed with generation {generation}, {spec.used_generation} was in use")
                raise Refused("DRTP-2007")
            updated = msgspec.structs.replace(spec, used_generation=generation, **seen)
            if updated == spec:
                return spec
            # That a renewed certificate has come into use is no word of the edge's, and comes once with each.
            if updated != msgspec.structs.replace(spec, used_generation=generation):
                self.check_pace(uid)
            try:
                await self._store.update(held.replaced(updated))
            except Conflict:
                continue
            return updated
        raise Conflict("DRTP-1003")

    def check_pace(self, uid: str) -> None:
        """One more write for what an edge says of itself. Raises: Retryable DRTP-2051."""
        if not self._changes.take(uid):
            raise Retryable("DRTP-2051")

    async def check_room(self, caller: CallerRecord, uid: str) -> None:
        """Whether a caller may have one more connector, `uid`. Raises: Refused DRTP-2050."""
        now = self._clock.now()
        live = 0
        for stored in (await self._store.list(EDGE_IDENTITY)).items:
            record = msgspec.json.decode(stored.raw, type=EdgeIdentity)
            spec = record.spec
            theirs = spec.caller is not None and spec.caller.uid == caller.uid and record.metadata.name != uid
            live += theirs and not spec.revoked and spec.not_after is not None and spec.not_after > now
        if live >= CONNECTORS_MAX:
            raise Refused("DRTP-2050", f"{caller.name} has {CONNECTORS_MAX} connectors.")

    async def trusts(self, uid: str, bundle: str) -> None:
        """The edge has the roots of this digest in force."""
        for _ in range(ATTEMPTS):
            held = await self.find(uid)
            if held is None or held.record.spec.bundle == bundle:
                return
            try:
                await self._store.update(held.replaced(msgspec.structs.replace(held.record.spec, bundle=bundle)))
                return
            except Conflict:
                continue
        raise Conflict("DRTP-1003")

    async def is_outdated(self, uid: str) -> bool:
        """Whether its certificate is of a root or an intermediate that is being left."""
        held = await self.find(uid)
        if held is None or denial(held.record.spec) is not None:
            return False
        spec = held.record.spec
        return not self._authority.is_current(Usage(spec.role.value), spec.certificate_pem)

    async def lock(self, uid: str, reason: str) -> None:
        """Nothing this identity presents is accepted until it is enrolled anew."""
        project = await self._deny(uid, reason, locked=True)
        self._audit.write("identity locked", project=project, identity=uid, decision="refused", reason=reason)

    async def revoke(self, uid: str, reason: str, by: str = "control plane") -> None:
        """Withdraw an identity; its tunnels and feed are cut at once."""
        project = await self._deny(uid, reason, revoked=True)
        self._audit.write("identity revoked", project=project, identity=uid, reason=reason, by=by)

    async def collect(self) -> int:
        """Forget agents and connectors that can never come back, and whose deny-list entry nobody needs.

        Gives how many. And the former keys of those that stay, whose certificates have ended.

        POPs and gateways stay: their uids are known to others.
        """
        now = self._clock.now()
        gone = 0
        for stored in (await self._store.list(EDGE_IDENTITY)).items:
            spec = msgspec.json.decode(stored.raw, type=EdgeIdentity).spec
            of_user = spec.caller is not None and spec.caller.kind is CallerKind.USER
            kept = CALLER_FORGOTTEN_AFTER if of_user else GRACE + FORGOTTEN_AFTER
            if spec.role in _FORGETTABLE and spec.not_after is not None and spec.not_after < now - kept:
                with contextlib.suppress(NotFound):
                    await self._store.delete(stored.key)
                    gone += 1
            elif len(left := _unended(spec, self._clock)) < len(spec.former_keys):
                with contextlib.suppress(NotFound, Conflict):
                    await self._store.update(
                        Held(stored, EdgeIdentity).replaced(msgspec.structs.replace(spec, former_keys=left))
                    )
        return gone

    def _former(self, before: EdgeIdentitySpec, key: str) -> tuple[FormerKey, ...]:
        """The keys that an identity leaves behind as `key` becomes its own."""
        left = {one.key: one for one in _unended(before, self._clock)}
        if before.not_after is not None and before.not_after > self._clock.now():
            left |= {one: FormerKey(one, before.not_after) for one in (before.key_now, before.key_before) if one}
        left.pop(key, None)
        return tuple(left.values())

    async def _deny(self, uid: str, reason: str, **how: bool) -> str:
        """Gives the identity's project."""
        for _ in range(ATTEMPTS):
            held = await self.find(uid)
            if held is None:
                return ""
            try:
                await self._store.update(held.replaced(msgspec.structs.replace(held.record.spec, reason=reason, **how)))
                return held.record.spec.namespace
            except Conflict:
                continue
        raise Conflict("DRTP-1003")

    async def _good(self, uid: str, presented: str) -> Held[EdgeIdentity]:
        held = await self.find(uid)
        if held is None:
            raise Refused("DRTP-2008")
        if (code := denial(held.record.spec)) is not None:
            raise Refused(code)
        if presented == held.record.spec.key_superseded:
            raise Refused("DRTP-2006", "This edge has been enrolled again with another key.")
        return held

    def _issue(self, name: SpiffeId, spec: EdgeIdentitySpec, key: ProvenKey) -> Issued:
        return self._authority.issue(name, key.public, hosts_of(name, spec, self._authority))

    def _renewed(self, spec: EdgeIdentitySpec) -> Renewed:
        return Renewed(
            chain_pem=spec.certificate_pem,
            bundle_pem=self._authority.bundle_pem.decode(),
            generation=spec.generation,
        )


def hosts_of(name: SpiffeId, spec: EdgeIdentitySpec, authority: Authority) -> tuple[str, ...]:
    """What an edge is dialled by: a POP by its server's name, and with a service's uid before it for introductions; an
    agent as the end of end-to-end streams.
    """
    match name.role:
        case PeerRole.POP:
            own = f"{spec.edge_name}.tunnel.{authority.suffix}"
            return (own, f"*.{own}")
        case PeerRole.AGENT:
            return (f"{name.uid}.agent.{authority.trust_domain}",)
        case _:
            return ()


def denial(spec: EdgeIdentitySpec) -> str | None:
    """Why an identity is not accepted; None if it is."""
    if spec.revoked:
        return "DRTP-2006"
    return "DRTP-2007" if spec.locked else None


def usable(spec: EdgeIdentitySpec, clock: Clock) -> bool:
    """Whether the recorded certificate can be handed out again."""
    return bool(spec.certificate_pem) and spec.not_after is not None and clock.now() < spec.not_after


def _overtaken(spec: EdgeIdentitySpec, presented: str, not_after: datetime, generation: int) -> bool:
    known = (spec.key_now, spec.key_before, spec.key_superseded)
    newer = generation > spec.generation and spec.not_after is not None and not_after > spec.not_after
    return denial(spec) is None and presented not in known and newer


def _unended(spec: EdgeIdentitySpec, clock: Clock) -> tuple[FormerKey, ...]:
    return tuple(one for one in spec.former_keys if one.until > clock.now())


def identity_key(uid: str) -> Key:
    """Where the record is."""
    return Key(EDGE_IDENTITY, "", uid)


def leaf_of(chain_pem: str) -> x509.Certificate:
    """The first certificate of a chain."""
    return x509.load_pem_x509_certificates(chain_pem.encode())[0]


def _with(spec: EdgeIdentitySpec, issued: Issued, key: ProvenKey) -> EdgeIdentitySpec:
    return msgspec.structs.replace(
        spec, certificate_pem=issued.chain_pem, not_after=issued.not_after, key_now=key.fingerprint
    )
