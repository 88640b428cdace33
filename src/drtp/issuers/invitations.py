"""Invitations into an organisation: one person, one role, some days; kept as digests, spent by a conditional write."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import msgspec

from drtp.api.credentials import INVITATION_PREFIX, read
from drtp.api.internal import INVITATION, Invitation, InvitationSpec
from drtp.api.meta import ObjectMeta
from drtp.api.people import User
from drtp.issuers.audit import AuditLog
from drtp.issuers.digests import Pepper, new_credential
from drtp.issuers.records import Held, as_object, find
from drtp.issuers.secrets import Minted
from drtp.issuers.tokens import stands
from drtp.kit.clock import Clock
from drtp.kit.errors import NotFound, Refused
from drtp.store.protocol import Object, Store

LIFETIME_S = 7 * 24 * 3600
LIFETIME_S_MAX = 30 * 24 * 3600
OPEN_MAX = 500
"""Of one organisation, neither accepted nor expired: a company is invited by an issuer's group, not one by one."""


class Invitations:
    """The one place that knows how invitations are digested and spent."""

    def __init__(self, store: Store, pepper: Pepper, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._pepper = pepper
        self._audit = audit
        self._clock = clock

    async def mint(
        self, organization: str, organization_uid: str, role: str, inviter: User, lifetime: timedelta
    ) -> Minted:
        """An invitation, shown once. The caller has seen to it that `inviter` may give the role.

        Raises: Refused DRTP-2050.
        """
        if await self._open_of(organization) >= OPEN_MAX:
            raise Refused("DRTP-2050", f"{organization} has {OPEN_MAX} invitations that nobody has accepted.")
        name, secret = new_credential(INVITATION_PREFIX)
        spec = InvitationSpec(
            digest=self._pepper.digest(secret.reveal()),
            organization=organization,
            organization_uid=organization_uid,
            role=role,
            expires_at=self._clock.now() + lifetime,
            inviter=inviter.name,
            inviter_uid=inviter.uid,
            inviter_groups=inviter.groups,
        )
        await self._store.create(as_object(Invitation(metadata=ObjectMeta(name=name), spec=spec)))
        self._audit.write(
            "invitation made", project=organization, invitation=name, role=role, by=inviter.name, decision="allowed"
        )
        return Minted(name, secret, spec.expires_at)

    async def _open_of(self, organization: str) -> int:
        now = self._clock.now()
        specs = (
            msgspec.json.decode(one.raw, type=Invitation).spec for one in (await self._store.list(INVITATION)).items
        )
        return sum(one.organization == organization and not one.accepted_by and one.expires_at > now for one in specs)

    async def admit(self, text: str, user: User) -> Held[Invitation]:
        """An invitation that `user` may accept, or has accepted. Raises: Refused DRTP-2022, alike for every cause."""
        credential = read(text, INVITATION_PREFIX)
        held = await find(self._store, Invitation, credential.id) if credential else None
        # The digest is computed in every case, so that time does not tell which ids exist.
        if not self._pepper.fits(text, held.record.spec.digest if held else "0" * 64) or held is None:
            raise self._refused(credential.id if credential else "", "unknown", user)
        spec, name = held.record.spec, held.record.metadata.name
        if spec.accepted_by and spec.accepted_by != user.name:
            raise self._refused(name, "accepted by somebody else", user)
        if self._clock.now() >= spec.expires_at:
            raise self._refused(name, "expired", user)
        if spec.inviter_uid and not await stands(self._store, spec.inviter_uid):
            raise self._refused(name, "inviter revoked", user)
        return held

    def withdrawn(self, held: Held[Invitation], user: User) -> Refused:
        """The refusal of one whose inviter lost the right to invite."""
        return self._refused(held.record.metadata.name, "inviter may not invite any more", user)

    def consumed(self, held: Held[Invitation], user: User) -> Object:
        """The write that spends it; it fails with Conflict if somebody else was faster."""
        return held.replaced(
            msgspec.structs.replace(held.record.spec, accepted_by=user.name, accepted_at=self._clock.now())
        )

    async def withdraw(self, inviter_uid: str, by: str, reason: str) -> int:
        """Take back what somebody has invited to and nobody accepted; gives how many."""
        gone = 0
        for stored in (await self._store.list(INVITATION)).items:
            spec = msgspec.json.decode(stored.raw, type=Invitation).spec
            if spec.inviter_uid != inviter_uid or spec.accepted_by:
                continue
            with contextlib.suppress(NotFound):
                await self._store.delete(stored.key)
                gone += 1
                self._audit.write(
                    "invitation withdrawn", project=spec.organization, invitation=stored.key.name, by=by, reason=reason
                )
        return gone

    async def collect(self) -> int:
        """Forget what expired more than a day ago; gives how many."""
        horizon = self._clock.now() - timedelta(days=1)
        gone = 0
        for stored in (await self._store.list(INVITATION)).items:
            if msgspec.json.decode(stored.raw, type=Invitation).spec.expires_at < horizon:
                try:
                    await self._store.delete(stored.key)
                except NotFound:
                    continue
                gone += 1
        return gone

    def _refused(self, invitation: str, why: str, user: User) -> Refused:
        self._audit.write_paced(
            "invitation refused", source=user.name, invitation=invitation, reason=why, by=user.name, decision="refused"
        )
        return Refused("DRTP-2022")
