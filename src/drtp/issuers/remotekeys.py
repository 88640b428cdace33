"""The public keys of a foreign issuer: found by discovery, kept, fetched again when a token names one that is unknown.

One task owns the fetching, so no caller does it, and none waits for an issuer longer than a fetch may take. After each
fetch the task rests: unknown key ids of strangers make us ask an issuer once in a while, never as often as they like.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from prometheus_client import Counter

from drtp.issuers.jose import VerifyingKey, key_set
from drtp.kit.clock import Clock
from drtp.kit.errors import Retryable
from drtp.kit.observe import REGISTRY, logger, printable

log = logger("issuers")

FETCH_S = 5.0
"""For discovery and keys together; a caller with an unknown key waits no longer either."""
REST_S = 10.0
"""Between two fetches from one issuer, whoever asks."""
FRESH_S = timedelta(hours=1).total_seconds()
"""After it, keys are fetched again behind the next request, so that a withdrawn key is noticed."""
KEPT_S = timedelta(hours=24).total_seconds()
"""Keys of an issuer that has been silent so long prove nobody any more."""
DOCUMENT_BYTES_MAX = 256 * 1024

_FETCHES = Counter("drtp_issuer_fetches", "Fetches of issuers' keys, by result.", ["result"], registry=REGISTRY)


class RemoteKeys:
    """Of one issuer."""

    def __init__(self, issuer: str, clock: Clock, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: whom to trust there; None: the machine's roots."""
        self._issuer = issuer
        self._clock = clock
        self._tls = tls
        self._keys: dict[str, VerifyingKey] = {}
        self._fetched_s = -KEPT_S
        self._asked = asyncio.Event()
        self._resting = False
        self._answered = asyncio.Event()

    async def run(self) -> None:
        """Fetch when asked, then rest, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self._fetch()
            self._resting = True
            self._answered.set()
            self._answered = asyncio.Event()
            await self._clock.sleep(REST_S)
            self._resting = False

    async def find(self, kid: str) -> VerifyingKey | None:
        """The key of this id; None if the issuer has none, as far as we know."""
        known = self._known(kid)
        if known is None or self._age_s >= FRESH_S:
            self._asked.set()
        if known is not None or self._resting:
            return known
        answered = self._answered
        try:
            async with asyncio.timeout(FETCH_S + 1.0):
                await answered.wait()
        except TimeoutError:
            return None
        return self._known(kid)

    @property
    def _age_s(self) -> float:
        return self._clock.monotonic() - self._fetched_s

    def _known(self, kid: str) -> VerifyingKey | None:
        return self._keys.get(kid) if self._age_s < KEPT_S else None

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                self._keys = await fetch_keys(self._issuer, self._tls)
        except Exception as error:
            # Whatever an issuer says or does not, the others' people go on: this task must not end.
            _FETCHES.labels("failed").inc()
            what = error.what if isinstance(error, Retryable) else type(error).__name__
            log.warning("issuer's keys not fetched", issuer=self._issuer, code="DRTP-2031", reason=printable(what))
            return
        _FETCHES.labels("fetched").inc()
        self._fetched_s = self._clock.monotonic()
        log.info("issuer's keys fetched", issuer=self._issuer, keys=len(self._keys))


async def fetch_keys(issuer: str, tls: ssl.SSLContext | None) -> dict[str, VerifyingKey]:
    """Discovery, then the keys it names. Raises: Retryable DRTP-2031."""
    connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True)
    try:
        async with aiohttp.ClientSession(connector=connector, trust_env=True) as http:
            found = await discovery(http, issuer)
            return key_set(await get_document(http, checked_url(str(found.get("jwks_uri", "")))))
    except (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise Retryable("DRTP-2031", f"The keys of {issuer} cannot be fetched: {error}.") from error


async def discovery(http: aiohttp.ClientSession, issuer: str) -> dict[str, Any]:
    """An issuer's discovery document. Raises: Retryable DRTP-2031 if it is of another one, or as `get_document`."""
    document = await get_document(http, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    found = msgspec.json.decode(document, type=dict[str, Any])
    if found.get("issuer") != issuer:
        raise Retryable("DRTP-2031", f"The discovery document of {issuer} is of another issuer.")
    return found


async def get_document(http: aiohttp.ClientSession, url: str) -> bytes:
    """A whole document, capped before it is buffered. A redirect is no answer: it would choose the host for us."""
    async with http.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as response:
        if response.status != 200:
            raise Retryable("DRTP-2031", f"{url} answered {response.status}.")
        body = bytearray()
        async for chunk in response.content.iter_chunked(64 * 1024):
            body += chunk
            if len(body) > DOCUMENT_BYTES_MAX:
                raise Retryable("DRTP-2031", f"{url} is larger than any key set.")
        return bytes(body)


def checked_url(url: str) -> str:
    """https, or http to this very machine. Raises: ValueError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" and host and not parts.username:
        return url
    if parts.scheme == "http" and not parts.username:
        try:
            local = ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = host == "localhost"
        if local:
            return url
    raise ValueError(f"{url} is not https")
