"""The internal authority: roots and intermediates on the control plane's disk, leafs for everybody else.

    <directory>/{identity,web}-root{,-key}.pem      two roots: what edges trust, and what visitors trust
    <directory>/intermediates/<usage>-<n>{,-key}.pem

Two roots, because a gateway holds the private keys of visitors' certificates: a hacked one must not be able to pose as
the control plane. Intermediates last 30 days; the next is prepared at half of that and active at five sixths, so that
whoever wants to know a chain beforehand can. A chain travels as leaf and intermediate; trust is in the roots alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from prometheus_client import Counter

from drtp.api.spiffe import PeerRole, SpiffeId, identity_of, pin_of
from drtp.issuers.certificates import (
    INTERMEDIATE_LIFETIME,
    PROFILES,
    Names,
    Signer,
    Usage,
    build_intermediate,
    build_leaf,
    build_root,
)
from drtp.kit.clock import Clock
from drtp.kit.errors import Refused, Terminal
from drtp.kit.files import private_directory, read_private, write_atomic
from drtp.kit.observe import REGISTRY

_ISSUED = Counter("drtp_certificates_issued", "By whom they are for.", ["usage"], registry=REGISTRY)

PREPARED_AFTER = INTERMEDIATE_LIFETIME / 2
ACTIVE_AFTER = INTERMEDIATE_LIFETIME * 5 / 6


@dataclass(frozen=True, slots=True)
class Issued:
    """A leaf and the intermediate above it, PEM, leaf first."""

    chain_pem: str
    leaf: x509.Certificate

    @property
    def not_after(self) -> datetime:
        """When the leaf ends."""
        return self.leaf.not_valid_after_utc


class Authority:
    """Issues every certificate of one installation. Opened once, by the control plane."""

    def __init__(self, directory: Path, trust_domain: str, suffix: str, clock: Clock) -> None:
        """Reads the authority in `directory`, or makes it. `suffix`: what public hostnames end with.

        Raises: Terminal if others may read the directory or a key in it.
        """
        self.trust_domain = trust_domain
        self.suffix = suffix
        self._directory = private_directory(directory)
        self._intermediates_directory = private_directory(directory / "intermediates")
        self._clock = clock
        self._identity_root = self._root("identity")
        self._web_root = self._root("web")
        self._intermediates = {usage: self._load_intermediates(usage) for usage in Usage}

    @property
    def bundle_pem(self) -> bytes:
        """The roots that edges, the API and users trust."""
        return _pem(self._identity_root.certificate)

    @property
    def web_bundle_pem(self) -> bytes:
        """The roots that visitors trust."""
        return _pem(self._web_root.certificate)

    @property
    def pin(self) -> str:
        """Fingerprint of the identity root's key, as join strings carry it."""
        return pin_of(self._identity_root.certificate)

    def identity(
        self, role: PeerRole, uid: str, *, organization: str = "", project: str = "", caller: str = ""
    ) -> SpiffeId:
        """The name of somebody in this trust domain."""
        return SpiffeId(self.trust_domain, role, uid, organization, project, caller)

    def issue(self, identity: SpiffeId, key: ec.EllipticCurvePublicKey, hosts: tuple[str, ...] = ()) -> Issued:
        """A leaf for `identity`; `hosts` are the names it may be dialled by."""
        return self._issue(Usage(identity.role.value), key, identity.uid, Names(uri=str(identity), hosts=hosts))

    def issue_web(self, key: ec.EllipticCurvePublicKey, hosts: tuple[str, ...]) -> Issued:
        """A leaf for visitors: no identity, only names."""
        return self._issue(Usage.WEB, key, hosts[0], Names(hosts=hosts))

    def verify_edge(self, chain: list[x509.Certificate], at: datetime) -> SpiffeId:
        """Whose chain this is, as of `at`; for certificates that TLS will not take any more. Raises: Refused."""
        try:
            store = Store([self._identity_root.certificate])
            PolicyBuilder().store(store).time(at).build_client_verifier().verify(chain[0], chain[1:])
        except (VerificationError, ValueError, IndexError) as error:
            raise Refused("DRTP-2001", f"The chain does not verify: {error}.") from None
        return identity_of(chain[0])

    def _issue(self, usage: Usage, key: ec.EllipticCurvePublicKey, title: str, names: Names) -> Issued:
        issuer = self._active(usage)
        profile = PROFILES[usage]
        _ISSUED.labels(usage.value).inc()
        leaf = build_leaf(issuer, key, title=title, names=names, profile=profile, now=self._clock.now())
        return Issued((_pem(leaf) + _pem(issuer.certificate)).decode(), leaf)

    def _active(self, usage: Usage) -> Signer:
        """The intermediate to issue with; prepares the next one where its time has come."""
        now = self._clock.now()
        known = self._intermediates[usage]
        if not known or _age(known[-1], now) >= PREPARED_AFTER:
            known.append(self._new_intermediate(usage, len(known) + 1))
        if len(known) > 1 and _age(known[-2], now) < ACTIVE_AFTER:
            return known[-2]
        return known[-1]

    def _root(self, name: str) -> Signer:
        path = self._directory / f"{name}-root.pem"
        if path.exists():
            return _load(path)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = build_root(key, f"DRTP {name} root {self.trust_domain}", self._clock.now())
        return _save(path, Signer(certificate, key))

    def _new_intermediate(self, usage: Usage, number: int) -> Signer:
        root = self._web_root if usage is Usage.WEB else self._identity_root
        key = ec.generate_private_key(ec.SECP256R1())
        title = f"DRTP {usage.value} {number} {self.trust_domain}"
        purposes = PROFILES[usage].purposes
        certificate = build_intermediate(root, key.public_key(), title, purposes, self._clock.now())
        return _save(self._intermediates_directory / f"{usage.value}-{number:04d}.pem", Signer(certificate, key))

    def _load_intermediates(self, usage: Usage) -> list[Signer]:
        found = sorted(self._intermediates_directory.glob(f"{usage.value}-????.pem"))
        return [_load(path) for path in found]


def _age(signer: Signer, now: datetime) -> timedelta:
    return now - signer.certificate.not_valid_before_utc


def _key_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-key.pem")


def _save(path: Path, signer: Signer) -> Signer:
    """Key first: a certificate on disk is the sign that both are there."""
    pkcs8 = serialization.PrivateFormat.PKCS8
    key_pem = signer.key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())
    write_atomic(_key_path(path), key_pem)
    write_atomic(path, _pem(signer.certificate))
    return signer


def _load(path: Path) -> Signer:
    certificate = x509.load_pem_x509_certificate(read_private(path))
    key = serialization.load_pem_private_key(read_private(_key_path(path)), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise Terminal("DRTP-2011", f"The key beside {path} does not belong to it.", "Restore both from one backup.")
    return Signer(certificate, key)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate (hex), for logs and audit."""
    return certificate.fingerprint(hashes.SHA256()).hex()
