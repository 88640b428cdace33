"""Building certificates: pure functions from keys, names and times to X.509. What each role may carry is one table."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drtp.api.spiffe import BACKDATED
from drtp.rules.renewals import EDGE_LIFETIME

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


class Usage(Enum):
    """What a certificate is issued for; each has intermediates of its own."""

    CONTROLPLANE = "controlplane"
    POP = "pop"
    GATEWAY = "gateway"
    AGENT = "agent"
    USER = "user"
    CONNECTOR = "connector"
    WEB = "web"


@dataclass(frozen=True, slots=True)
class Profile:
    """`purposes` go into leaf and intermediate; `lifetime` is the leaf's."""

    purposes: tuple[x509.ObjectIdentifier, ...]
    lifetime: timedelta


PROFILES: dict[Usage, Profile] = {
    Usage.CONTROLPLANE: Profile((SERVER, CLIENT), timedelta(hours=24)),
    Usage.POP: Profile((SERVER, CLIENT), EDGE_LIFETIME),
    Usage.GATEWAY: Profile((CLIENT,), EDGE_LIFETIME),
    # An agent is also the TLS server of end-to-end streams.
    Usage.AGENT: Profile((SERVER, CLIENT), EDGE_LIFETIME),
    Usage.USER: Profile((CLIENT,), timedelta(hours=8)),
    Usage.CONNECTOR: Profile((CLIENT,), timedelta(hours=8)),
    # Shown to visitors: nobody's identity, and a gateway must outlast a long absence of the control plane.
    Usage.WEB: Profile((SERVER,), timedelta(days=3)),
}

ROOT_LIFETIME = timedelta(days=3653)
INTERMEDIATE_LIFETIME = timedelta(days=30)
VOUCHING_LIFETIME = timedelta(days=2)
"""Made anew at each start and each hour: what a stolen root says dies with it."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate of an authority with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Names:
    """What a leaf is called: at most one URI, DNS names (wildcards: of visitors, and below a POP), IP addresses."""

    uri: str = ""
    hosts: tuple[str, ...] = ()

    def general(self) -> list[x509.GeneralName]:
        """As X.509 wants them."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(self.uri)] if self.uri else []
        for host in self.hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        return names


def build_root(key: ec.EllipticCurvePrivateKey, title: str, now: datetime) -> x509.Certificate:
    """A self-signed root."""
    name = _name(title)
    builder = _builder(name, name, key.public_key(), now, ROOT_LIFETIME)
    builder = _as_authority(builder, key.public_key(), key.public_key(), path_length=1)
    return builder.sign(key, hashes.SHA256())


def build_intermediate(
    root: Signer, key: ec.EllipticCurvePublicKey, title: str, purposes: Sequence[x509.ObjectIdentifier], now: datetime
) -> x509.Certificate:
    """An intermediate that can issue leafs for `purposes` and nothing else.

    No URI name constraints: current webpki rejects chains that carry them.
    """
    builder = _builder(_name(title), root.certificate.subject, key, now, INTERMEDIATE_LIFETIME)
    builder = _as_authority(builder, key, root.key.public_key(), path_length=0)
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(root.key, hashes.SHA256())


def build_vouching(root: Signer, other: Signer, now: datetime) -> x509.Certificate:
    """`root` says of `other`'s key that it is a root too. Never sent in a handshake; whoever trusts `root` may read it.

    Its path length lets no verifier build a chain through it to what an intermediate has issued.
    """
    key = other.key.public_key()
    builder = _builder(other.certificate.subject, root.certificate.subject, key, now, VOUCHING_LIFETIME)
    builder = _as_authority(builder, key, root.key.public_key(), path_length=0)
    return builder.sign(root.key, hashes.SHA256())


def build_leaf(
    issuer: Signer, key: ec.EllipticCurvePublicKey, *, title: str, names: Names, profile: Profile, now: datetime
) -> x509.Certificate:
    """A leaf, valid from five minutes ago for the profile's lifetime from now."""
    builder = _builder(_name(title), issuer.certificate.subject, key, now, profile.lifetime)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(profile.purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names.general()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
        .sign(issuer.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _as_authority(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    path_length: int,
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _name(title: str) -> x509.Name:
    """For people only; nothing reads it. X.520 caps a common name at 64 characters."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title[:64])])
