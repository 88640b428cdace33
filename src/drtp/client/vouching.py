"""From roots that one trusts to those that came after them: a root that is left says which follows it.

The control plane offers its roots, and what they say of one another, to anybody. What is offered is believed as far as
a root that is trusted already has signed for it, and no further.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from datetime import datetime

import aiohttp
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from yarl import URL

from drtp.client.dialling import ProxyFailure, believing_anybody, web_session
from drtp.kit.errors import Refused

OFFER_BYTES_MAX = 256 << 10
CERTIFICATES_MAX = 64
"""Of one offer; a rotation a month for years would not fill it."""
TIMEOUT_S = 10.0


async def offered(url: URL) -> bytes:
    """What a control plane offers at `url`, unverified. Raises: aiohttp.ClientError, OSError, TimeoutError."""
    # Nothing secret goes over this connection, and nothing that comes is believed but by its signatures or a pin.
    unverified = believing_anybody()
    unverified.minimum_version = ssl.TLSVersion.TLSv1_3
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with web_session(unverified, timeout=timeout) as http, http.get(url) as response:
            return await response.content.read(OFFER_BYTES_MAX)
    except ProxyFailure as error:
        raise error.error from error


def successors(trusted: Sequence[x509.Certificate], offer_pem: bytes, now: datetime) -> list[x509.Certificate]:
    """The roots on offer that a trusted one vouches for, directly or by way of another. Raises: Refused DRTP-2014."""
    offer = read_roots(offer_pem)
    believed = list(trusted)
    while found := [root for root in offer if root not in believed and _vouched(root, believed, offer, now)]:
        believed += found
    return believed[len(trusted) :]


def read_roots(pem: bytes) -> list[x509.Certificate]:
    """The certificates in a bundle. Raises: Refused DRTP-2014."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Refused("DRTP-2014", "The control plane's trust bundle cannot be read.") from None
    if len(found) > CERTIFICATES_MAX:
        raise Refused("DRTP-2014", f"The control plane's trust bundle has more than {CERTIFICATES_MAX} certificates.")
    return found


def pem_of(roots: Iterable[x509.Certificate]) -> bytes:
    """A bundle of these roots."""
    return b"".join(root.public_bytes(serialization.Encoding.PEM) for root in roots)


def _vouched(
    root: x509.Certificate, believed: Sequence[x509.Certificate], offer: Sequence[x509.Certificate], now: datetime
) -> bool:
    """Whether `root` stands by itself, and some certificate of a believed root is for its name and key."""
    if not _issued(root, root, now):
        return False
    for said in offer:
        same = said.subject == root.subject and said.public_key() == root.public_key()
        if (
            same
            and not _has_purposes(said)
            and any(said.subject != by.subject and _issued(said, by, now) for by in believed)
        ):
            return True
    return False


def _has_purposes(certificate: x509.Certificate) -> bool:
    """Whether it is an intermediate's: these are for some purposes, roots and what is said of roots for none.

    Without this, whoever has an intermediate's key could make a root of it.
    """
    try:
        certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return False
    except ValueError:
        return True
    return True


def _issued(certificate: x509.Certificate, by: x509.Certificate, now: datetime) -> bool:
    """Whether `by` has signed this certificate as an authority's, for now."""
    try:
        certificate.verify_directly_issued_by(by)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    in_time = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
    return constraints.ca and in_time
