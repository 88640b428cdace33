"""What is believed of an offer of roots: what a trusted root has signed for, and nothing that only looks like it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from drtp.api.internal import AuthoritySpec, RotationPhase
from drtp.api.spiffe import PeerRole
from drtp.client.vouching import read_roots, successors
from drtp.issuers.authority import Authority
from drtp.issuers.certificates import Signer, build_root, build_vouching
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Refused

NOW = SystemClock().now()


def signer(name: str, key: ec.EllipticCurvePrivateKey | None = None) -> Signer:
    key = key or ec.generate_private_key(ec.SECP256R1())
    return Signer(build_root(key, name, NOW), key)


def offer(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


A, B, C = signer("root a"), signer("root b"), signer("root c")


def test_a_root_that_is_vouched_for_is_believed_and_so_is_whoever_that_one_vouches_for() -> None:
    said = offer(C.certificate, B.certificate, build_vouching(B, C, NOW), build_vouching(A, B, NOW))
    assert successors([A.certificate], said, NOW) == [B.certificate, C.certificate]


@pytest.mark.parametrize(
    "said",
    [
        offer(B.certificate),
        offer(B.certificate, A.certificate),
        offer(B.certificate, build_vouching(C, B, NOW)),
        offer(build_vouching(A, B, NOW)),
        offer(B.certificate, build_vouching(signer("root a"), B, NOW)),
        offer(signer("root b").certificate, build_vouching(A, B, NOW)),
        offer(B.certificate, build_vouching(A, B, NOW - timedelta(days=3))),
    ],
    ids=["nobody", "beside", "a stranger", "no root", "a namesake", "another key", "long ago"],
)
def test_nothing_else_is_believed(said: bytes) -> None:
    assert successors([A.certificate], said, NOW) == []


def test_whoever_has_an_intermediates_key_makes_no_root_of_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", "drtp.test", "prism.test", SystemClock())
    issued = authority.issue(authority.identity(PeerRole.GATEWAY, "g"), A.key.public_key())
    intermediate = x509.load_pem_x509_certificates(issued.chain_pem.encode())[1]
    stolen = serialization.load_pem_private_key(
        (tmp_path / "authority" / "intermediates" / "gateway-0001-key.pem").read_bytes(), None
    )
    assert isinstance(stolen, ec.EllipticCurvePrivateKey)
    name = intermediate.subject.rfc4514_string().removeprefix("CN=")
    forged = build_root(stolen, name, NOW)
    assert (forged.subject, forged.public_key()) == (intermediate.subject, intermediate.public_key())
    assert successors(read_roots(authority.bundle_pem), offer(forged, intermediate), NOW) == []


def test_what_an_authority_offers_is_enough_and_ends_with_its_grace(tmp_path: Path) -> None:
    clock = SystemClock()
    now = clock.now()  # not the file's: its certificates begin five minutes before they are made, and runs are long
    authority = Authority(tmp_path / "authority", "drtp.test", "prism.test", clock)
    first = read_roots(authority.bundle_pem)
    number = authority.new_root()
    authority.follow(AuthoritySpec(active=1, next=number, phase=RotationPhase.INIT))
    second = [root for root in read_roots(authority.bundle_pem) if root not in first]
    assert successors(first, authority.public_bundle_pem, now) == second
    assert successors(second, authority.public_bundle_pem, now) == first
    authority.follow(AuthoritySpec(active=number, retired={"1": now + timedelta(days=1)}))
    assert successors(first, authority.public_bundle_pem, now) == second
    assert successors(second, authority.public_bundle_pem, now) == []
    authority.follow(AuthoritySpec(active=number, retired={"1": now - timedelta(days=1)}))
    assert successors(first, authority.public_bundle_pem, now) == []


def test_an_offer_without_measure_or_sense_is_refused() -> None:
    for said in (b"nonsense", offer(*[A.certificate] * 65)):
        with pytest.raises(Refused, match="DRTP-2014"):
            successors([A.certificate], said, NOW)
