"""The internal authority: roots and intermediates on the control plane's disk, leafs for everybody else.

    <directory>/{identity,web}-root{,-key}.pem      two roots: what edges trust, and what visitors trust
    <directory>/identity-root-<n>{,-key}.pem        later roots of the first kind, from 0002 on
    <directory>/intermediates/<usage>-<n>{,-key}.pem

Two roots, because a gateway holds the private keys of visitors' certificates: a hacked one must not be able to pose as
the control plane. Intermediates last 30 days; the next is prepared at half of that and active at five sixths, so that
whoever wants to know a chain beforehand can. A chain travels as leaf and intermediate; trust is in the roots alone.

Files are only added. Which roots count, and which of them issues for whom, is in the store, and told by `follow`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from prometheus_client import Counter

from drtp.api.internal import AuthoritySpec
from drtp.api.spiffe import PeerRole, SpiffeId, bundle_digest, identity_of, pin_of
from drtp.issuers.certificates import (
    INTERMEDIATE_LIFETIME,
    PROFILES,
    Names,
    Signer,
    Usage,
    build_intermediate,
    build_leaf,
    build_root,
    build_vouching,
)
from drtp.kit.clock import Clock
from drtp.kit.errors import Refused, Terminal
from drtp.kit.files import private_directory, read_private, write_atomic
from drtp.kit.latest import Latest
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


@dataclass(frozen=True, slots=True)
class Offer:
    """What edges are to trust. `issue` changes when certificates of before are to be replaced, though still good."""

    bundle_pem: bytes
    digest: str
    issue: tuple[object, ...]


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
        self._roots = {1: self._root("identity")} | self._later_roots()
        self._web_root = self._root("web")
        self._intermediates = {usage: self._load_intermediates(usage) for usage in Usage}
        self._state = AuthoritySpec()
        self._vouching: tuple[x509.Certificate, ...] = ()
        self.offer: Latest[Offer] = Latest()
        """Changes whenever edges have something to do about it."""
        self.follow(self._state)

    @property
    def bundle_pem(self) -> bytes:
        """The roots that edges, the API and users trust."""
        return b"".join(_pem(self._roots[number].certificate) for number in self._state.trusted)

    @property
    def public_bundle_pem(self) -> bytes:
        """For whoever knows one root, perhaps one that is gone: the roots, and what they say of one another.

        Worth nothing until compared with a pin or a root that is trusted already.
        """
        former = (self._roots[number].certificate for number in self._retired())
        return self.bundle_pem + b"".join(_pem(one) for one in (*former, *self._vouching))

    @property
    def web_bundle_pem(self) -> bytes:
        """The roots that visitors trust."""
        return _pem(self._web_root.certificate)

    @property
    def pin(self) -> str:
        """Fingerprint of the root above the control plane's doors, as join strings carry it."""
        return pin_of(self._roots[self._state.doors].certificate)

    @property
    def founding_pem(self) -> bytes:
        """The first root, which names the installation for ever."""
        return _pem(self._roots[1].certificate)

    @property
    def founding_pin(self) -> str:
        """Of the first root: the same for as long as this installation lives."""
        return pin_of(self._roots[1].certificate)

    @property
    def state(self) -> AuthoritySpec:
        """What it follows."""
        return self._state

    @property
    def roots(self) -> dict[int, x509.Certificate]:
        """Every root there ever was, by number."""
        return {number: signer.certificate for number, signer in self._roots.items()}

    def follow(self, state: AuthoritySpec) -> None:
        """Trust and issue as `state` says. Raises: Terminal DRTP-2044 for a root that is not on this disk."""
        missing = {*state.trusted, state.clients, state.doors} - self._roots.keys()
        if missing:
            raise Terminal("DRTP-2044", f"Root {min(missing)} is not in {self._directory}.")
        self._state = state
        now = self._clock.now()
        voices = (*state.trusted, *self._retired())
        pairs = [(by, of) for by in voices for of in state.trusted if by != of]
        self._vouching = tuple(build_vouching(self._roots[by], self._roots[of], now) for by, of in pairs)
        bundle = self.bundle_pem
        offer = Offer(bundle, bundle_digest(bundle), (state.clients, *sorted(state.floors.items())))
        if self.offer.value != offer:
            self.offer.set(offer)

    def new_root(self) -> int:
        """Make the next root, durably; gives its number. Nobody trusts it before `follow` says so."""
        number = max(self._roots) + 1
        key = ec.generate_private_key(ec.SECP256R1())
        title = f"DRTP identity root {number} {self.trust_domain}"
        certificate = build_root(key, title, self._clock.now())
        self._roots[number] = _save(self._directory / f"identity-root-{number:04d}.pem", Signer(certificate, key))
        return number

    def next_floors(self) -> dict[str, int]:
        """Numbers that no intermediate has yet: with them as floors, every usage gets a new one."""
        return {usage.value: self._newest(usage) + 1 for usage in Usage}

    def is_current(self, usage: Usage, chain_pem: str) -> bool:
        """Whether this chain is under the root, and not below the intermediate, that its like are issued under now."""
        try:
            above = x509.load_pem_x509_certificates(chain_pem.encode())[1]
        except (ValueError, IndexError):
            return False
        return any(above == signer.certificate for _, signer in self._usable(usage))

    def intermediates(self) -> list[tuple[Usage, int, x509.Certificate]]:
        """Those that may issue now, oldest first."""
        return [(usage, number, signer.certificate) for usage in Usage for number, signer in self._usable(usage)]

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
        return self._verified(chain, at, (*self._state.trusted, *self._retired()))

    @property
    def abandons(self) -> bool:
        """Whether a root was rolled back under which somebody may still have a certificate."""
        return any(number in self._roots for number in self._state.abandoned)

    def verify_abandoned(self, chain: list[x509.Certificate], at: datetime) -> SpiffeId:
        """As `verify_edge`, under a root that was rolled back. Somebody else may have its key, and have made the chain:
        only a key that is on record shows whose it is. Raises: Refused.
        """
        left = [number for number in self._state.abandoned if number in self._roots]
        return self._verified(chain, at, left)

    def _verified(self, chain: list[x509.Certificate], at: datetime, numbers: Iterable[int]) -> SpiffeId:
        try:
            store = Store([self._roots[number].certificate for number in dict.fromkeys(numbers)])
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
        known = [signer for _, signer in self._usable(usage)]
        if not known or _age(known[-1], now) >= PREPARED_AFTER:
            known.append(self._new_intermediate(usage))
        if len(known) > 1 and _age(known[-2], now) < ACTIVE_AFTER:
            return known[-2]
        return known[-1]

    def _usable(self, usage: Usage) -> Iterable[tuple[int, Signer]]:
        """Intermediates under the root that issues for this usage, from its floor on, oldest first."""
        above, floor = self._above(usage).certificate.subject, self._state.floors.get(usage.value, 1)
        held = self._intermediates[usage]
        return [(number, one) for number, one in held if number >= floor and one.certificate.issuer == above]

    def _above(self, usage: Usage) -> Signer:
        if usage is Usage.WEB:
            return self._web_root
        return self._roots[self._state.doors if usage is Usage.CONTROLPLANE else self._state.clients]

    def _retired(self) -> list[int]:
        """Roots that are gone, and still vouch for those that count.

        And those that are on disk and later than what is stored: a backup of before was restored, and edges may trust
        them alone.
        """
        now, state = self._clock.now(), self._state
        due = {int(number) for number, until in state.retired.items() if until > now}
        due |= {number for number in self._roots if number > max(state.trusted)}
        return sorted(due & self._roots.keys() - {*state.trusted, *state.abandoned})

    def _newest(self, usage: Usage) -> int:
        return max((number for number, _ in self._intermediates[usage]), default=0)

    def _root(self, name: str) -> Signer:
        path = self._directory / f"{name}-root.pem"
        if path.exists():
            return _load(path)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = build_root(key, f"DRTP {name} root {self.trust_domain}", self._clock.now())
        return _save(path, Signer(certificate, key))

    def _later_roots(self) -> dict[int, Signer]:
        found = ((_number(path), path) for path in self._directory.glob("identity-root-*.pem"))
        return {number: _load(path) for number, path in sorted(found) if number}

    def _new_intermediate(self, usage: Usage) -> Signer:
        root = self._above(usage)
        number = max(self._newest(usage) + 1, self._state.floors.get(usage.value, 1))
        key = ec.generate_private_key(ec.SECP256R1())
        title = f"DRTP {usage.value} {number} {self.trust_domain}"
        purposes = PROFILES[usage].purposes
        certificate = build_intermediate(root, key.public_key(), title, purposes, self._clock.now())
        made = _save(self._intermediates_directory / f"{usage.value}-{number:04d}.pem", Signer(certificate, key))
        self._intermediates[usage].append((number, made))
        return made

    def _load_intermediates(self, usage: Usage) -> list[tuple[int, Signer]]:
        found = sorted(self._intermediates_directory.glob(f"{usage.value}-????.pem"))
        return [(_number(path), _load(path)) for path in found if _number(path)]


_NUMBERED = re.compile(r"-(\d{4})$")


def _number(path: Path) -> int:
    """In the name of a certificate's file; 0 where there is none, as in a key's."""
    found = _NUMBERED.search(path.stem)
    return int(found[1]) if found else 0


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
