"""Sign-ins and their refresh tokens: each is good once, hashed at rest, and using a spent one ends the sign-in."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import msgspec

from drtp.api.credentials import REFRESH_PREFIX, compose, read
from drtp.api.internal import LOGIN, Account, Login, LoginSpec
from drtp.api.meta import Key, ObjectMeta
from drtp.issuers.audit import AuditLog
from drtp.issuers.digests import Pepper, new_credential, random_secret
from drtp.issuers.records import as_object, find
from drtp.kit.clock import Clock
from drtp.kit.errors import Conflict, NotFound, Refused
from drtp.kit.secret import Secret
from drtp.store.protocol import Store

IDLE = timedelta(days=14)
"""Who has not used their sign-in for so long signs in again."""
LIFETIME = timedelta(days=90)
"""However often it was used."""
SPENT_KEPT = 16
"""Spent tokens that are still recognised: an older one proves nobody, and is no alarm."""


class Logins:
    """Every sign-in of local accounts."""

    def __init__(self, store: Store, pepper: Pepper, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._pepper = pepper
        self._audit = audit
        self._clock = clock

    async def begin(self, account: str) -> tuple[str, Secret[str]]:
        """A new sign-in: its id, and its first refresh token."""
        name, token = new_credential(REFRESH_PREFIX)
        now = self._clock.now()
        spec = LoginSpec(account, self._pepper.digest(token.reveal()), now, now + IDLE, now + LIFETIME)
        await self._store.create(as_object(Login(metadata=ObjectMeta(name=name), spec=spec)))
        return name, token

    async def refresh(self, token: str, remote: str) -> tuple[str, Secret[str]]:
        """The account behind a refresh token, and the next token; this one is spent.

        Raises: Refused DRTP-2032 (nobody's, or over), DRTP-2034 (spent: the sign-in is ended); Conflict.
        """
        credential = read(token, REFRESH_PREFIX)
        held = await find(self._store, Login, credential.id) if credential else None
        if credential is None or held is None:
            raise Refused("DRTP-2032", "The sign-in is over.")
        spec, digest, now = held.record.spec, self._pepper.digest(token), self._clock.now()
        if digest in spec.spent:
            await self.end(credential.id, "a spent refresh token came again", remote)
            raise Refused("DRTP-2034")
        if not self._pepper.fits(token, spec.digest) or now >= min(spec.idle_at, spec.ends_at):
            raise Refused("DRTP-2032", "The sign-in is over.")
        account = await find(self._store, Account, spec.account)
        if account is None or account.record.spec.disabled:
            raise Refused("DRTP-2032", "The sign-in is over.")
        following = Secret(compose(REFRESH_PREFIX, credential.id, random_secret()))
        changed = msgspec.structs.replace(
            spec,
            digest=self._pepper.digest(following.reveal()),
            idle_at=now + IDLE,
            spent=(spec.digest, *spec.spent)[:SPENT_KEPT],
        )
        # Conditional: of two that present one token at once, one is told that the object has changed.
        await self._store.update(held.replaced(changed))
        return spec.account, following

    async def of(self, token: str) -> str | None:
        """The id of the sign-in that this refresh token is the newest of."""
        credential = read(token, REFRESH_PREFIX)
        held = await find(self._store, Login, credential.id) if credential else None
        if credential is None or held is None or not self._pepper.fits(token, held.record.spec.digest):
            return None
        return credential.id

    async def end(self, name: str, reason: str, remote: str = "") -> None:
        """From now on its tokens are nobody's."""
        # Somebody else may have been faster; it is over either way.
        with contextlib.suppress(NotFound):
            await self._store.delete(Key(LOGIN, "", name))
            self._audit.write("sign-in ended", login=name, reason=reason, remote=remote)

    async def end_all(self, account: str, reason: str) -> None:
        """End every sign-in of an account."""
        for stored in (await self._store.list(LOGIN)).items:
            if msgspec.json.decode(stored.raw, type=Login).spec.account == account:
                await self.end(stored.key.name, reason)

    async def collect(self) -> int:
        """Forget sign-ins that are over; gives how many."""
        gone = 0
        for stored in (await self._store.list(LOGIN)).items:
            spec = msgspec.json.decode(stored.raw, type=Login).spec
            if self._clock.now() >= min(spec.idle_at, spec.ends_at):
                with contextlib.suppress(NotFound, Conflict):
                    await self._store.delete(stored.key)
                    gone += 1
        return gone
