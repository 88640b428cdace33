"""How secrets are kept: HMAC-SHA256 with a pepper that is on the control plane's disk only.

Not argon2: these secrets have 256 random bits, and a slow hash on an unauthenticated route is an amplifier.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from drtp.api.credentials import compose
from drtp.kit.files import private_directory, read_private, write_atomic
from drtp.kit.secret import Secret

_ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


class Pepper:
    """One purpose's pepper. Replacing it (a restore does, for enrolment) makes every secret digested with it void."""

    def __init__(self, value: bytes) -> None:
        self._value = Secret(value)

    @classmethod
    def open(cls, directory: Path, purpose: str) -> Pepper:
        """Read `pepper-<purpose>` (0600), or make it."""
        path = private_directory(directory) / f"pepper-{purpose}"
        if not path.exists():
            write_atomic(path, secrets.token_bytes(32))
        return cls(read_private(path))

    def digest(self, text: str) -> str:
        """Hex."""
        return hmac.new(self._value.reveal(), text.encode(), hashlib.sha256).hexdigest()

    def fits(self, text: str, digest: str) -> bool:
        """In constant time."""
        return hmac.compare_digest(self.digest(text), digest)


def new_credential(prefix: str) -> tuple[str, Secret[str]]:
    """A fresh (id, credential)."""
    name = "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))
    return name, Secret(compose(prefix, name, random_secret()))


def random_secret() -> int:
    """256 random bits, as `compose` takes them."""
    return secrets.randbits(256)
