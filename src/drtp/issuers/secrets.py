"""One-time enrolment secrets: made, checked, and consumed by one conditional write, durable before any answer."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from drtp.api.credentials import ENROLMENT_PREFIX, read
from drtp.api.feed import EdgeRole
from drtp.api.internal import ENROLMENT_SECRET, Bound, EnrolmentSecret, EnrolmentSecretSpec, SecretUse
from drtp.api.meta import Key, ObjectMeta
from drtp.issuers.audit import AuditLog
from drtp.issuers.digests import Pepper, new_credential
from drtp.issuers.records import Held, as_object, find
from drtp.kit.clock import Clock
from drtp.kit.errors import Conflict, Invalid, NotFound, Refused
from drtp.kit.secret import Secret
from drtp.store.protocol import AlreadyExists, Create, Delete, Object, Store, Write, key_of

LIFETIME_S = 30 * 60
LIFETIME_MAX_S = 24 * 3600
USES_MAX = 1000
KEPT_ANNOTATION = "datumapis.com/enrolment-secret"
"""On a Secret that holds a one-time secret: its id."""

REPLAY_RECORDED_EVERY = timedelta(seconds=10)
"""A thief who keeps trying costs one write in this time, not one each."""


@dataclass(frozen=True, slots=True)
class Minted:
    """A new secret, shown once. `id` may be logged."""

    id: str
    secret: Secret[str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Admission:
    """A checked secret. `again`: the identity uid that this very key got before; then nothing is consumed."""

    held: Held[EnrolmentSecret]
    again: str = ""

    @property
    def spec(self) -> EnrolmentSecretSpec:
        """What the secret is good for."""
        return self.held.record.spec


class EnrolmentSecrets:
    """The one place that knows how secrets are digested and counted."""

    def __init__(self, store: Store, pepper: Pepper, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._pepper = pepper
        self._audit = audit
        self._clock = clock

    async def mint(
        self,
        role: EdgeRole,
        bound: Bound,
        *,
        uses_max: int = 1,
        lifetime_s: int = LIFETIME_S,
        source_cidrs: Sequence[str] = (),
        created_by: str = "",
        keep: Callable[[Minted], Object] | None = None,
    ) -> Minted:
        """Make a secret for one service, one POP or one gateway. Raises: Invalid; AlreadyExists for what is kept.

        `keep` gives a Secret that holds it in the service's project, made in the same transaction. It goes when the
        secret is spent or has expired.
        """
        if not 1 <= uses_max <= USES_MAX:
            raise Invalid("DRTP-2020", f"A secret can have 1 to {USES_MAX} uses.")
        if not 1 <= lifetime_s <= LIFETIME_MAX_S:
            raise Invalid("DRTP-2020", f"A secret can last 1 to {LIFETIME_MAX_S} seconds.")
        name, secret = new_credential(ENROLMENT_PREFIX)
        expires_at = self._clock.now() + timedelta(seconds=lifetime_s)
        minted = Minted(name, secret, expires_at)
        kept = keep(minted) if keep is not None else None
        spec = EnrolmentSecretSpec(
            digest=self._pepper.digest(secret.reveal()),
            role=role,
            bound=bound,
            expires_at=expires_at,
            uses_max=uses_max,
            source_cidrs=tuple(str(_network(cidr)) for cidr in source_cidrs),
            created_by=created_by,
            kept_in=key_of(kept).name if kept is not None else "",
        )
        record = as_object(EnrolmentSecret(metadata=ObjectMeta(name=name), spec=spec))
        await self._store.apply([Create(one) for one in (kept, record) if one is not None])
        self._audit.write(
            "secret minted", project=bound.namespace, secret=name, role=role.value, bound=bound.name, by=created_by
        )
        return minted

    async def admit(self, text: str, public_key: str, remote: str) -> Admission:
        """Check a secret presented with a proven key.

        Raises: Refused DRTP-2001 for everything a guesser could cause, alike; Conflict DRTP-2002 for a good secret
        whose uses are spent by other keys (recorded: somebody else has it).
        """
        credential = read(text, ENROLMENT_PREFIX)
        held = await find(self._store, EnrolmentSecret, credential.id) if credential else None
        # The digest is computed in every case, so that time does not tell which ids exist.
        if not self._pepper.fits(text, held.record.spec.digest if held else "0" * 64) or held is None:
            why = "forged, or older than a restore" if held else "unknown"
            raise _refused(f"secret {credential.id if credential else ''} is {why}")
        spec = held.record.spec
        if self._clock.now() >= spec.expires_at:
            raise _refused(f"secret {held.record.metadata.name} has expired")
        if spec.source_cidrs and not _within(remote, spec.source_cidrs):
            raise _refused(f"secret {held.record.metadata.name} is not for {remote}")
        for use in spec.uses:
            if use.public_key == public_key:
                return Admission(held, again=use.identity)
        if len(spec.uses) >= spec.uses_max:
            await self._replayed(held, remote)
            raise Conflict("DRTP-2002")
        return Admission(held)

    def consumed(self, admission: Admission, public_key: str, identity: str, remote: str) -> Object:
        """The write that spends one use; it fails with Conflict if the secret has changed since it was checked."""
        spec = admission.spec
        use = SecretUse(public_key=public_key, identity=identity, at=self._clock.now(), remote=remote)
        return admission.held.replaced(msgspec.structs.replace(spec, uses=(*spec.uses, use)))

    async def spent_with(self, admission: Admission) -> list[Write]:
        """What goes with the use that is about to be spent: with the last one the Secret that holds the string."""
        spec = admission.spec
        return await self.unkept(admission.held.record) if len(spec.uses) + 1 >= spec.uses_max else []

    async def unkept(self, record: EnrolmentSecret) -> list[Write]:
        """The removal of the Secret that holds this one, as far as it is there and still does."""
        if not record.spec.kept_in:
            return []
        try:
            held = await self._store.get(Key("Secret", record.spec.bound.namespace, record.spec.kept_in))
        except NotFound:
            return []
        annotations: dict[str, str] = held.metadata.get("annotations") or {}
        ours = annotations.get(KEPT_ANNOTATION) == record.metadata.name
        return [Delete(held.key, held.uid)] if ours else []

    async def collect(self) -> int:
        """Forget secrets that expired more than a day ago, and keep none that has expired; gives how many went."""
        now = self._clock.now()
        horizon = now - timedelta(days=1)
        gone = 0
        for stored in (await self._store.list(ENROLMENT_SECRET)).items:
            record = msgspec.json.decode(stored.raw, type=EnrolmentSecret)
            if record.spec.expires_at < now and (writes := await self.unkept(record)):
                with contextlib.suppress(NotFound, Conflict):  # its owner was faster
                    await self._store.apply(writes)
            if record.spec.expires_at < horizon:
                await self._store.delete(stored.key)
                gone += 1
        return gone

    async def _replayed(self, held: Held[EnrolmentSecret], remote: str) -> None:
        """Agents that already serve go on: a thief of a spent secret must not be able to stop them."""
        record = held.record
        self._audit.write_paced(
            "secret replayed",
            project=record.spec.bound.namespace,
            secret=record.metadata.name,
            bound=record.spec.bound.name,
            remote=remote,
            decision="refused",
        )
        now = self._clock.now()
        if record.spec.last_replay_at is not None and now - record.spec.last_replay_at < REPLAY_RECORDED_EVERY:
            return  # The store is no place for a flood.
        spec = msgspec.structs.replace(record.spec, replays=record.spec.replays + 1, last_replay_at=now)
        try:
            await self._store.update(held.replaced(spec))
        except Conflict:
            return  # Another replay was counted at this moment; one is enough to be seen.
        if record.spec.role is EdgeRole.AGENT:
            await self._tell_owner(_event(record, now, remote))

    async def _tell_owner(self, event: Object) -> None:
        """One event for each secret, however often it is presented."""
        try:
            await self._store.create(event)
        except AlreadyExists:
            held = (await self._store.get(key_of(event))).object
            seen = {name: event[name] for name in ("message", "lastTimestamp")}
            with contextlib.suppress(Conflict, NotFound):
                await self._store.update({**held, **seen, "count": held.get("count", 1) + 1})


def _event(record: EnrolmentSecret, now: datetime, remote: str) -> Object:
    """What the service's owner sees with `kubectl describe`."""
    bound = record.spec.bound
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{bound.name[:200]}.replay-{record.metadata.name}", "namespace": bound.namespace},
        "type": "Warning",
        "reason": "SecretReplayed",
        "message": f"A spent enrolment secret ({record.metadata.name}) was presented by another key, from {remote}. "
        "Agents that serve go on. DRTP-2002",
        "involvedObject": {
            "apiVersion": "datumapis.com/v1alpha",
            "kind": bound.kind.partition(".")[0],
            "namespace": bound.namespace,
            "name": bound.name,
            "uid": bound.uid,
        },
        "source": {"component": "drtp-edgeserver"},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


def _refused(why: str) -> Refused:
    """`why` is for the log of the control plane; the caller is told the same whatever it is."""
    return Refused("DRTP-2001", why)


def _network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(cidr)
    except ValueError as error:
        raise Invalid("DRTP-2020", f"{cidr!r} is no network: {error}.") from None


def _within(remote: str, cidrs: tuple[str, ...]) -> bool:
    address = ipaddress.ip_address(remote.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in ipaddress.ip_network(cidr) for cidr in cidrs)
