"""Signing people in at issuers by a browser, as a web application does: code with PKCE, at our own issuer and others.

Of a foreign issuer the answer is believed because its ID token is checked like any that comes to the API; the request
for it goes over TLS to the address that discovery names, and follows no redirect.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec

from drtp.issuers.idtokens import TrustedIssuer, roots_of
from drtp.issuers.localissuer import LocalIssuer
from drtp.issuers.remotekeys import FETCH_S, REST_S, checked_url, discovery
from drtp.issuers.waiting import challenge_of
from drtp.kit.clock import Clock
from drtp.kit.errors import Refused, Retryable

KNOWN_S = 600.0
"""So long an issuer's discovery document is used again: strangers' clicks do not become requests to it."""
PENDING_S = 600.0
PENDING_MAX = 10_000
"""Anybody begins one; beyond it the oldest goes."""


class Asked(NamedTuple):
    """Where a browser came from, to be sent back there: a public place's host, its address, and the browser's mark."""

    host: str
    back: str
    browser: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A sign-in that a browser was sent to an issuer for. `cookie`: of the browser that was."""

    issuer: str
    verifier: str
    nonce: str
    cookie: str
    asked: Asked
    until_s: float


class RelyingParty:
    """Every issuer that people sign in at, from one address of ours."""

    def __init__(self, local: LocalIssuer, trusted: Sequence[TrustedIssuer], clock: Clock) -> None:
        self._local = local
        self._foreign = {one.issuer: one for one in trusted if one.login}
        self._clock = clock
        self._documents: dict[str, tuple[float, dict[str, Any] | None]] = {}
        self._asking = {issuer: asyncio.Lock() for issuer in self._foreign}
        self._pending: OrderedDict[str, Pending] = OrderedDict()
        self.redirect_uri = local.visits_uri
        """What foreign issuers must know as one of their client's."""

    @property
    def issuers(self) -> tuple[str, ...]:
        """The operator's first, then the accounts of this installation."""
        return (*self._foreign, self._local.issuer)

    def is_local(self, issuer: str) -> bool:
        """Whether it is this control plane's own."""
        return issuer == self._local.issuer

    async def begin(self, issuer: str, cookie: str, asked: Asked) -> str:
        """Where the browser is to go. Raises: Refused DRTP-2038 for an issuer that is none; Retryable DRTP-2031."""
        scope, client = "openid", self._local.client
        endpoint = f"{self._local.pages}/authorize"
        if not self.is_local(issuer):
            settings = self._foreign.get(issuer)
            if settings is None:
                raise Refused("DRTP-2038", "Nobody signs in there.")
            endpoint = str((await self._discovery(settings)).get("authorization_endpoint", ""))
            scope = " ".join(one for one in settings.scopes if one != "offline_access")
            client = settings.audience
        state, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(3))
        self._pending[state] = Pending(issuer, verifier, nonce, cookie, asked, self._clock.monotonic() + PENDING_S)
        if len(self._pending) > PENDING_MAX:
            self._pending.popitem(last=False)
        query = {
            "response_type": "code",
            "client_id": client,
            "redirect_uri": self.redirect_uri,
            "scope": scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        }
        mark = "&" if urlsplit(endpoint).query else "?"
        return f"{_checked(endpoint)}{mark}{urlencode(query)}"

    def place_of(self, state: str) -> str:
        """Where a browser wants to go that was sent with this state: a host and port; "" if none was."""
        pending = self._pending.get(state)
        return urlsplit(pending.asked.back).netloc if pending is not None else ""

    def take(self, state: str, cookie: str) -> Pending:
        """The sign-in that an answer is of, once. Raises: Refused DRTP-2038 if this browser began none such."""
        pending = self._pending.pop(state, None)
        if (
            pending is None
            or self._clock.monotonic() >= pending.until_s
            or not secrets.compare_digest(pending.cookie.encode(), cookie.encode())
        ):
            raise Refused("DRTP-2038", "This sign-in was not begun in this browser, or too long ago.")
        return pending

    async def redeem(self, pending: Pending, code: str, remote: str) -> str:
        """The ID token for a code, unchecked but for its nonce.

        Raises: Refused DRTP-2038 where the issuer does not take the code; Retryable DRTP-2031.
        """
        if self.is_local(pending.issuer):
            tokens = await self._local.redeem(code, pending.verifier, self.redirect_uri, remote)
            return tokens.id_token.reveal()
        settings = self._foreign[pending.issuer]
        endpoint = _checked(str((await self._discovery(settings)).get("token_endpoint", "")))
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "client_id": settings.audience,
            "code_verifier": pending.verifier,
        }
        if settings.client_secret is not None:
            form["client_secret"] = settings.client_secret.reveal()
        answer = await self._post(settings, endpoint, form)
        token: Any = answer.get("id_token")
        if not isinstance(token, str):
            raise Refused("DRTP-2038", "The issuer gave no ID token.")
        return token

    async def _discovery(self, settings: TrustedIssuer) -> dict[str, Any]:
        """Asked for by one at a time. What came is kept; an issuer that failed is let rest."""
        async with self._asking[settings.issuer]:
            until_s, held = self._documents.get(settings.issuer, (0.0, None))
            if self._clock.monotonic() < until_s:
                if held is None:
                    raise Retryable("DRTP-2031", f"{settings.issuer} did not answer just now.")
                return held
            self._documents[settings.issuer] = (self._clock.monotonic() + REST_S, None)
            found = await self._fetched(settings)
            self._documents[settings.issuer] = (self._clock.monotonic() + KNOWN_S, found)
            return found

    async def _fetched(self, settings: TrustedIssuer) -> dict[str, Any]:
        try:
            async with asyncio.timeout(FETCH_S), self._session(settings) as http:
                return await discovery(http, settings.issuer)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _away(settings, error) from error

    async def _post(self, settings: TrustedIssuer, url: str, form: dict[str, str]) -> dict[str, Any]:
        try:
            async with (
                asyncio.timeout(FETCH_S),
                self._session(settings) as http,
                http.post(url, data=form, allow_redirects=False, headers={"Accept": "application/json"}) as response,
            ):
                body = await response.content.read(1 << 20)
                if response.status >= 500:
                    raise Retryable("DRTP-2031", f"{settings.issuer} answered {response.status}.")
                if response.status != 200:
                    raise Refused("DRTP-2038", f"{settings.issuer} does not take the code.")
                return msgspec.json.decode(body, type=dict[str, Any])
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _away(settings, error) from error

    def _session(self, settings: TrustedIssuer) -> aiohttp.ClientSession:
        tls = roots_of(settings)
        connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True)
        return aiohttp.ClientSession(connector=connector, trust_env=True)


def _checked(url: str) -> str:
    try:
        return checked_url(url)
    except ValueError as fault:
        raise Retryable("DRTP-2031", f"The issuer names an address that is not used: {fault}.") from None


def _away(settings: TrustedIssuer, error: Exception) -> Retryable:
    return Retryable("DRTP-2031", f"{settings.issuer} cannot be asked: {str(error) or type(error).__name__}.")
