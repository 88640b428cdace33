"""An edge's identity on disk: written whole, synced, then switched, so that no renewal can brick it (ziti#2080, #2896).

    <directory>/identity/<generation>-<fingerprint>/{chain,key,bundle}.pem, identity.json
    <directory>/identity/current    a link to one of them, switched by rename
    <directory>/home.json               where this directory is, so that a copy of it is known as one
    <directory>/identity/pending.pem    the next key, kept until its certificate is here

The key of a certificate that is asked for is on disk *before* it is asked for: if the answer is lost, the same request
is repeated and the authority gives the same certificate. The pair before is kept until the new one has connected once.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from drtp.api.feed import EdgeRole
from drtp.api.spiffe import bundle_digest, identity_of
from drtp.client import home
from drtp.client.keys import matches, new_key
from drtp.kit.errors import Terminal
from drtp.kit.files import private_directory, read_private, sync_directory, write_atomic
from drtp.kit.secret import Secret


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this edge is until `not_after`. `chain_pem`: leaf first; `bundle_pem`: the roots to trust, and no others."""

    chain_pem: bytes
    key_pem: Secret[bytes]
    bundle_pem: bytes
    uri: str
    uid: str
    role: EdgeRole
    generation: int
    trust_domain: str
    suffix: str
    feed_url: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class IdentityPaths:
    """Where one identity's files are: stable for as long as that identity is the current one or the one before."""

    chain: Path
    key: Path
    bundle: Path


class _Facts(msgspec.Struct, frozen=True):
    generation: int
    suffix: str
    feed_url: str


def build_identity(
    chain_pem: bytes, key_pem: Secret[bytes], bundle_pem: bytes, *, generation: int, suffix: str, feed_url: str
) -> Identity:
    """An identity from its parts; names and times are read from the leaf. Raises: Terminal if the parts do not fit."""
    leaf = x509.load_pem_x509_certificates(chain_pem)[0]
    if not matches(key_pem, leaf):
        raise Terminal("DRTP-2010", "The certificate is not for this edge's key.")
    name = identity_of(leaf)
    return Identity(
        chain_pem=chain_pem,
        key_pem=key_pem,
        bundle_pem=bundle_pem,
        uri=str(name),
        uid=name.uid,
        role=EdgeRole(name.role.value),
        generation=generation,
        trust_domain=name.trust_domain,
        suffix=suffix,
        feed_url=feed_url,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


class IdentityStore:
    """One edge's identities in a private directory (0700, files 0600; looser modes are refused)."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the edge's state directory. Raises: Terminal if others may use it."""
        self._state = private_directory(directory)
        self._root = private_directory(directory / "identity")
        self._current = self._root / "current"
        self._pending = self._root / "pending.pem"

    def load(self) -> Identity | None:
        """The current identity; None before enrolment.

        Raises: Terminal for loose modes, a damaged identity, or a state directory that is a copy (DRTP-4040).
        """
        if not self._current.is_symlink():
            return None
        home.check(self._state)
        return self._read(self._current.resolve(strict=True))

    def other(self) -> Identity | None:
        """The one kept beside the current: the one before, until the current has connected once."""
        now = self._current.resolve() if self._current.is_symlink() else None
        others = [path for path in self._directories() if path != now]
        try:
            newest = max(others, key=lambda path: path.stat().st_mtime_ns, default=None)
        except FileNotFoundError:
            return None  # it has just gone
        try:
            return self._read(newest) if newest else None
        except Terminal:
            if newest is not None and (newest / "identity.json").exists():
                raise
            return None  # it goes at this moment, and that file goes first

    def paths(self, identity: Identity) -> IdentityPaths:
        """The files of an identity that is installed."""
        directory = self._directory_of(identity)
        return IdentityPaths(directory / "chain.pem", directory / "key.pem", directory / "bundle.pem")

    def pending_key(self) -> Secret[bytes]:
        """The key of the certificate that is being asked for: the same one until `install` has used it.

        A newer identity that did not work yet is asked for again with its own key: another key would look like a copy.
        """
        current, other = self.load(), self.other()
        if current is not None and other is not None and other.generation > current.generation:
            return other.key_pem
        if self._pending.exists():
            pending = Secret(read_private(self._pending))
            # A kill between the switch and the removal leaves the key that is in use: asked for with it, a certificate
            # would look like a copy's.
            if current is None or pending != current.key_pem:
                return pending
        key = new_key()
        write_atomic(self._pending, key.reveal())
        return key

    def install(self, identity: Identity) -> None:
        """Make `identity` the current one, durably; the one before stays until `confirm`."""
        if not self._current.is_symlink():
            home.settle(self._state)
        directory = private_directory(self._directory_of(identity))
        facts = _Facts(identity.generation, identity.suffix, identity.feed_url)
        write_atomic(directory / "chain.pem", identity.chain_pem)
        write_atomic(directory / "key.pem", identity.key_pem.reveal())
        write_atomic(directory / "bundle.pem", identity.bundle_pem)
        write_atomic(directory / "identity.json", msgspec.json.encode(facts))
        sync_directory(self._root)
        self._switch(directory)
        self._pending.unlink(missing_ok=True)

    def trust(self, identity: Identity, bundle_pem: bytes) -> Identity:
        """Trust these roots and no others from now on, durably; certificate and key stay.

        Raises: OSError; Terminal DRTP-2014 for a bundle that cannot be read. Then nothing has changed.
        """
        try:
            bundle_digest(bundle_pem)
        except ValueError:
            raise Terminal("DRTP-2014", "The control plane's trust bundle cannot be read.") from None
        for directory in self._directories():
            write_atomic(directory / "bundle.pem", bundle_pem)
        return replace(identity, bundle_pem=bundle_pem)

    def confirm(self, identity: Identity) -> None:
        """`identity` has connected: older ones are not needed any more."""
        keep = self._directory_of(identity)
        for directory in self._directories():
            if directory != keep and self._read(directory).generation <= identity.generation:
                # First what says that it is whole: a removal that stops midway leaves no half identity.
                (directory / "identity.json").unlink()
                shutil.rmtree(directory)

    def choose(self, identity: Identity) -> None:
        """Make an installed identity the current one, because the other does not work."""
        self._switch(self._directory_of(identity))

    def _switch(self, directory: Path) -> None:
        beside = self._root / ".current.tmp"
        beside.unlink(missing_ok=True)
        beside.symlink_to(directory.name)
        beside.replace(self._current)
        sync_directory(self._root)

    def _directory_of(self, identity: Identity) -> Path:
        leaf = x509.load_pem_x509_certificates(identity.chain_pem)[0]
        return self._root / f"{identity.generation}-{leaf.fingerprint(hashes.SHA256()).hex()[:16]}"

    def _directories(self) -> list[Path]:
        """Complete ones only: a crash may leave one half written, which `identity.json`, written last, tells."""
        return [path.parent for path in self._root.glob("*/identity.json") if not path.parent.is_symlink()]

    def _read(self, directory: Path) -> Identity:
        try:
            facts = msgspec.json.decode(read_private(directory / "identity.json"), type=_Facts)
            return build_identity(
                read_private(directory / "chain.pem"),
                Secret(read_private(directory / "key.pem")),
                read_private(directory / "bundle.pem"),
                generation=facts.generation,
                suffix=facts.suffix,
                feed_url=facts.feed_url,
            )
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise Terminal(
                "DRTP-2015", f"The identity in {directory} cannot be read ({type(error).__name__})."
            ) from error
