"""Signing in at an OpenID issuer, as a public client: discovery, PKCE, the token requests, the device flow.

What an ID token says is believed because it came over TLS from the issuer's own token endpoint (OpenID Connect Core,
3.1.3.7); the control plane checks its signature at every request anyway.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import secrets
import ssl
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec

from drtp.client.dialling import ProxyFailure, web_session
from drtp.client.tls import untrusted
from drtp.kit.clock import Clock, SystemClock
from drtp.kit.errors import DrtpError, Refused, Retryable, Terminal
from drtp.kit.observe import printable
from drtp.kit.secret import Secret

TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 1 << 20
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
POLL_S_MIN, POLL_S_MAX = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whom to sign in with, as the control plane says. `ca_pem` "": the machine's roots.

    `local`: it is the control plane itself, trusted as that is, whatever becomes of its roots.
    """

    issuer: str
    client_id: str
    scopes: tuple[str, ...] = ("openid", "offline_access")
    ca_pem: str = ""
    local: bool = False


class Endpoints(msgspec.Struct, frozen=True):
    """Of an issuer's discovery document, what is used here."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    device_authorization_endpoint: str = ""
    revocation_endpoint: str = ""
    authorization_response_iss_parameter_supported: bool = False


class Granted(NamedTuple):
    """What a sign-in gives. `expires_at`: of the ID token, unix seconds."""

    id_token: Secret[str]
    refresh_token: Secret[str] | None
    subject: str
    expires_at: float


class DeviceStart(msgspec.Struct, frozen=True):
    """RFC 8628, section 3.2."""

    device_code: str
    user_code: str
    verification_uri: str
    expires_in: float
    verification_uri_complete: str = ""
    interval: float = 5.0


class Pkce(NamedTuple):
    """What ties the answer to us: a verifier and its hash, a state and a nonce."""

    verifier: str
    challenge: str
    state: str
    nonce: str


class OidcClient:
    """One issuer."""

    def __init__(self, issuer: Issuer, http: aiohttp.ClientSession, endpoints: Endpoints, clock: Clock) -> None:
        self.endpoints = endpoints
        self._issuer = issuer
        self._http = http
        self._clock = clock

    def authorize_url(self, redirect_uri: str, pkce: Pkce) -> str:
        """Where the browser is to go."""
        query = {
            "response_type": "code",
            "client_id": self._issuer.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._issuer.scopes),
            "state": pkce.state,
            "nonce": pkce.nonce,
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
        }
        if "offline_access" in self._issuer.scopes:
            query["prompt"] = "consent"  # OpenID Connect Core 11: without it offline_access is passed over
        mark = "&" if urlsplit(self.endpoints.authorization_endpoint).query else "?"
        return f"{self.endpoints.authorization_endpoint}{mark}{urlencode(query)}"

    async def redeem(self, code: str, redirect_uri: str, pkce: Pkce) -> Granted:
        """Tokens for a code. Raises: Refused DRTP-7081, Terminal DRTP-7084, Retryable DRTP-7083."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": pkce.verifier,
        }
        status, answer = await self._tokens(form)
        if status != 200:
            raise Refused("DRTP-7081", f"The issuer does not take the code: {_words(answer)}.")
        return self._granted(answer, nonce=pkce.nonce)

    async def refresh(self, token: Secret[str], subject: str) -> Granted:
        """The next tokens of the same person. Raises: Refused DRTP-7085, Terminal DRTP-7084, Retryable DRTP-7083."""
        status, answer = await self._tokens({"grant_type": "refresh_token", "refresh_token": token.reveal()})
        if status != 200:
            if answer.get("error") == "invalid_grant":
                raise Refused("DRTP-7085", f"The sign-in is over: {_words(answer)}.")
            raise Terminal("DRTP-7084", f"The issuer renews no sign-in: {_words(answer)}.")
        granted = self._granted(answer)
        if granted.subject != subject:
            raise Terminal("DRTP-7084", "The issuer renewed the sign-in of somebody else.")
        # Without a new one the old one stays good.
        return granted if granted.refresh_token is not None else granted._replace(refresh_token=token)

    async def start_device(self) -> DeviceStart:
        """Codes for a person elsewhere. Raises: Terminal DRTP-7086, DRTP-7084; Retryable DRTP-7083."""
        if not self.endpoints.device_authorization_endpoint:
            raise Terminal("DRTP-7086")
        form = {"client_id": self._issuer.client_id, "scope": " ".join(self._issuer.scopes)}
        status, answer = await self._post(self.endpoints.device_authorization_endpoint, form)
        try:
            if status == 200:
                return msgspec.convert(answer, DeviceStart)
        except msgspec.ValidationError as fault:
            raise Terminal("DRTP-7084", f"The issuer's device answer cannot be used: {fault}.") from fault
        raise Terminal("DRTP-7086", f"The issuer signs no devices in: {_words(answer)}.")

    async def wait_for_device(self, start: DeviceStart) -> Granted:
        """Ask until the person has decided. Raises: Refused DRTP-7081, Retryable DRTP-7082, Terminal DRTP-7084."""
        ends_s = self._clock.monotonic() + start.expires_in
        pause_s = min(max(start.interval, POLL_S_MIN), POLL_S_MAX)
        while self._clock.monotonic() < ends_s:
            await self._clock.sleep(pause_s)
            try:
                status, answer = await self._tokens({"grant_type": DEVICE_GRANT, "device_code": start.device_code})
            except Retryable:
                continue  # the network may come back before the code has expired
            if status == 200:
                return self._granted(answer)
            match answer.get("error"):
                case "authorization_pending":
                    continue
                case "slow_down":
                    pause_s = min(pause_s + 5.0, POLL_S_MAX)
                case "access_denied":
                    raise Refused("DRTP-7081")
                case "expired_token":
                    break
                case _:
                    raise Terminal("DRTP-7084", f"The issuer ended the device's sign-in: {_words(answer)}.")
        raise Retryable("DRTP-7082")

    async def revoke(self, token: Secret[str]) -> None:
        """Tell the issuer that the sign-in is over, where it wants to hear it. Raises: Retryable DRTP-7083."""
        if self.endpoints.revocation_endpoint:
            form = {"token": token.reveal(), "token_type_hint": "refresh_token", "client_id": self._issuer.client_id}
            await self._post(self.endpoints.revocation_endpoint, form)

    def _granted(self, answer: Mapping[str, Any], nonce: str | None = None) -> Granted:
        token, refresh = answer.get("id_token"), answer.get("refresh_token")
        if not isinstance(token, str):
            raise Terminal("DRTP-7084", "The issuer gave no ID token.")
        claims = _claims(token)
        audience: Any = claims.get("aud")
        expires_at, subject = claims.get("exp"), claims.get("sub")
        ours = self._issuer.client_id in (audience if isinstance(audience, list) else [audience])
        if claims.get("iss") != self._issuer.issuer or not ours or not isinstance(subject, str):
            raise Terminal("DRTP-7084", "The issuer gave an ID token that is not for this sign-in.")
        if nonce is not None and claims.get("nonce") != nonce:
            raise Terminal("DRTP-7084", "The ID token is not of this sign-in: its nonce is another.")
        if not isinstance(expires_at, int | float):
            raise Terminal("DRTP-7084", "The ID token has no end.")
        kept = Secret(refresh) if isinstance(refresh, str) and refresh else None
        return Granted(Secret(token), kept, subject, float(expires_at))

    async def _tokens(self, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        return await self._post(self.endpoints.token_endpoint, {**form, "client_id": self._issuer.client_id})

    async def _post(self, url: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and JSON answer. A redirect is not followed: it would carry codes and tokens elsewhere."""
        checked(url)
        try:
            async with self._http.post(url, data=form, allow_redirects=False) as response:
                status, body = response.status, await response.content.read(ANSWER_BYTES_MAX)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _away(url, error) from error
        if status >= 500 or status == 429:
            raise Retryable("DRTP-7083", f"{_host(url)} answered {status}.")
        try:
            return status, msgspec.json.decode(body or b"{}", type=dict[str, Any])
        except msgspec.MsgspecError:
            raise Terminal("DRTP-7084", f"{_host(url)} answered {status} with something that is no JSON.") from None


@contextlib.asynccontextmanager
async def oidc_client(issuer: Issuer, clock: Clock | None = None) -> AsyncGenerator[OidcClient, None]:
    """A client after discovery. Raises: Retryable DRTP-7083, Terminal DRTP-7084."""
    url = f"{checked(issuer.issuer).rstrip('/')}/.well-known/openid-configuration"
    tls = ssl.create_default_context(cadata=issuer.ca_pem) if issuer.ca_pem else ssl.create_default_context()
    async with web_session(tls, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http:
        try:
            async with http.get(url, allow_redirects=False) as response:
                status, body = response.status, await response.content.read(ANSWER_BYTES_MAX)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _away(url, error) from error
        if status >= 500 or status == 429:
            raise Retryable("DRTP-7083", f"{_host(url)} answered {status}.")
        try:
            endpoints = msgspec.json.decode(body, type=Endpoints)
        except msgspec.MsgspecError as fault:
            raise Terminal("DRTP-7084", f"{url} is no discovery document: {fault}.") from fault
        if status != 200 or endpoints.issuer != issuer.issuer:
            raise Terminal("DRTP-7084", f"{url} is not the discovery document of {issuer.issuer}.")
        yield OidcClient(issuer, http, endpoints, clock or SystemClock())


def new_pkce() -> Pkce:
    """Fresh random values for one sign-in."""
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return Pkce(verifier, challenge, secrets.token_urlsafe(32), secrets.token_urlsafe(32))


def checked(url: str) -> str:
    """https, or http to this machine. Raises: Terminal DRTP-7084."""
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if parts.scheme != "https" and not local:
        raise Terminal("DRTP-7084", f"The issuer names the address {printable(url)}, which is not https.")
    return url


def _claims(token: str) -> dict[str, Any]:
    try:
        part = token.split(".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=dict[str, Any])
    except (IndexError, binascii.Error, msgspec.MsgspecError, ValueError):
        raise Terminal("DRTP-7084", "The issuer's ID token cannot be read.") from None


def _words(answer: Mapping[str, Any]) -> str:
    """What an issuer says, in a line; it may be anything."""
    said = answer.get("error_description") or answer.get("error") or "no reason given"
    return printable(str(said))[:200].rstrip(".")


def _away(url: str, error: BaseException) -> DrtpError:
    if isinstance(error, ProxyFailure):
        return error.error
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return untrusted(_host(url), error, SystemClock())
    return Retryable("DRTP-7083", f"{_host(url)} cannot be reached: {str(error) or 'no answer in time'}.")


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
