"""Certificates: what each role's carries, and how intermediates follow one another."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from drtp.api.spiffe import PeerRole, SpiffeId, identity_of, parse_uri
from drtp.issuers.authority import Authority
from drtp.issuers.certificates import PROFILES, Names, Signer, Usage, build_leaf, build_root
from drtp.kit.clock import FakeClock
from drtp.kit.errors import Refused, Terminal


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def authority(directory: Path, clock: FakeClock | None = None) -> Authority:
    return Authority(directory / "authority", "drtp.test", "prism.test", clock or FakeClock())


def intermediate_of(chain_pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain_pem.encode())[1]


def test_state_is_private_and_survives_a_restart(tmp_path: Path):
    first = authority(tmp_path)
    first.issue(first.identity(PeerRole.POP, "p"), key().public_key())
    assert authority(tmp_path).pin == first.pin
    for path in (tmp_path / "authority").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    (tmp_path / "authority" / "identity-root-key.pem").chmod(0o640)
    with pytest.raises(Terminal) as refused:
        authority(tmp_path)
    assert refused.value.code == "DRTP-7001"


@pytest.mark.parametrize(
    ("role", "purposes"),
    [
        (PeerRole.AGENT, {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}),
        (PeerRole.POP, {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}),
        (PeerRole.CONTROLPLANE, {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}),
        (PeerRole.GATEWAY, {ExtendedKeyUsageOID.CLIENT_AUTH}),
        (PeerRole.USER, {ExtendedKeyUsageOID.CLIENT_AUTH}),
    ],
)
def test_leaf_says_who_by_one_uri_and_can_do_nothing_else(tmp_path: Path, role: PeerRole, purposes: set):
    ca = authority(tmp_path)
    name = ca.identity(role, "uid-1", organization="org-1", project="project-1")
    issued = ca.issue(name, key().public_key(), ("host.test", "127.0.0.1"))
    leaf = issued.leaf
    assert str(identity_of(leaf)) == str(name)
    assert set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == purposes
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert leaf.not_valid_before_utc == FakeClock().now() - timedelta(minutes=5)
    assert leaf.not_valid_after_utc == FakeClock().now() + PROFILES[Usage(role.value)].lifetime
    leaf.verify_directly_issued_by(intermediate_of(issued.chain_pem))
    intermediate_of(issued.chain_pem).verify_directly_issued_by(x509.load_pem_x509_certificate(ca.bundle_pem))


def test_visitors_certificates_come_from_another_root_and_name_nobody(tmp_path: Path):
    ca = authority(tmp_path)
    issued = ca.issue_web(key().public_key(), ("*.prism.test", "localhost"))
    intermediate_of(issued.chain_pem).verify_directly_issued_by(x509.load_pem_x509_certificate(ca.web_bundle_pem))
    assert ca.web_bundle_pem != ca.bundle_pem
    with pytest.raises(Refused):
        identity_of(issued.leaf)


def test_next_intermediate_is_prepared_at_half_and_active_at_five_sixths(tmp_path: Path):
    clock = FakeClock()
    ca = authority(tmp_path, clock)

    def issuer_after(days: float) -> x509.Certificate:
        clock._elapsed_s = days * 86400
        issued = ca.issue(ca.identity(PeerRole.GATEWAY, "g"), key().public_key())
        above = intermediate_of(issued.chain_pem)
        assert issued.leaf.not_valid_after_utc <= above.not_valid_after_utc
        return above

    def on_disk() -> int:
        return len(list((tmp_path / "authority" / "intermediates").glob("gateway-????.pem")))

    first = issuer_after(0)
    assert issuer_after(14) == first
    assert on_disk() == 1
    assert issuer_after(16) == first
    assert on_disk() == 2
    second = issuer_after(25.1)
    assert second != first
    assert issuer_after(39) == second
    clock._elapsed_s = 39 * 86400
    reopened = authority(tmp_path, clock)
    issued = reopened.issue(reopened.identity(PeerRole.GATEWAY, "g"), key().public_key())
    assert intermediate_of(issued.chain_pem) == second
    assert issuer_after(200) not in (first, second), "an expired intermediate was used"


def test_identity_is_of_the_leaf_alone_ghsa_mrpr_756c_xm47_ghsa_hhm9_wf63_g7qj(tmp_path: Path):
    ca = authority(tmp_path)
    mine = ca.issue(ca.identity(PeerRole.GATEWAY, "mine"), key().public_key())
    other = ca.issue(ca.identity(PeerRole.CONTROLPLANE, "other"), key().public_key())
    chain = [mine.leaf, other.leaf, intermediate_of(mine.chain_pem), intermediate_of(other.chain_pem)]
    assert ca.verify_edge(chain, FakeClock().now()).uid == "mine"


def test_chain_of_another_authority_is_refused(tmp_path: Path):
    ours, theirs = authority(tmp_path / "a"), authority(tmp_path / "b")
    issued = theirs.issue(theirs.identity(PeerRole.GATEWAY, "g"), key().public_key())
    chain = x509.load_pem_x509_certificates(issued.chain_pem.encode())
    with pytest.raises(Refused):
        ours.verify_edge(chain, FakeClock().now())


def test_two_uris_are_no_identity():
    now = datetime(2030, 1, 1, tzinfo=UTC)
    root_key = key()
    root = Signer(build_root(root_key, "root", now), root_key)

    def leaf(*uris: str) -> x509.Certificate:
        class Several(Names):
            def general(self) -> list[x509.GeneralName]:
                return [x509.UniformResourceIdentifier(uri) for uri in uris]

        profile = PROFILES[Usage.POP]
        return build_leaf(root, key().public_key(), title="x", names=Several(), profile=profile, now=now)

    assert identity_of(leaf("spiffe://drtp.test/pop/p")).uid == "p"
    for uris in (("spiffe://drtp.test/pop/p", "spiffe://drtp.test/gateway/g"), ("https://drtp.test/pop/p",)):
        with pytest.raises(Refused):
            identity_of(leaf(*uris))


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://drtp.test/agent/x",
        "spiffe://drtp.test/pop/",
        "spiffe://drtp.test/pop/x/y",
        "spiffe://drtp.test/pop/../controlplane/x",
        "spiffe://drtp.test/nobody/x",
        "spiffe://DRTP.test/pop/x",
        "spiffe://drtp.test/pop/x\n",
        "spiffe://drtp.test/org/o/project/p/pop/x",
        "xspiffe://drtp.test/pop/x",
    ],
)
def test_other_forms_of_uri_are_refused(uri: str):
    with pytest.raises(Refused):
        parse_uri(uri)


def test_uris_are_read_as_written():
    for identity in (
        SpiffeId("drtp.test", PeerRole.AGENT, "a", "o", "p"),
        SpiffeId("drtp.test", PeerRole.USER, "0a1b"),
    ):
        assert parse_uri(str(identity)) == identity
