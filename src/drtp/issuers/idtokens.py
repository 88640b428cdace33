"""Whom an ID token proves: tokens of configured foreign issuers, and of our own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from drtp.issuers.jose import VerifyingKey, read_token, verify
from drtp.issuers.localissuer import LocalIssuer
from drtp.issuers.remotekeys import RemoteKeys
from drtp.kit.clock import Clock
from drtp.kit.errors import Refused
from drtp.kit.secret import Secret
from drtp.rules.idclaims import Expected, subject_of


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """One issuer that the operator trusts to say who somebody is.

    `audience`: the one party its tokens must be for: the client id that people sign in with. `prefix` goes before the
    subject in the user's name and before each group; it ends with `#`. `groups_claim` "": groups count for nothing.
    `login`: people are sent there to sign in; False for workloads. `ca_pem` b"": the machine's roots. `client_secret`:
    shown with a visitor's code, where the issuer wants one; `datumctl` has none.
    """

    issuer: str
    audience: str
    prefix: str
    groups_claim: str = ""
    login: bool = True
    scopes: tuple[str, ...] = ("openid", "offline_access")
    ca_pem: bytes = b""
    client_secret: Secret[str] | None = None


class Proven(NamedTuple):
    """`name`: the user's. `account`: of a local account instead, its uid. `nonce`: of the sign-in, "" for none.

    `made`: when the token was; long ago, if it does not say.
    """

    name: str
    groups: tuple[str, ...]
    made: datetime
    until: datetime
    account: str = ""
    nonce: str = ""


@dataclass(slots=True)
class _Known:
    settings: TrustedIssuer
    keys: RemoteKeys
    expected: Expected = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.expected = Expected(settings.issuer, settings.audience, settings.groups_claim)


class IdTokens:
    """Every issuer of one control plane. A foreign one that fails keeps nobody else waiting: each has a fetcher."""

    def __init__(self, trusted: Sequence[TrustedIssuer], clock: Clock, local: LocalIssuer | None = None) -> None:
        self._clock = clock
        self._local = local
        self._foreign = {one.issuer: _Known(one, RemoteKeys(one.issuer, clock, roots_of(one))) for one in trusted}

    async def run(self) -> None:
        """Fetch keys as they are asked for, until cancelled."""
        async with asyncio.TaskGroup() as fetchers:
            for known in self._foreign.values():
                fetchers.create_task(known.keys.run())

    async def proven(self, text: str) -> Proven:
        """Whom the token proves. Raises: Refused DRTP-2030, whose sentence is for logs, never for the caller."""
        token = read_token(text)
        issuer, now = token.claims.get("iss"), self._clock.now().timestamp()
        if self._local is not None and issuer == self._local.issuer:
            claims = verify(token, _known(self._local.keys.find(token.kid)))
            subject = subject_of(claims, Expected(self._local.issuer, self._local.client), now)
            return Proven(
                "", (), _made(claims), _moment(subject.expires_at), account=subject.subject, nonce=_nonce(claims)
            )
        known = self._foreign.get(issuer) if isinstance(issuer, str) else None
        if known is None:
            raise Refused("DRTP-2030", "The ID token is not accepted: nobody trusts its issuer here.")
        claims = verify(token, _known(await known.keys.find(token.kid)))
        subject = subject_of(claims, known.expected, now)
        prefix = known.settings.prefix
        groups = tuple(prefix + group for group in subject.groups)
        return Proven(
            prefix + subject.subject, groups, _made(claims), _moment(subject.expires_at), nonce=_nonce(claims)
        )


def _known(key: VerifyingKey | None) -> VerifyingKey:
    if key is None:
        raise Refused("DRTP-2030", "The ID token is not accepted: its key is not known, or not any more.")
    return key


def _nonce(claims: dict[str, Any]) -> str:
    said = claims.get("nonce")
    return said if isinstance(said, str) else ""


def _made(claims: dict[str, Any]) -> datetime:
    said = claims.get("iat")
    with contextlib.suppress(OverflowError, ValueError, OSError):
        if isinstance(said, int | float):
            return _moment(said)
    return datetime.min.replace(tzinfo=UTC)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def roots_of(issuer: TrustedIssuer) -> ssl.SSLContext | None:
    """What its certificate is held against; None: the machine's roots."""
    if not issuer.ca_pem:
        return None
    context = ssl.create_default_context(cadata=issuer.ca_pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
