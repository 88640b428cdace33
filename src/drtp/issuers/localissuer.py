"""A small OpenID provider for local accounts: passwords in, signed ID tokens and refresh tokens out. No HTTP in it.

The client's code is the same for it and for a foreign issuer. One client is known, `datumctl@<origin>`; it is public,
so PKCE is what ties a code to whoever asked for it.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import timedelta
from typing import NamedTuple

from drtp.api.internal import Account
from drtp.api.people import account_uid
from drtp.issuers.audit import AuditLog
from drtp.issuers.logins import Logins
from drtp.issuers.passwords import Passwords
from drtp.issuers.records import find
from drtp.issuers.signingkeys import SigningKeys
from drtp.issuers.waiting import DEVICE_S, POLL_S, Code, DeviceState, Entered, Waiting, mark_of, proves
from drtp.kit.buckets import AddressBuckets, Buckets
from drtp.kit.clock import Clock
from drtp.kit.errors import Conflict, NotFound, Refused
from drtp.kit.networks import networks_of
from drtp.kit.secret import Secret
from drtp.store.protocol import Store

CLIENT = "datumctl"
"""What the one client's id begins with; the origin of the control plane follows."""
PATH = "/oidc"
"""Below the API's address; the two together are the issuer's name."""
TOKEN_LIFETIME = timedelta(minutes=15)
"""Of an ID token: a refresh is one request, and a user who is revoked is refused at once anyway."""
HOMES_MAX = 10_000
"""Networks from which people have signed in, of all accounts; beyond them the oldest is a stranger's again."""


class Tokens(NamedTuple):
    """What a client gets. `refresh` None: it did not ask to stay signed in."""

    id_token: Secret[str]
    refresh: Secret[str] | None
    lifetime_s: int


class DeviceStart(NamedTuple):
    """What a device shows, and what it asks with."""

    device_code: Secret[str]
    user_code: str
    lifetime_s: int
    interval_s: int


class NotYet(Exception):
    """A device's answer is not there. `error` is RFC 8628's word."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class LocalIssuer:
    """Of one control plane. `issuer` is its name in tokens."""

    def __init__(
        self,
        issuer: str,
        store: Store,
        logins: Logins,
        passwords: Passwords,
        keys: SigningKeys,
        *,
        audit: AuditLog,
        clock: Clock,
        pages: str = "",
    ) -> None:
        """`pages`: where browsers find what is below `issuer`, if that is elsewhere."""
        self.issuer = issuer
        self.pages = pages or issuer
        self.client = client_of(issuer)
        """The one client id, and the audience of tokens. It names this control plane, so that whoever is given such a
        token by another one's wish can tell.
        """
        self.visits_uri = f"{self.pages}/visit/callback"
        """Where visitors of public places come back to; other clients have the machine that they run on."""
        self.keys = keys
        self._store = store
        self._logins = logins
        self._passwords = passwords
        self._audit = audit
        self._clock = clock
        self._waiting = Waiting(clock)
        # One address alone must not be able to keep somebody out: an account's bucket fills faster than an address'.
        # Nor must several: networks from which its people have signed in do not wait behind all others.
        self._by_account = Buckets(clock, burst=20, per_s=1 / 5)
        self._at_home = Buckets(clock, burst=20, per_s=1 / 5)
        self._homes: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._by_address = AddressBuckets(clock, burst=10, per_s=1 / 10)
        self._starts = AddressBuckets(clock, burst=30, per_s=1 / 2)

    # ---- people ----------------------------------------------------------------------------------------------------

    async def signed_in(self, name: str, password: Secret[str], remote: str) -> Entered:
        """Whoever this name and password are.

        Whether there is such an account shows neither in the answer nor in the time it takes: the buckets are asked,
        the account is sought and a hash is computed in every case. Raises: Refused DRTP-2032 or DRTP-2033; Retryable
        DRTP-2033.
        """
        uid = account_uid(name)
        home = (uid, networks_of(remote)[0])
        # In this order: what an address has no right to try takes nothing from the account.
        if not self._by_address.take(remote) or not self._may_try(uid, home):
            raise Refused("DRTP-2033")
        held = await find(self._store, Account, uid)
        usable = held is not None and not held.record.spec.disabled
        kept = held.record.spec.password if held is not None and usable else ""
        if not await self._passwords.fits(kept, password):
            # The name is not said: people type their password into the wrong field.
            self._audit.write_paced("sign-in refused", account=uid if held is not None else "unknown", remote=remote)
            raise Refused("DRTP-2032")
        self._homes[home] = None
        self._homes.move_to_end(home)
        if len(self._homes) > HOMES_MAX:
            self._homes.popitem(last=False)
        self._audit.write("signed in", account=uid, remote=remote)
        return Entered(uid, mark_of(kept))

    def _may_try(self, uid: str, home: tuple[str, str]) -> bool:
        if home in self._homes:
            return self._at_home.take(" ".join(home))
        return self._by_account.take(uid)

    # ---- authorization code ----------------------------------------------------------------------------------------

    def code_for(self, what: Code) -> str:
        """A code for whoever just signed in."""
        return self._waiting.code_for(what)

    async def redeem(self, code: str, verifier: str, redirect_uri: str, remote: str) -> Tokens:
        """Tokens for a code. Raises: Refused DRTP-2032."""
        what = self._waiting.take(code)
        if what is None:
            if (login := self._waiting.begun_by(code)) is not None:
                await self._logins.end(login, "its code came again", remote)
            raise Refused("DRTP-2032", "The code is not known, or not any more.")
        if what.redirect_uri != redirect_uri or not proves(verifier, what.challenge):
            raise Refused("DRTP-2032", "The code was made for somebody else.")
        tokens, login = await self._begin(what.who, what.nonce, offline=what.offline)
        if login:
            self._waiting.remember(code, login)
        return tokens

    # ---- devices ---------------------------------------------------------------------------------------------------

    def start_device(self, remote: str, *, offline: bool) -> DeviceStart:
        """A device that waits for a person. Raises: Refused DRTP-2033."""
        if not self._starts.take(remote):
            raise Refused("DRTP-2033")
        device_code, user_code = self._waiting.device(offline=offline)
        return DeviceStart(Secret(device_code), user_code, int(DEVICE_S), POLL_S)

    def grant(self, user_code: str, who: Entered) -> bool:
        """The person at a browser has signed in for the device that shows this code; False if there is none."""
        return self._decide(user_code, DeviceState.GRANTED, who)

    def deny(self, user_code: str, who: Entered) -> bool:
        """The person has signed in, and says that it is not their device."""
        return self._decide(user_code, DeviceState.DENIED, who)

    def _decide(self, user_code: str, state: DeviceState, who: Entered) -> bool:
        device = self._waiting.shown(user_code)
        if device is None:
            return False
        device.state, device.who = state, who
        self._audit.write("device decided", account=who.account, granted=str(state is DeviceState.GRANTED))
        return True

    async def device_tokens(self, device_code: str) -> Tokens:
        """Raises: NotYet; Refused DRTP-2032 once the person denied it."""
        device, hasty = self._waiting.asks(device_code)
        if device is None:
            raise NotYet("expired_token")
        if hasty:
            raise NotYet("slow_down")
        match device.state:
            case DeviceState.WAITING:
                raise NotYet("authorization_pending")
            case DeviceState.DENIED:
                raise NotYet("access_denied")
            case DeviceState.GRANTED:
                return (await self._begin(device.who, "", offline=device.offline))[0]

    # ---- refresh ---------------------------------------------------------------------------------------------------

    async def refresh(self, token: str, remote: str) -> Tokens:
        """The next tokens. Raises: Refused DRTP-2032, DRTP-2034."""
        try:
            account, following = await self._logins.refresh(token, remote)
        except (Conflict, NotFound):
            raise Refused("DRTP-2032", "The token was used by two at once, or the sign-in has ended.") from None
        return self._tokens(account, "", following)

    async def sign_out(self, token: str, remote: str) -> None:
        """End the sign-in of a refresh token, if it is one."""
        if (login := await self._logins.of(token)) is not None:
            await self._logins.end(login, "signed out", remote)

    async def _begin(self, who: Entered, nonce: str, *, offline: bool) -> tuple[Tokens, str]:
        """Tokens for whoever entered, and the sign-in that is kept. Raises: Refused DRTP-2032.

        Whether they are still who they were is looked at last: a password that is changed ends every sign-in there is.
        """
        login, refresh = await self._logins.begin(who.account) if offline else ("", None)
        if not await self._holds(who):
            if login:
                await self._logins.end(login, "the password was changed meanwhile")
            raise Refused("DRTP-2032", "The password was changed, or the account shut, meanwhile.")
        return self._tokens(who.account, nonce, refresh), login

    async def _holds(self, who: Entered) -> bool:
        held = await find(self._store, Account, who.account)
        return held is not None and not held.record.spec.disabled and mark_of(held.record.spec.password) == who.mark

    def _tokens(self, account: str, nonce: str, refresh: Secret[str] | None) -> Tokens:
        now = int(self._clock.now().timestamp())
        lifetime_s = int(TOKEN_LIFETIME.total_seconds())
        claims = {"iss": self.issuer, "sub": account, "aud": self.client, "iat": now, "exp": now + lifetime_s}
        if nonce:
            claims["nonce"] = nonce
        return Tokens(Secret(self.keys.sign(claims)), refresh, lifetime_s)


def client_of(issuer: str) -> str:
    """The client id at the issuer of this name."""
    return f"{CLIENT}@{issuer.removesuffix(PATH)}"
