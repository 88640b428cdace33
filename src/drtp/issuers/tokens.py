"""Who a caller is: bearer tokens hashed at rest, and client certificates of users. Implements `Authenticator`."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from prometheus_client import Counter

from drtp.api.credentials import TOKEN_PREFIX, read
from drtp.api.internal import ACCOUNT, API_TOKEN, Account, AccountSpec, ApiToken, ApiTokenSpec
from drtp.api.meta import Key, ObjectMeta
from drtp.api.people import AUTHENTICATED, FOREIGN, IssuedToken, Proof, User, account_uid, service_account_user
from drtp.api.spiffe import BACKDATED, PeerRole, identity_of
from drtp.issuers.audit import AuditLog
from drtp.issuers.digests import Pepper, new_credential
from drtp.issuers.logins import Logins
from drtp.issuers.records import as_object, find, is_very
from drtp.issuers.secrets import Minted
from drtp.kit.buckets import Buckets
from drtp.kit.clock import Clock
from drtp.kit.errors import Conflict, NotFound, Refused, Retryable
from drtp.kit.observe import REGISTRY
from drtp.store.protocol import AlreadyExists, Store

_REFUSED = Counter("drtp_tokens_refused", "Bearer tokens that prove nobody.", registry=REGISTRY)

ATTEMPTS = 5
SAID_EVERY_S = 3600.0
"""A script that asks all day from one place is one line an hour."""
SEEN_MAX = 10_000
TOKEN_LIFETIME = timedelta(days=90)
PROGRAM_TOKENS_MAX = 1_000
"""Of all service accounts of one project, that have not expired: one an hour for a month is 720."""


class Accounts:
    """People and programs, and what they present. One `Authenticator` for both doors."""

    def __init__(  # noqa: PLR0917 - what every issuer has, then what this one adds
        self, store: Store, pepper: Pepper, audit: AuditLog, clock: Clock, trust_domain: str, logins: Logins
    ) -> None:
        self._store = store
        self._logins = logins
        self._pepper = pepper
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        # Each looks through all tokens: one project alone must not keep the control plane busy with that.
        self._programs = Buckets(clock, burst=120, per_s=1)
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def ensure(self, uid: str, name: str, *, groups: Sequence[str] = ()) -> None:
        """Make the account, or bring it to exactly these groups."""
        spec = AccountSpec(name=name, groups=tuple(groups))
        try:
            await self._store.create(as_object(Account(metadata=ObjectMeta(name=uid), spec=spec)))
        except AlreadyExists:
            held = await find(self._store, Account, uid)
            if held is None:
                return await self.ensure(uid, name, groups=groups)
            # Whoever was revoked stays so, and what was void: reinstating is said explicitly.
            spec = msgspec.structs.replace(held.record.spec, name=name, groups=tuple(groups))
            if held.record.spec != spec:
                await self._store.update(held.replaced(spec))
        return None

    async def mint_token(
        self,
        account: str,
        *,
        namespaces: Sequence[str] = (),
        lifetime: timedelta | None = TOKEN_LIFETIME,
        description: str = "",
        read_only: bool = False,
    ) -> Minted:
        """A bearer token, shown once. `lifetime` None: until revoked.

        Raises: NotFound for an unknown account; Refused DRTP-1031 for one that was revoked.
        """
        held = await find(self._store, Account, account)
        if held is None:
            raise NotFound("DRTP-1001", f"There is no account {account}.")
        if held.record.spec.disabled:
            raise Refused("DRTP-1031", f"{held.record.spec.name} was revoked.", "Reinstate the user, if that is meant.")
        name, token = new_credential(TOKEN_PREFIX)
        expires_at = self._clock.now() + (lifetime or timedelta(days=36500))
        spec = ApiTokenSpec(
            digest=self._pepper.digest(token.reveal()),
            account=account,
            namespaces=tuple(namespaces),
            expires_at=expires_at if lifetime else None,
            description=description,
            read_only=read_only,
        )
        await self._store.create(as_object(ApiToken(metadata=ObjectMeta(name=name), spec=spec)))
        self._audit.write(
            "token minted", token=name, account=account, name=held.record.spec.name, expires=str(spec.expires_at or "")
        )
        return Minted(name, token, expires_at)

    async def issue(self, user: str, lifetime: timedelta, *, reinstate: bool = False) -> IssuedToken:
        """As `TokenIssuer.issue`. An account that is in groups may be an administrator's: the operator's socket alone
        makes its tokens.
        """
        uid = account_uid(user)
        held = await find(self._store, Account, uid)
        if held is None:
            await self.ensure(uid, user)
        elif held.record.spec.groups:
            raise Refused("DRTP-1031", f"No token of {user} is made here.")
        elif held.record.spec.disabled and reinstate:
            now = self._clock.now().replace(microsecond=0)  # as certificates tell the time
            spec = msgspec.structs.replace(held.record.spec, disabled=False, counts_from=now)
            await self._store.update(held.replaced(spec))
            self._audit.write("user reinstated", user=uid, name=user)
        minted = await self.mint_token(uid, lifetime=lifetime, description="API")
        return IssuedToken(uid, minted.secret, minted.expires_at)

    async def issue_to_program(self, namespace: str, name: str, uid: str, lifetime: timedelta) -> IssuedToken:
        """As `TokenIssuer.issue_to_program`."""
        await self._check_room(namespace)
        user = service_account_user(namespace, name)
        spec = AccountSpec(name=user.name, groups=user.groups, service_account=f"{namespace}/{name}")
        with contextlib.suppress(AlreadyExists):
            await self._store.create(as_object(Account(metadata=ObjectMeta(name=uid), spec=spec)))
        minted = await self.mint_token(uid, lifetime=lifetime, description="service account")
        return IssuedToken(uid, minted.secret, minted.expires_at)

    async def _check_room(self, namespace: str) -> None:
        """Whether programs of a project may have one more token. Raises: Refused DRTP-2050; Retryable DRTP-2003."""
        if not self._programs.take(namespace):
            raise Retryable("DRTP-2003", f"Many tokens of programs in {namespace} are made at once.")
        accounts = (msgspec.json.decode(one.raw, type=Account) for one in (await self._store.list(ACCOUNT)).items)
        theirs = {one.metadata.name for one in accounts if one.spec.service_account.startswith(f"{namespace}/")}
        tokens = (msgspec.json.decode(one.raw, type=ApiToken) for one in (await self._store.list(API_TOKEN)).items)
        now = self._clock.now()
        live = sum(one.spec.account in theirs and (one.spec.expires_at or now) >= now for one in tokens)
        if live >= PROGRAM_TOKENS_MAX:
            raise Refused("DRTP-2050", f"Programs in {namespace} have {PROGRAM_TOKENS_MAX} tokens.")

    async def collect(self) -> int:
        """Forget tokens that expired more than a day ago; gives how many."""
        horizon = self._clock.now() - timedelta(days=1)
        gone = 0
        for stored in (await self._store.list(API_TOKEN)).items:
            expires_at = msgspec.json.decode(stored.raw, type=ApiToken).spec.expires_at
            if expires_at is not None and expires_at < horizon:
                with contextlib.suppress(NotFound):
                    await self._store.delete(stored.key)
                    gone += 1
        return gone

    async def retire(self, uid: str) -> int:
        """Shut the account of a program that is gone, for good; gives how many tokens went. Raises: Conflict."""
        gone = await self._drop_tokens(uid)
        for _ in range(ATTEMPTS):
            held = await find(self._store, Account, uid)
            if held is None or held.record.spec.disabled:
                return gone
            with contextlib.suppress(Conflict):
                await self._store.update(held.replaced(disabled(held.record.spec)))
        raise Conflict("DRTP-1003")

    async def shut(self, user: str) -> tuple[str, int]:
        """From now on nothing proves this user: gives the account's uid, and how many tokens went.

        The account stays, so that nobody makes another of the same name by accident. Raises: NotFound; Refused
        DRTP-1031 for an account that is in groups, which may be an administrator's.
        """
        uid = account_uid(user)
        for _ in range(ATTEMPTS):
            held = await find(self._store, Account, uid)
            if held is None and FOREIGN in user:
                # Whom an issuer proves has no account here until there is something to remember.
                await self.ensure(uid, user)
                continue
            if held is None:
                raise NotFound("DRTP-1001", f"There is no user {user}.")
            if held.record.spec.groups:
                raise Refused("DRTP-1031", f"{user} is the operator's to revoke, on the control plane's machine.")
            try:
                if not held.record.spec.disabled:
                    await self._store.update(held.replaced(disabled(held.record.spec)))
                await self._logins.end_all(uid, "the user was revoked")
                return uid, await self._drop_tokens(uid)
            except Conflict:
                continue
        raise Conflict("DRTP-1003")

    async def end_sign_ins(self, uid: str, reason: str) -> None:
        """End every sign-in of an account."""
        await self._logins.end_all(uid, reason)

    async def _drop_tokens(self, account: str) -> int:
        gone = 0
        for stored in (await self._store.list(API_TOKEN)).items:
            record = msgspec.json.decode(stored.raw, type=ApiToken)
            if record.spec.account == account:
                # Somebody else may have been faster; the token is gone either way.
                with contextlib.suppress(NotFound):
                    await self.revoke_token(record.metadata.name)
                    gone += 1
        return gone

    async def revoke_token(self, token_id: str) -> None:
        """From now on it proves nobody. Raises: NotFound."""
        await self._store.delete(Key(API_TOKEN, "", token_id))
        self._audit.write("token revoked", token=token_id)

    async def authenticate(self, token: str, peer_cert_der: bytes | None, remote: str) -> User | None:
        """The user behind a token, or where there is none, behind a verified client certificate; None for nobody.

        A token that is presented decides alone: a bad one is nobody, whatever the certificate says.
        """
        if token:
            return await self._of_token(token, remote)
        return await self._of_certificate(peer_cert_der, remote) if peer_cert_der else None

    async def _of_token(self, token: str, remote: str) -> User | None:
        credential = read(token, TOKEN_PREFIX)
        held = await find(self._store, ApiToken, credential.id) if credential else None
        spec = held.record.spec if held else None
        if not self._pepper.fits(token, spec.digest if spec else "0" * 64) or spec is None:
            self.refused(credential.id if credential else "", remote, "unknown")
            return None
        if spec.expires_at is not None and self._clock.now() >= spec.expires_at:
            self.refused(credential.id if credential else "", remote, "expired")
            return None
        user = await self.user(spec.account)
        if user is None:
            self.refused(credential.id if credential else "", remote, "the account is shut")
            return None
        user = user._replace(within=frozenset(spec.namespaces), read_only=spec.read_only, until=spec.expires_at)
        self.came(user, f"token {credential.id if credential else ''}", remote)
        return user

    def came(self, user: User, by: str, remote: str) -> None:
        """Say who came from where, once for each credential and address in a while."""
        now, key = self._clock.monotonic(), (by, remote)
        if now - self._seen.get(key, -SAID_EVERY_S) < SAID_EVERY_S:
            return
        self._seen.pop(key, None)
        self._seen[key] = now
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        self._audit.write_paced(
            "user authenticated",
            source=user.uid,
            user=user.uid,
            name=user.name,
            by=by,
            remote=remote,
            decision="allowed",
        )

    def refused(self, token_id: str, remote: str, reason: str) -> None:
        """Say it in the audit log, at a pace."""
        _REFUSED.inc()
        self._audit.write_paced("token refused", token=token_id, remote=remote, decision="refused", reason=reason)

    async def _of_certificate(self, leaf_der: bytes, remote: str) -> User | None:
        try:
            identity = identity_of(leaf_der)
        except Refused:
            return None
        if identity.role is not PeerRole.USER or identity.trust_domain != self._trust_domain:
            return None
        leaf = x509.load_der_x509_certificate(leaf_der)
        user = await self.user(identity.uid, made=leaf.not_valid_before_utc + BACKDATED)
        if user is None:
            return None
        self.came(user, "certificate", remote)
        return user._replace(proof=Proof.CERTIFICATE, until=leaf.not_valid_after_utc)

    async def user(self, uid: str, *, made: datetime | None = None) -> User | None:
        """The user of this account; None if there is none, or it is shut.

        `made`: when that was which proves it, to the second; from before a reinstatement it proves nobody.
        """
        held = await find(self._store, Account, uid)
        if held is None or not await stands(self._store, uid):
            return None
        if made is not None and _is_of_before(made, held.record.spec):
            return None
        return User(name=held.record.spec.name, uid=uid, groups=(*held.record.spec.groups, AUTHENTICATED))

    async def foreigner(self, name: str, groups: tuple[str, ...], made: datetime, until: datetime) -> User | None:
        """A user whom a foreign issuer proves: needs no account here, but one that is shut shuts them out."""
        uid = account_uid(name)
        held = await find(self._store, Account, uid)
        if held is not None and (held.record.spec.disabled or _is_of_before(made, held.record.spec)):
            return None
        return User(name, uid, (*groups, AUTHENTICATED), until=until, proof=Proof.LOGIN)


def _is_of_before(made: datetime, spec: AccountSpec) -> bool:
    """Whether what was made then is from before the account was reinstated; moments of proofs are whole seconds."""
    return spec.counts_from is not None and made < spec.counts_from.replace(microsecond=0)


async def stands(store: Store, uid: str) -> bool:
    """Whether whoever has this uid is somebody still. One without an account is: an issuer proves them.

    A program is, as long as its very ServiceAccount is there, and not a later one of its name.
    """
    held = await find(store, Account, uid)
    if held is None:
        return True
    if held.record.spec.disabled:
        return False
    if not held.record.spec.service_account:
        return True
    namespace, _, name = held.record.spec.service_account.partition("/")
    return await is_very(store, Key("ServiceAccount", namespace, name), uid)


def disabled(spec: AccountSpec) -> AccountSpec:
    """The same account, shut."""
    return msgspec.structs.replace(spec, disabled=True)
