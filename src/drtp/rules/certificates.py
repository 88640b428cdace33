"""Serving certificates that owners bring: whether one can serve, and for which of its names it may."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from drtp.api.core import Secret
from drtp.rules import hostnames

_CACHED_MAX = 4096
"""Pairs whose judgement is remembered: loading a key costs milliseconds, and every change of a port asks again."""

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""Whatever a stranger's bytes can raise: the port they are meant for is everybody's."""


def serving_names(secret: Secret, allowed: Iterable[str]) -> tuple[str, ...]:
    """Names that a kubernetes.io/tls Secret serves on listeners with the hostnames `allowed` (`*`: any).

    Empty where it cannot serve: unreadable, a key of another certificate, or none of its names is the listener's. A
    certificate says of itself what it likes, so it answers for no name that its listener has no claim to.
    """
    pair = pair_of(secret)
    names = _names(*pair) if pair else ()
    found: dict[str, None] = {}
    for hostname in allowed:
        met = (hostnames.intersect(hostname, (name.lower(),)) for name in names)
        found.update((name, None) for names_met in met for name in names_met)
    return tuple(found)


def pair_of(secret: Secret) -> tuple[str, str] | None:
    """(chain, key) in PEM; None where a part is missing or is no text."""
    try:
        chain, key = (base64.b64decode(secret.data[name], validate=True).decode() for name in ("tls.crt", "tls.key"))
    except (KeyError, binascii.Error, UnicodeDecodeError):
        return None
    return chain, key


def dns_names(chain_pem: bytes) -> tuple[str, ...]:
    """The DNS names of a chain's leaf; none if it cannot be read."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except _UNREADABLE:
        return ()
    return tuple(names.get_values_for_type(x509.DNSName))


@lru_cache(maxsize=_CACHED_MAX)
def _names(chain_pem: str, key_pem: str) -> tuple[str, ...]:
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem.encode())[0]
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
        if _public(key.public_key()) != _public(leaf.public_key()):
            return ()
    except _UNREADABLE:
        return ()
    return dns_names(chain_pem.encode())


def _public(key: object) -> bytes:
    to_bytes = getattr(key, "public_bytes")  # noqa: B009 - every kind of public key has it, their union has no name
    return to_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
