"""Keys and certificate requests: made here, on the edge; the private key never leaves."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from drtp.kit.errors import Terminal
from drtp.kit.secret import Secret


def new_key() -> Secret[bytes]:
    """A fresh ECDSA P-256 private key, PKCS#8 PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Secret(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def request_for(key: Secret[bytes]) -> str:
    """A certificate request (PEM) that proves possession of `key`. It asks for no name: the authority decides names."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(_load(key), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def sign(key: Secret[bytes], message: bytes) -> bytes:
    """ECDSA with SHA-256, DER."""
    return _load(key).sign(message, ec.ECDSA(hashes.SHA256()))


def matches(key: Secret[bytes], certificate: x509.Certificate) -> bool:
    """Whether `certificate` is for this very key."""
    return _load(key).public_key() == certificate.public_key()


def _load(key: Secret[bytes]) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key.reveal(), password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise Terminal("DRTP-2011")
    return loaded
