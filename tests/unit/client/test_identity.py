"""The identity on disk: private, switched whole, never bricked."""
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from drtp.api.credentials import ENROLMENT_PREFIX, compose
from drtp.api.spiffe import pin_of
from drtp.client.identity import Identity, IdentityStore, build_identity
from drtp.client.joining import parse_join, pinned_root
from drtp.client.keys import new_key
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Invalid, Refused, Terminal
from drtp.kit.secret import Secret


def certificate(key: Secret[bytes], uri: str = "spiffe://drtp.test/gateway/g1") -> bytes:
    private = serialization.load_pem_private_key(key.reveal(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    now = SystemClock().now()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "g1")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(hours=24))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(private, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)


def identity(key: Secret[bytes], generation: int = 1) -> Identity:
    chain = certificate(key)
    return build_identity(
        chain, key, chain, generation=generation, suffix="prism.test", feed_url="https://127.0.0.1:1/v1/feed"
    )


def test_everything_is_private_and_looser_modes_are_refused(tmp_path: Path):
    store = IdentityStore(tmp_path / "state")
    store.install(identity(store.pending_key()))
    for path in (tmp_path / "state").rglob("*"):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    store.paths(store.load()).key.chmod(0o644)
    with pytest.raises(Terminal) as refused:
        store.load()
    assert refused.value.code == "DRTP-7001"
    (tmp_path / "state").chmod(0o755)
    with pytest.raises(Terminal):
        IdentityStore(tmp_path / "state")


def test_pending_key_is_the_same_until_its_certificate_is_installed(tmp_path: Path):
    """ziti#2080, #2896: an answer that was lost is asked for again with the same key, even by the next process."""
    first = IdentityStore(tmp_path).pending_key()
    store = IdentityStore(tmp_path)
    assert store.pending_key() == first
    store.install(identity(first))
    assert store.pending_key() != first


def test_pair_before_is_kept_until_the_new_one_has_connected(tmp_path: Path):
    store = IdentityStore(tmp_path)
    one = identity(new_key())
    two = identity(new_key(), 2)
    store.install(one)
    assert store.other() is None
    store.install(two)
    assert store.load() == two
    assert store.other() == one
    store.choose(one)
    assert store.load() == one
    store.choose(two)
    store.confirm(two)
    assert store.other() is None
    assert store.load() == two


def test_crash_while_installing_leaves_the_old_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = IdentityStore(tmp_path)
    one = identity(new_key())
    store.install(one)
    two = identity(new_key(), 2)
    writes, allowed = 0, 0

    def failing(path: Path, data: bytes, mode: int = 0o600) -> None:
        nonlocal writes
        writes += 1
        if writes > allowed:
            raise OSError("crashed")
        path.write_bytes(data)
        path.chmod(mode)

    monkeypatch.setattr("drtp.client.identity.write_atomic", failing)
    for allowed in range(4):  # noqa: B007 -- `failing` reads it
        writes = 0
        with pytest.raises(OSError, match="crashed"):
            store.install(two)
        assert IdentityStore(tmp_path).load() == one
        assert store.other() is None
    allowed = 99
    store.install(two)
    assert store.load() == two


def test_certificate_for_another_key_is_no_identity():
    with pytest.raises(Terminal):
        build_identity(certificate(new_key()), new_key(), b"", generation=1, suffix="", feed_url="")


def test_key_shows_in_no_repr():
    key = new_key()
    assert key.reveal().decode().splitlines()[1] not in repr(identity(key))


def test_join_string_is_read_and_mistakes_are_told_without_repeating_it():
    secret = compose(ENROLMENT_PREFIX, "abcdef012345", 2**255)
    pin = "A" * 43
    for host, expected in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1"), ("edge.example.com", "edge.example.com")):
        join = parse_join(f" {secret}@{host}:8443#{pin}\n")
        assert (join.edge.host, join.edge.port, join.edge.pin) == (expected, 8443, pin)
        assert join.secret.reveal() == secret
        assert join.edge.url == f"https://{host}:8443"
    for wrong in (
        secret,
        f"{secret}@host#{pin}",
        f"{secret}@host:99999#{pin}",
        f"{secret}@host:1#short",
        f"{secret[:-1]}_@host:1#{pin}",
        f"{secret}@ho@st:1#{pin}",
        f"x{secret}@host:1#{pin}",
    ):
        with pytest.raises(Invalid) as refused:
            parse_join(wrong)
        assert secret.split("_")[3] not in str(refused.value)


def test_only_the_pinned_root_is_taken_from_a_bundle():
    ours, other = certificate(new_key()), certificate(new_key())
    pin = pin_of(x509.load_pem_x509_certificate(ours))
    assert pinned_root(other + ours, pin, SystemClock().now()) == ours
    for bundle in (other, b"nonsense", b""):
        with pytest.raises(Refused):
            pinned_root(bundle, pin, SystemClock().now())
