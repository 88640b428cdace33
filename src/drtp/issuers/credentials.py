"""What users have made for themselves: narrowed tokens, certificates for hours; and passwords that operators set."""

from __future__ import annotations

from datetime import datetime

import msgspec

from drtp.api.internal import API_TOKEN, Account, ApiToken
from drtp.api.people import Certified, OwnToken, Proof, TokenAsk, User, account_uid
from drtp.api.spiffe import PeerRole
from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority
from drtp.issuers.certificates import PROFILES, Usage
from drtp.issuers.passwords import Passwords
from drtp.issuers.records import find
from drtp.issuers.requests import proven_key
from drtp.issuers.tokens import Accounts
from drtp.kit.clock import Clock
from drtp.kit.errors import Conflict, Invalid, NotFound, Refused
from drtp.kit.secret import Secret
from drtp.store.protocol import Store

TOKENS_PER_USER_MAX = 100


class Credentials:
    """Implements `CredentialIssuer`. Nothing made here allows more, or lasts longer, than what the caller showed."""

    def __init__(
        self,
        store: Store,
        accounts: Accounts,
        passwords: Passwords,
        authority: Authority,
        *,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._passwords = passwords
        self._authority = authority
        self._audit = audit
        self._clock = clock

    async def set_password(self, name: str, password: Secret[str], by: User) -> str:
        """As `CredentialIssuer`; sign-ins that began with the former password are ended."""
        uid = account_uid(name)
        held = await find(self._store, Account, uid)
        if held is not None and held.record.spec.groups:
            raise Refused("DRTP-1031", f"No password of {name} is set here.")
        if held is not None and held.record.spec.disabled:
            raise Refused("DRTP-1031", f"{name} was revoked.", "Reinstate the user, if that is meant.")
        hashed = await self._passwords.hashed(name, password)
        await self._accounts.ensure(uid, name)
        held = await find(self._store, Account, uid)
        if held is None or held.record.spec.groups:
            raise Conflict("DRTP-1003")
        await self._store.update(held.replaced(msgspec.structs.replace(held.record.spec, password=hashed)))
        await self._accounts.end_sign_ins(uid, "the password was changed")
        self._audit.write("password set", account=uid, by=by.uid or by.name)
        return uid

    async def make_token(self, user: User, ask: TokenAsk) -> tuple[OwnToken, Secret[str]]:
        """As `CredentialIssuer`."""
        now = self._clock.now()
        namespaces = ask.namespaces or tuple(sorted(user.within))
        wider = user.within and not user.within.issuperset(namespaces)
        # A sign-in lasts minutes and is renewed as long as the user may sign in; a token lasts as it was made.
        longer = user.proof is not Proof.LOGIN and user.until is not None and now + ask.lifetime > user.until
        if wider or longer or (user.read_only and not ask.read_only):
            raise Refused("DRTP-2035")
        if len(await self._of(user.uid)) >= TOKENS_PER_USER_MAX:
            raise Invalid("DRTP-2036", f"There are {TOKENS_PER_USER_MAX} tokens already; delete some.")
        await self._known(user)
        minted = await self._accounts.mint_token(
            user.uid,
            namespaces=namespaces,
            lifetime=ask.lifetime,
            description=ask.description,
            read_only=ask.read_only,
        )
        made = OwnToken(minted.id, namespaces, minted.expires_at, ask.read_only, ask.description)
        return made, minted.secret

    async def tokens_of(self, user: User) -> tuple[OwnToken, ...]:
        """As `CredentialIssuer`."""
        self._whole(user)
        found = [
            OwnToken(
                one.metadata.name, one.spec.namespaces, one.spec.expires_at, one.spec.read_only, one.spec.description
            )
            for one in await self._of(user.uid)
        ]
        far = datetime.max.replace(tzinfo=self._clock.now().tzinfo)
        return tuple(sorted(found, key=lambda one: (one.expires_at or far, one.id)))

    async def drop_token(self, user: User, token_id: str) -> None:
        """As `CredentialIssuer`: a token of somebody else is not there."""
        self._whole(user)
        held = await find(self._store, ApiToken, token_id)
        if held is None or held.record.spec.account != user.uid:
            raise NotFound("DRTP-1001", f"You have no token {token_id}.")
        await self._accounts.revoke_token(token_id)

    async def certify(self, user: User, csr_pem: str) -> Certified:
        """As `CredentialIssuer`. A certificate makes no further one: else it would last for ever."""
        self._whole(user)
        if user.proof is Proof.CERTIFICATE:
            raise Refused("DRTP-2035", "A certificate makes no further certificate.")
        ends = self._clock.now() + PROFILES[Usage.USER].lifetime
        if user.proof is Proof.TOKEN and user.until is not None and user.until < ends:
            raise Refused("DRTP-2035", "The token ends before a certificate would.")
        key = proven_key(csr_pem)
        await self._known(user)
        issued = self._authority.issue(self._authority.identity(PeerRole.USER, user.uid), key.public)
        self._audit.write("user certified", account=user.uid, until=issued.not_after.isoformat())
        return Certified(issued.chain_pem, self._authority.bundle_pem.decode(), issued.not_after)

    async def _known(self, user: User) -> None:
        """Somebody of a foreign issuer gets an account, without the issuer's groups: those are in its tokens only."""
        held = await find(self._store, Account, user.uid)
        if held is None:
            await self._accounts.ensure(user.uid, user.name)

    def _whole(self, user: User) -> None:
        if user.within or user.read_only:
            raise Refused("DRTP-2035")

    async def _of(self, account: str) -> list[ApiToken]:
        tokens = [msgspec.json.decode(one.raw, type=ApiToken) for one in (await self._store.list(API_TOKEN)).items]
        return [one for one in tokens if one.spec.account == account]
