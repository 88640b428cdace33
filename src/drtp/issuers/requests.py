"""Reading certificate requests: the public key and the proof of possession, and not one name."""

from __future__ import annotations

from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from drtp.api.spiffe import key_fingerprint
from drtp.kit.errors import Refused

CSR_BYTES_MAX = 8192
"""A P-256 request without names is about 400 bytes."""


class ProvenKey(NamedTuple):
    """A public key whose owner has signed for it; `fingerprint` is SHA-256 of its SubjectPublicKeyInfo (hex)."""

    public: ec.EllipticCurvePublicKey
    fingerprint: str


def proven_key(csr_pem: str) -> ProvenKey:
    """The key of a request, once its signature holds. Raises: Refused DRTP-2011 (not P-256), DRTP-2012."""
    if len(csr_pem) > CSR_BYTES_MAX:
        raise Refused("DRTP-2012", "The certificate request is too large.")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        public = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise Refused("DRTP-2012") from None
    if not valid:
        raise Refused("DRTP-2012")
    fingerprint = key_fingerprint(public)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise Refused("DRTP-2011")
    return ProvenKey(public, fingerprint)
