"""The one string that suffices to enrol: `drtp_enr_...@host:port#pin`."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime

from drtp.api.credentials import ENROLMENT_PREFIX, read
from drtp.api.spiffe import pin_of
from drtp.client.vouching import pem_of, read_roots, successors
from drtp.kit.errors import Invalid, Refused
from drtp.kit.secret import Secret

_PLACE = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s@:#\[\]]+):(?P<port>\d{1,5})#(?P<pin>\S+)"
_EDGE = re.compile(_PLACE)
_JOIN = re.compile(rf"(?P<secret>drtp_enr_[0-9A-Za-z_]+)@{_PLACE}")


@dataclass(frozen=True, slots=True)
class EdgeAddress:
    """Where edges connect, and what makes it trusted: the `pin` of a root, or the roots themselves.

    `pin` is base64url SHA-256 of the root's SubjectPublicKeyInfo, without padding.
    """

    host: str
    port: int
    pin: str = ""
    bundle_pem: bytes = b""

    @property
    def url(self) -> str:
        """`https://host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class JoinString:
    """A secret and the address it is for."""

    secret: Secret[str]
    edge: EdgeAddress


def parse_edge(text: str) -> EdgeAddress:
    """Read `host:port#pin`, a join string without a secret. Raises: Invalid DRTP-2013."""
    found = _EDGE.fullmatch(text.strip())
    if found is None or not 0 < int(found["port"]) < 65536:
        raise Invalid("DRTP-2013", "The control plane is not written HOST:PORT#PIN.")
    return _address(found)


def parse_join(text: str) -> JoinString:
    """Read the string people are given. Raises: Invalid DRTP-2013, without repeating the secret."""
    found = _JOIN.fullmatch(text.strip())
    if found is None or read(found["secret"], ENROLMENT_PREFIX) is None or not 0 < int(found["port"]) < 65536:
        raise Invalid("DRTP-2013")
    return JoinString(Secret(found["secret"]), _address(found))


def _address(found: re.Match[str]) -> EdgeAddress:
    pin = found["pin"]
    try:
        if len(base64.urlsafe_b64decode(pin + "=")) != 32:
            raise Invalid("DRTP-2013", "The part after # is not a fingerprint.")
    except (binascii.Error, ValueError):
        raise Invalid("DRTP-2013", "The part after # is not a fingerprint.") from None
    return EdgeAddress(found["host"].strip("[]"), int(found["port"]), pin)


def pinned_root(bundle_pem: bytes, pin: str, now: datetime) -> bytes:
    """The root on offer that has this pin, and those that it vouches for, PEM. Raises: Refused DRTP-2014."""
    for root in read_roots(bundle_pem):
        if pin_of(root) == pin and root.subject == root.issuer:
            return pem_of([root, *successors([root], bundle_pem, now)])
    raise Refused("DRTP-2014")
