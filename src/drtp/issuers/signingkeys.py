"""The keys that sign ID tokens of local accounts: ES256, each published a day before it signs, replaced every month."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey

from drtp.issuers.jose import VerifyingKey
from drtp.kit.clock import Clock
from drtp.kit.files import private_directory, read_private, write_atomic

LIFETIME = timedelta(days=30)
"""A key signs for so long."""
AHEAD = timedelta(days=1)
"""A key is published for so long before it signs: whoever keeps a copy of the set has it by then."""
REMEMBERED = timedelta(days=1)
"""A key that signs no more stays published for longer than any token of it is good."""

_ALGORITHM = "ES256"


class _Key(NamedTuple):
    kid: str
    made_at: datetime
    key: ECKey


class SigningKeys:
    """Of one control plane, in a private directory; names of files say when each was made."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """Raises: Terminal if others may read them."""
        self._directory = private_directory(directory)
        self._clock = clock
        self._keys = sorted((_load(path) for path in directory.glob("signing-*.pem")), key=lambda one: one.made_at)

    def sign(self, claims: dict[str, Any]) -> str:
        """A signed token of these claims."""
        active = self._active()
        return jwt.encode({"alg": _ALGORITHM, "kid": active.kid, "typ": "JWT"}, claims, active.key, [_ALGORITHM])

    def find(self, kid: str) -> VerifyingKey | None:
        """One of our own keys."""
        self._tend()
        return next((VerifyingKey(one.kid, one.key, (_ALGORITHM,)) for one in self._keys if one.kid == kid), None)

    def published(self) -> dict[str, Any]:
        """The JWK set: public parts only."""
        self._tend()
        extra = {"use": "sig", "alg": _ALGORITHM}
        return {"keys": [{**one.key.as_dict(private=False), "kid": one.kid, **extra} for one in self._keys]}

    def _active(self) -> _Key:
        self._tend()
        ripe = [one for one in self._keys if self._clock.now() - one.made_at >= AHEAD]
        return ripe[-1] if ripe else self._keys[0]

    def _tend(self) -> None:
        """Make the next key where its time has come, and part with what nobody can hold a token of."""
        now = self._clock.now()
        if not self._keys or now - self._keys[-1].made_at >= LIFETIME - AHEAD:
            self._keys.append(self._new(now))
        for old in self._keys[:-2]:
            # Its successor signs; the one after that is published.
            if now - self._keys[self._keys.index(old) + 1].made_at >= AHEAD + REMEMBERED:
                self._keys.remove(old)
                (self._directory / f"signing-{old.kid}.pem").unlink(missing_ok=True)

    def _new(self, now: datetime) -> _Key:
        made_at = now.replace(microsecond=0)
        private = ec.generate_private_key(ec.SECP256R1())
        kid = f"{made_at:%Y%m%dT%H%M%SZ}-{len(self._keys)}"
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomic(self._directory / f"signing-{kid}.pem", pem)
        return _Key(kid, made_at, ECKey.import_key(pem))


def _load(path: Path) -> _Key:
    kid = path.stem.removeprefix("signing-")
    made_at = datetime.strptime(kid.partition("-")[0] + "+0000", "%Y%m%dT%H%M%SZ%z")
    return _Key(kid, made_at, ECKey.import_key(read_private(path)))
