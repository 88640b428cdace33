"""The form of secrets that people copy: `<prefix><id:12>_<secret:43>_<crc32:6>`.

Prefix and checksum let secret scanners find them and let a typing error be told before anything is sent.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

ENROLMENT_PREFIX = "drtp_enr_"
TOKEN_PREFIX = "drtp_pat_"  # noqa: S105 -- the public part of every token
REFRESH_PREFIX = "drtp_rft_"
INVITATION_PREFIX = "drtp_inv_"

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_DIGITS = 43
"""62^43 is just above 2^256."""

_FORM = re.compile(rf"(drtp_(?:enr|inv|pat|rft)_)([0-9a-z]{{12}})_([0-9A-Za-z]{{{SECRET_DIGITS}}})_([0-9A-Za-z]{{6}})")


class Credential(NamedTuple):
    """A well-formed one. `id` is no secret; `text` is the whole."""

    prefix: str
    id: str
    text: str


def compose(prefix: str, name: str, secret: int) -> str:
    """Write a credential; `secret` has 256 random bits."""
    body = f"{prefix}{name}_{base62(secret, SECRET_DIGITS)}"
    return f"{body}_{base62(zlib.crc32(body.encode()), 6)}"


def read(text: str, prefix: str) -> Credential | None:
    """A credential of this prefix whose form and checksum hold, else None."""
    found = _FORM.fullmatch(text)
    if found is None or found[1] != prefix:
        return None
    body, _, checksum = text.rpartition("_")
    return Credential(prefix, found[2], text) if checksum == base62(zlib.crc32(body.encode()), 6) else None


def base62(value: int, digits: int) -> str:
    """`value` in exactly so many digits, most significant first."""
    written: list[str] = []
    for _ in range(digits):
        value, digit = divmod(value, 62)
        written.append(ALPHABET[digit])
    return "".join(reversed(written))
