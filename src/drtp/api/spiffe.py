"""Names in certificates: how each role's SPIFFE URI is written and read.

Identity is read from the leaf alone and from its only URI (GHSA-mrpr-756c-xm47, GHSA-hhm9-wf63-g7qj); names are uids.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from drtp.kit.errors import Refused

BACKDATED = timedelta(minutes=5)
"""A certificate's notBefore lies this far before it was made: clocks of edges are not exact."""

_UID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_TRUST_DOMAIN = r"[a-z0-9][a-z0-9._-]{0,254}"
_AGENT = re.compile(rf"spiffe://({_TRUST_DOMAIN})/org/({_UID})/project/({_UID})/agent/({_UID})")
_CONNECTOR = re.compile(
    rf"spiffe://({_TRUST_DOMAIN})/(?:user/({_UID})|org/({_UID})/project/({_UID})/app/({_UID}))/connector/({_UID})"
)
_OTHER = re.compile(rf"spiffe://({_TRUST_DOMAIN})/(pop|gateway|controlplane|user)/({_UID})")


class PeerRole(Enum):
    """What the holder of a certificate is."""

    AGENT = "agent"
    POP = "pop"
    GATEWAY = "gateway"
    CONTROLPLANE = "controlplane"
    USER = "user"
    CONNECTOR = "connector"


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """One identity. `organization` and `project` are uids, of agents and of applications' connectors.

    `caller`: whose connector it is, the uid of a user or, with a project, of an application.
    """

    trust_domain: str
    role: PeerRole
    uid: str
    organization: str = ""
    project: str = ""
    caller: str = ""

    def __str__(self) -> str:
        """The URI."""
        if self.role is PeerRole.AGENT:
            return f"spiffe://{self.trust_domain}/org/{self.organization}/project/{self.project}/agent/{self.uid}"
        if self.role is PeerRole.CONNECTOR:
            whose = f"org/{self.organization}/project/{self.project}/app" if self.project else "user"
            return f"spiffe://{self.trust_domain}/{whose}/{self.caller}/connector/{self.uid}"
        return f"spiffe://{self.trust_domain}/{self.role.value}/{self.uid}"


def parse_uri(uri: str) -> SpiffeId:
    """Read a URI of exactly one of the known forms. Raises: Refused DRTP-2010."""
    if found := _AGENT.fullmatch(uri):
        trust_domain, organization, project, uid = found.groups()
        return SpiffeId(trust_domain, PeerRole.AGENT, uid, organization, project)
    if found := _CONNECTOR.fullmatch(uri):
        trust_domain, user, organization, project, app, uid = found.groups()
        return SpiffeId(trust_domain, PeerRole.CONNECTOR, uid, organization or "", project or "", user or app)
    if found := _OTHER.fullmatch(uri):
        trust_domain, role, uid = found.groups()
        return SpiffeId(trust_domain, PeerRole(role), uid)
    raise Refused("DRTP-2010", "The certificate's URI is none of DRTP's forms.")


def identity_of(leaf: x509.Certificate | bytes) -> SpiffeId:
    """The identity in a leaf (DER if bytes) whose chain TLS has verified. Raises: Refused DRTP-2010."""
    certificate = x509.load_der_x509_certificate(leaf) if isinstance(leaf, bytes) else leaf
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise Refused("DRTP-2010", "The certificate carries no readable names.") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise Refused("DRTP-2010", f"The certificate carries {len(uris)} URIs; exactly one is an identity.")
    return parse_uri(uris[0])


def key_fingerprint(key: object) -> str:
    """SHA-256 (hex) of a P-256 public key's SubjectPublicKeyInfo. Raises: Refused DRTP-2011 for any other key."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Refused("DRTP-2011")
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def bundle_digest(bundle_pem: bytes) -> str:
    """SHA-256 (hex) of the roots in a bundle, whatever their order."""
    prints = sorted(root.fingerprint(hashes.SHA256()) for root in x509.load_pem_x509_certificates(bundle_pem))
    return hashlib.sha256(b"".join(prints)).hexdigest()


def pin_of(root: x509.Certificate) -> str:
    """The pin of a root: base64url SHA-256 of its SubjectPublicKeyInfo, without padding; 43 characters."""
    der = root.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
