"""Certificates of the control plane's own doors, and of the gateways' public listeners, kept fresh.

Verify first, then publish: a failure keeps the old certificate, which has two thirds of its life left.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import Gauge

from drtp.api.meta import Key
from drtp.api.spiffe import PeerRole
from drtp.issuers.authority import Authority
from drtp.kit.clock import Clock
from drtp.kit.errors import Terminal
from drtp.kit.files import private_directory, read_private, write_atomic
from drtp.kit.observe import REGISTRY, logger
from drtp.store.protocol import NotFound, Object, Store

log = logger("issuers")

SYSTEM_NAMESPACE = "datum-system"
RECHECK_S = 60.0

_ENDS = Gauge(
    "drtp_serving_certificate_not_after_seconds",
    "When the certificate of a door ends, unix time: of the control plane's own, or of the public wildcard.",
    ["door"],
    registry=REGISTRY,
)


class BrowserTls:
    """What browsers are shown at a name of the operator's own: a certificate from files, read again as they change."""

    def __init__(self, host: str, chain: Path, key: Path) -> None:
        """Raises: Terminal DRTP-7093, or for a key that others may read."""
        self.host = host
        self._chain, self._key = chain, key
        read_private(key)
        try:
            self._stamp: tuple[int, int] = self._stamped()
            self._context = self._made()
        except (OSError, ValueError) as fault:
            raise Terminal("DRTP-7093", f"{chain} and {key} cannot be used: {fault}.") from fault

    @property
    def context(self) -> ssl.SSLContext:
        """For one connection."""
        return self._context

    def refresh(self) -> None:
        """Take what is in the files now. What cannot be used is said, and what was goes on."""
        try:
            stamp = self._stamped()
            if stamp != self._stamp:
                self._stamp, self._context = stamp, self._made()
                log.info("sign-in certificate read", path=str(self._chain))
        except (OSError, ValueError) as fault:
            log.warning("sign-in certificate not read", path=str(self._chain), reason=str(fault), code="DRTP-7093")

    def _stamped(self) -> tuple[int, int]:
        return self._chain.stat().st_mtime_ns, self._key.stat().st_mtime_ns

    def _made(self) -> ssl.SSLContext:
        leaf = x509.load_pem_x509_certificates(self._chain.read_bytes())[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        held = names.get_values_for_type(x509.DNSName)
        if self.host not in held and f"*.{self.host.partition('.')[2]}" not in held:
            raise ValueError(f"the certificate is for {', '.join(held) or 'no name'}, not for {self.host}")
        context = _server_context()
        context.load_cert_chain(self._chain, self._key)
        return context


class ControlplaneTls:
    """TLS of the API and edge doors: 1.3, no resumption; a client certificate is checked where one is shown."""

    def __init__(
        self,
        authority: Authority,
        directory: Path,
        hosts: Sequence[str],
        clock: Clock,
        browsers: BrowserTls | None = None,
    ) -> None:
        """`hosts`: DNS names and addresses the doors are dialled by. Files go to `directory` (0700).

        `browsers`: whoever asks for its name gets its certificate.
        """
        self._browsers = browsers
        self._authority = authority
        self._directory = private_directory(directory)
        self._hosts = tuple(hosts)
        self._clock = clock
        self._due = self._issue()
        self._context = self._made()

    def context(self) -> ssl.SSLContext:
        """For one connection: with the newest certificate, and the roots that count now."""
        return self._context

    def refresh(self) -> None:
        """A new certificate, and the roots as they are by now. Raises: OSError; then what was goes on."""
        self._due = self._issue()
        self._context = self._made()

    def _made(self) -> ssl.SSLContext:
        context = _server_context()
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=self._authority.bundle_pem.decode())
        context.load_cert_chain(self._directory / "controlplane.pem")
        if self._browsers is not None:
            context.sni_callback = self._chosen
        return context

    def _chosen(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        """Browsers come by a name of their own."""
        if self._browsers is not None and (name or "").lower() == self._browsers.host:
            connection.context = self._browsers.context

    async def run(self) -> None:
        """Renew at a third of the lifetime, until cancelled. Looks at wall time, so that sleep of the machine shows."""
        while True:
            await self._clock.sleep(RECHECK_S)
            if self._browsers is not None:
                self._browsers.refresh()
            if self._clock.now() >= self._due:
                try:
                    self.refresh()
                except OSError as error:
                    # Two thirds of its lifetime are left for somebody to make room on the disk.
                    log.warning("controlplane certificate not renewed", reason=str(error))
                    continue
                log.info("controlplane certificate renewed")

    def _issue(self) -> datetime:
        key = ec.generate_private_key(ec.SECP256R1())
        identity = self._authority.identity(PeerRole.CONTROLPLANE, "controlplane")
        issued = self._authority.issue(identity, key.public_key(), self._hosts)
        # Key and chain in one file: they change together.
        write_atomic(self._directory / "controlplane.pem", _key_pem(key) + issued.chain_pem.encode())
        _ENDS.labels("controlplane").set(issued.not_after.timestamp())
        return _due(issued.leaf)


async def ensure_serving_secret(
    store: Store, authority: Authority, clock: Clock, *, name: str, hosts: Sequence[str]
) -> datetime:
    """Keep a `kubernetes.io/tls` Secret in datum-system with a fresh certificate for `hosts`, such as `*.<suffix>`.

    Idempotent: renews when a third of the lifetime has passed or the names differ. Gives when to look again.
    """
    key_of_secret = Key("Secret", SYSTEM_NAMESPACE, name)
    try:
        present = (await store.get(key_of_secret)).object
    except NotFound:
        present = None
    leaf = _leaf_of(present)
    now = clock.now()
    if leaf is not None and set(_names_of(leaf)) == set(hosts) and _due(leaf) > now and _by(authority, present):
        _ENDS.labels("public").set(leaf.not_valid_after_utc.timestamp())
        return _due(leaf)
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_web(key.public_key(), tuple(hosts))
    data = {"tls.crt": issued.chain_pem.encode(), "tls.key": _key_pem(key), "ca.crt": authority.web_bundle_pem}
    obj: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": SYSTEM_NAMESPACE,
            "labels": {"app.kubernetes.io/managed-by": "drtp.datumapis.com"},
        },
        "type": "kubernetes.io/tls",
        "data": {field: base64.b64encode(value).decode() for field, value in data.items()},
    }
    await (store.update(obj) if present else store.create(obj))
    _ENDS.labels("public").set(issued.not_after.timestamp())
    log.info("serving certificate issued", secret=name, not_after=str(issued.not_after))
    return _due(issued.leaf)


async def keep_serving_secret(
    store: Store, authority: Authority, clock: Clock, *, name: str, hosts: Sequence[str]
) -> None:
    """`ensure_serving_secret`, again whenever it is due, until cancelled."""
    while True:
        due = await ensure_serving_secret(store, authority, clock, name=name, hosts=hosts)
        while clock.now() < due:
            await clock.sleep(min(RECHECK_S, max(1.0, (due - clock.now()).total_seconds())))


def _due(leaf: x509.Certificate) -> datetime:
    lifetime: timedelta = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    return leaf.not_valid_before_utc + lifetime / 3


def _leaf_of(secret: Object | None) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(base64.b64decode(secret["data"]["tls.crt"])) if secret else None
    except (KeyError, ValueError, TypeError):
        return None  # Somebody wrote nonsense into it: issue anew.


def _by(authority: Authority, secret: Object | None) -> bool:
    """Whether the secret is of this authority: a restored or copied data directory may hold another one's."""
    return bool(secret) and base64.b64decode(secret["data"].get("ca.crt", "")) == authority.web_bundle_pem


def _names_of(leaf: x509.Certificate) -> list[str]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Resumption admits clients that a full handshake would refuse (CVE-2025-23419, CVE-2025-68121).
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    return context
