"""Who has signed in in which browser, and visit tokens for the public hosts that they go to.

Browsers are kept in memory: a restart of the control plane signs them out. Tokens are not kept anywhere; whoever is
shut out is refused by gateways and POPs by name.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from drtp.api.internal import VISITORS, Account, SignInRecord, SignInSpec
from drtp.api.meta import ObjectMeta
from drtp.api.people import RESERVED, User
from drtp.api.visiting import VISIT_LIFETIME, WHO_BYTES_MAX
from drtp.issuers.audit import AuditLog
from drtp.issuers.idtokens import IdTokens
from drtp.issuers.localissuer import LocalIssuer
from drtp.issuers.people import user_of
from drtp.issuers.records import as_object, find
from drtp.issuers.tokens import Accounts
from drtp.issuers.waiting import mark_of
from drtp.kit.clock import Clock
from drtp.kit.errors import Refused
from drtp.kit.secret import Secret
from drtp.store.protocol import Store

BROWSER_S = 8 * 3600.0
"""So long a browser stays signed in, as the certificate of a user who connects does."""
BROWSERS_MAX = 10_000
"""Only a right password makes one; beyond it the oldest is signed out."""


@dataclass(slots=True)
class Browser:
    """One that somebody has signed in in. `mark`: of the account then. `hosts`: told who it is."""

    user: User
    mark: str
    until_s: float
    hosts: set[str] = field(default_factory=set[str])


class Visits:
    """Of one control plane. `bound_groups`: the groups that some organisation has given a role."""

    def __init__(
        self,
        store: Store,
        accounts: Accounts,
        id_tokens: IdTokens,
        issuer: LocalIssuer,
        *,
        bound_groups: Callable[[], Collection[str]],
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._id_tokens = id_tokens
        self._issuer = issuer
        self._bound_groups = bound_groups
        self._audit = audit
        self._clock = clock
        self._browsers: OrderedDict[str, Browser] = OrderedDict()

    async def enter(self, id_token: str, nonce: str, remote: str) -> str:
        """A browser's secret, for whom the ID token proves. Raises: Refused DRTP-2030, DRTP-2038."""
        proven = await self._id_tokens.proven(id_token)
        if proven.nonce != nonce:
            raise Refused("DRTP-2030", "The ID token is not of this sign-in.")
        user = await user_of(self._accounts, proven)
        if user is None:
            raise Refused("DRTP-2038", "The account is shut.")
        self._accounts.came(user, f"sign-in {user.uid}", remote)
        secret = secrets.token_urlsafe(32)
        until_s = self._clock.monotonic() + BROWSER_S
        self._browsers[secret] = Browser(user, await self._mark(user.uid), until_s)
        if len(self._browsers) > BROWSERS_MAX:
            self._browsers.popitem(last=False)
        return secret

    async def find(self, secret: str) -> Browser | None:
        """The browser that shows this, if its user is who they were, with the password they had."""
        browser = self._browsers.get(secret)
        if browser is None:
            return None
        over = self._clock.monotonic() >= browser.until_s
        if over or await self._mark(browser.user.uid) != browser.mark:
            self._browsers.pop(secret, None)
            return None
        return browser

    def leave(self, secret: str) -> None:
        """The browser is signed out."""
        self._browsers.pop(secret, None)

    def token(self, browser: Browser, host: str, asked_by: str, remote: str) -> Secret[str]:
        """A visit token for `host`. `asked_by`: the mark of the browser there. Raises: Refused DRTP-2039."""
        user, now = browser.user, int(self._clock.now().timestamp())
        bound = self._bound_groups()
        groups = sorted(one for one in user.groups if one in bound and not one.startswith(RESERVED))
        who = json.dumps({"name": user.name, "groups": groups}, ensure_ascii=False, separators=(",", ":"))
        if len(who.encode()) > WHO_BYTES_MAX:
            raise Refused("DRTP-2039")
        browser.hosts.add(host)
        said = {
            "iss": self._issuer.issuer,
            "sub": user.uid,
            "iat": now,
            "exp": now + int(VISIT_LIFETIME.total_seconds()),
            "name": user.name,
            "groups": groups,
        }
        assertion = self._issuer.keys.sign({**said, "aud": f"https://{host}"})
        claims = {**said, "aud": host, "browser": asked_by, "who": who, "assertion": assertion}
        self._audit.write_paced(
            "visit allowed", source=user.uid, user=user.uid, name=user.name, host=host, remote=remote
        )
        return Secret(self._issuer.keys.sign(claims))

    async def _mark(self, uid: str) -> str:
        """Of an account as it is: it is another one once that is shut or reinstated, or has another password."""
        held = await find(self._store, Account, uid)
        spec = held.record.spec if held is not None else None
        return mark_of(f"{spec.disabled} {spec.password} {spec.counts_from}") if spec is not None else ""


async def publish_sign_in(store: Store, issuer: LocalIssuer, url: str) -> None:
    """Gateways learn of it by their tables. Raises: Conflict, or whatever else the store says."""
    keys = json.dumps(issuer.keys.published(), sort_keys=True)
    spec = SignInSpec(issuer=issuer.issuer, url=url, keys=keys)
    held = await find(store, SignInRecord, VISITORS)
    if held is None:
        await store.create(as_object(SignInRecord(metadata=ObjectMeta(name=VISITORS), spec=spec)))
    elif held.record.spec != spec:
        await store.update(held.replaced(spec))
