"""What is wrong at the door for edges, as tables: status, code, sentence, exit status and audit line of each.

Strangers hear one thing whatever they did; the audit log knows which. Whoever holds a good certificate is told more.
"""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from drtp.api.credentials import ENROLMENT_PREFIX, compose
from drtp.api.feed import EdgeRole, Fault, RenewRequest, renewal_proof
from drtp.api.meta import Key
from drtp.api.spiffe import identity_of
from drtp.client.enrolment import enrol, fault_of
from drtp.client.identity import Identity
from drtp.client.keys import new_key, request_for, sign
from drtp.client.tls import trusting
from drtp.issuers.authority import Authority
from drtp.issuers.certificates import PROFILES, Names, Profile, Signer, Usage, build_leaf, build_root
from drtp.kit.clock import SystemClock
from drtp.kit.codes import CODES
from drtp.kit.secret import Secret
from drtp.main.shell import Exit, exit_status
from unit.edgeserver.edgebed import AGENT, GATEWAY, Bed, clock_from_now, edge_bed, pop
from unit.edgeserver.test_enrolment import attempt, post

PEM = serialization.Encoding.PEM


def lines(bed: Bed, event: str) -> list[str]:
    """Reasons of the audit lines of this event."""
    bed.audit.close()
    text = (bed.directory / "audit" / "audit.log").read_text()
    found = [msgspec.json.decode(line) for line in text.splitlines()]
    return [line["fields"].get("reason", "") for line in found if line["event"] == event]


# ---- secrets and requests --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """One request to enrol. `sent` gives secret, CSR and registration; `audit`: an event and what its reason says."""

    name: str
    sent: Callable[[Bed], Awaitable[dict[str, Any]]]
    audit: tuple[str, str]
    status: int = 403
    code: str = "DRTP-2001"


async def good(bed: Bed) -> str:
    return (await bed.secret(EdgeRole.AGENT, "postgres")).reveal()


def secret(change: Callable[[str], str]) -> Callable[[Bed], Awaitable[dict[str, Any]]]:
    async def sent(bed: Bed) -> dict[str, Any]:
        return {"secret": change(await good(bed))}

    return sent


def csr(made: Callable[[], str]) -> Callable[[Bed], Awaitable[dict[str, Any]]]:
    async def sent(bed: Bed) -> dict[str, Any]:
        return {"secret": await good(bed), "csr_pem": made()}

    return sent


def request_by(key: Any, algorithm: Any) -> str:
    """A request without names, by a key of any sort."""
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
    return made.public_bytes(PEM).decode()


def not_its_signature() -> str:
    """A request whose last byte is another's."""
    der = bytearray(x509.load_pem_x509_csr(request_for(new_key()).encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    text = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"


def for_the_key_of_another() -> str:
    """A request that claims a public key whose private half its maker does not have."""
    mine, theirs = (x509.load_pem_x509_csr(request_for(new_key()).encode()) for _ in range(2))
    der, raw = mine.public_bytes(serialization.Encoding.DER), serialization.PublicFormat.UncompressedPoint
    points = [one.public_key().public_bytes(serialization.Encoding.X962, raw) for one in (mine, theirs)]
    text = base64.encodebytes(der.replace(points[0], points[1])).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"


def forged(text: str) -> str:
    return compose(ENROLMENT_PREFIX, text.split("_")[2], 7)


async def expired(bed: Bed) -> dict[str, Any]:
    found = await good(bed)
    await bed.clock.advance(1800)  # pyright: ignore[reportAttributeAccessIssue]
    return {"secret": found}


async def spent(bed: Bed) -> dict[str, Any]:
    found = await good(bed)
    await enrol(bed.address, bed.identities("first"), AGENT, secret=Secret(found))
    return {"secret": found}


async def elsewhere(bed: Bed) -> dict[str, Any]:
    return {"secret": (await bed.secret(EdgeRole.AGENT, "postgres", source_cidrs=("203.0.113.0/24",))).reveal()}


async def of_a_pop(bed: Bed) -> dict[str, Any]:
    return {"secret": (await bed.secret(EdgeRole.POP, "worker-001.pop")).reveal()}


async def of_another_pop(bed: Bed) -> dict[str, Any]:
    return {"secret": (await bed.secret(EdgeRole.POP, "worker-002.pop")).reveal(), "registration": pop()}


async def of_another_gateway(bed: Bed) -> dict[str, Any]:
    return {"secret": (await bed.secret(EdgeRole.GATEWAY, "gw-2")).reveal(), "registration": GATEWAY}


async def of_a_service_that_is_gone(bed: Bed) -> dict[str, Any]:
    found = await good(bed)
    await bed.store.delete(Key("DRTPService.datumapis.com", "joe", "postgres"))
    return {"secret": found}


async def of_a_service_made_anew(bed: Bed) -> dict[str, Any]:
    found = await of_a_service_that_is_gone(bed)
    await bed.service("postgres")
    return found


REFUSED = "enrolment refused"
SHORT = hashes.SHA256()
WRONG = (
    Wrong("malformed", secret(lambda _: "drtp_enr_nonsense"), (REFUSED, "is unknown")),
    Wrong("empty", secret(lambda _: ""), (REFUSED, "is unknown")),
    Wrong("truncated", secret(lambda text: text[:-1]), (REFUSED, "is unknown")),
    Wrong("longer", secret(lambda text: f"{text}0"), (REFUSED, "is unknown")),
    Wrong("a token's prefix", secret(lambda text: text.replace("_enr_", "_pat_")), (REFUSED, "is unknown")),
    Wrong("checksum", secret(lambda text: text[:-1] + ("0" if text[-1] != "0" else "1")), (REFUSED, "is unknown")),
    Wrong("nobody's", secret(lambda _: compose(ENROLMENT_PREFIX, "a" * 12, 7)), (REFUSED, "is unknown")),
    Wrong("forged", secret(forged), (REFUSED, "is forged, or older than a restore")),
    Wrong("expired", expired, (REFUSED, "has expired")),
    Wrong("replayed", spent, ("secret replayed", ""), 409, "DRTP-2002"),
    Wrong("from elsewhere", elsewhere, (REFUSED, "is not for 127.0.0.1")),
    Wrong("another role's", of_a_pop, (REFUSED, "the secret is for another role")),
    Wrong("another POP's", of_another_pop, (REFUSED, "This identity is of server 'worker-002.pop'")),
    Wrong("another gateway's", of_another_gateway, (REFUSED, "the secret is for another gateway")),
    Wrong("service gone", of_a_service_that_is_gone, (REFUSED, CODES["DRTP-2017"].what)),
    Wrong("another service of the name", of_a_service_made_anew, (REFUSED, CODES["DRTP-2017"].what)),
    Wrong("no request", csr(lambda: "nonsense"), (REFUSED, CODES["DRTP-2012"].what)),
    Wrong("request truncated", csr(lambda: request_for(new_key())[:200]), (REFUSED, CODES["DRTP-2012"].what)),
    Wrong("request too large", csr(lambda: request_for(new_key()) + " " * 8192), (REFUSED, "request is too large")),
    Wrong("signature", csr(not_its_signature), (REFUSED, CODES["DRTP-2012"].what)),
    Wrong("key of another", csr(for_the_key_of_another), (REFUSED, CODES["DRTP-2012"].what)),
    Wrong(
        "RSA 1024",
        csr(lambda: request_by(rsa.generate_private_key(65537, 1024), SHORT)),
        (REFUSED, CODES["DRTP-2011"].what),
    ),
    Wrong(
        "RSA 3072",
        csr(lambda: request_by(rsa.generate_private_key(65537, 3072), SHORT)),
        (REFUSED, CODES["DRTP-2011"].what),
    ),
    Wrong(
        "P-384",
        csr(lambda: request_by(ec.generate_private_key(ec.SECP384R1()), SHORT)),
        (REFUSED, CODES["DRTP-2011"].what),
    ),
    Wrong(
        "secp256k1",
        csr(lambda: request_by(ec.generate_private_key(ec.SECP256K1()), SHORT)),
        (REFUSED, CODES["DRTP-2011"].what),
    ),
    Wrong(
        "Ed25519",
        csr(lambda: request_by(ed25519.Ed25519PrivateKey.generate(), None)),
        (REFUSED, CODES["DRTP-2011"].what),
    ),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
async def test_a_wrong_request_to_enrol_is_told_one_thing_and_leaves_its_line(tmp_path: Path, wrong: Wrong) -> None:
    async with edge_bed(tmp_path, clock_from_now()) as bed:
        sent = await wrong.sent(bed)
        before = len((await bed.store.list("EdgeIdentity.internal.datumapis.com")).items)
        status, fault = await attempt(bed, **sent)
        entry = CODES[wrong.code]
        assert (status, fault) == (wrong.status, Fault(code=wrong.code, message=entry.what, remedy=entry.remedy))
        assert exit_status(fault_of(status, msgspec.json.encode(fault))) == Exit.DENIED
        event, reason = wrong.audit
        (said,) = lines(bed, event)
        assert reason in said
        text = sent["secret"].split("_")
        assert len(text) < 5 or text[3] not in (tmp_path / "audit" / "audit.log").read_text()
        assert len((await bed.store.list("EdgeIdentity.internal.datumapis.com")).items) == before


# ---- certificates ----------------------------------------------------------------------------------------------------


class Several(Names):
    """Any URIs at all, which no leaf of ours has."""

    def __init__(self, *uris: str) -> None:
        object.__setattr__(self, "uris", uris)

    def general(self) -> list[x509.GeneralName]:
        """As X.509 wants them."""
        uris: tuple[str, ...] = self.uris  # pyright: ignore[reportAttributeAccessIssue]
        return [x509.DNSName("x.agent.drtp.test"), *(x509.UniformResourceIdentifier(uri) for uri in uris)]


@dataclass(frozen=True)
class Shown:
    """A chain and its key, as a client shows them."""

    chain: Sequence[x509.Certificate]
    key: ec.EllipticCurvePrivateKey


def leaf_with(bed: Bed, *uris: str, ago: timedelta = timedelta()) -> Shown:
    """Issued by the agents' intermediate of this very control plane; `ago`: at that moment."""
    mine = ec.generate_private_key(ec.SECP256R1())
    issuer = bed.authority._active(Usage.AGENT)
    now = bed.clock.now() - ago
    leaf = build_leaf(
        issuer, mine.public_key(), title="x", names=Several(*uris), profile=PROFILES[Usage.AGENT], now=now
    )
    return Shown((leaf, issuer.certificate), mine)


def own(identity: Identity) -> Shown:
    key = serialization.load_pem_private_key(identity.key_pem.reveal(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Shown(x509.load_pem_x509_certificates(identity.chain_pem), key)


def self_made(identity: Identity) -> Shown:
    """The identity's URI on a certificate that nobody issued, and the identity's own chain behind it."""
    mine = ec.generate_private_key(ec.SECP256R1())
    root = Signer(build_root(mine, "mine", SystemClock().now()), mine)
    profile = Profile(PROFILES[Usage.AGENT].purposes, timedelta(days=1))
    names = Several(identity.uri)
    leaf = build_leaf(root, mine.public_key(), title="x", names=names, profile=profile, now=SystemClock().now())
    return Shown((leaf, *x509.load_pem_x509_certificates(identity.chain_pem)), mine)


def of_another_authority(bed: Bed, identity: Identity) -> Shown:
    foreign, mine = Authority(bed.directory / "foreign", "drtp.test", "x", SystemClock()), new_key()
    issued = foreign.issue(identity_of(own(identity).chain[0]), _private(mine).public_key())
    return Shown(x509.load_pem_x509_certificates(issued.chain_pem.encode()), _private(mine))


def _private(key: Secret[bytes]) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key.reveal(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded


async def ask(bed: Bed, shown: Shown, registration: str = "agent") -> tuple[int, str]:
    """Status and code of the feed's answer to these certificates; (0, "") where TLS ended it, (101, "") if let in."""
    context = trusting(bed.authority.bundle_pem)
    file = bed.directory / "shown.pem"
    private = shown.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(b"".join(one.public_bytes(PEM) for one in shown.chain) + private)
    context.load_cert_chain(file)
    hello = {"type": "hello", "protocol": 1, "registration": {"type": registration, "hostname": "h", "name": "gw-1"}}
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
            async with http.get(f"{bed.address.url}/v1/feed") as answer:
                if answer.status != 400:  # "a feed is a WebSocket"
                    return answer.status, msgspec.json.decode(await answer.read(), type=Fault).code
            async with http.ws_connect(f"{bed.address.url}/v1/feed") as feed:
                await feed.send_json(hello)
                said = await asyncio.wait_for(feed.receive_json(), 5)
                return 101, said.get("code", "")
    except (ssl.SSLError, aiohttp.ClientError, ConnectionError):
        return 0, ""


ME, OTHER = "spiffe://drtp.test/org/o/project/p/agent/me", "spiffe://drtp.test/org/o/project/p/agent/other"
URIS = {
    "two identities": ((ME, OTHER), (403, "DRTP-2010")),
    "the same twice": ((ME, ME), (403, "DRTP-2010")),
    "none": ((), (403, "DRTP-2010")),
    "a web address": (("https://drtp.test/agent/me",), (403, "DRTP-2010")),
    "another trust domain": ((ME.replace("drtp.test", "else.test"),), (403, "DRTP-2010")),
    "the control plane's": (("spiffe://drtp.test/controlplane/cp",), (403, "DRTP-2010")),
    "a user's": (("spiffe://drtp.test/user/u",), (403, "DRTP-2010")),
    "nobody that is known": ((ME,), (101, "DRTP-2008")),
}


@pytest.mark.parametrize("name", URIS)
async def test_a_certificate_without_exactly_one_identity_of_an_edge_opens_no_feed(tmp_path: Path, name: str) -> None:
    uris, expected = URIS[name]
    async with edge_bed(tmp_path) as bed:
        assert await ask(bed, leaf_with(bed, *uris)) == expected


async def test_a_certificate_says_its_role_and_the_record_must_agree(tmp_path: Path) -> None:
    async with edge_bed(tmp_path) as bed:
        agent, gateway = await bed.enrolled("agent"), await bed.enrolled("gw", GATEWAY)
        assert await ask(bed, own(agent), "gateway") == (101, "DRTP-3007")
        assert await ask(bed, own(gateway), "agent") == (101, "DRTP-3007")
        as_pop = leaf_with(bed, f"spiffe://drtp.test/pop/{agent.uid}")
        assert await ask(bed, as_pop) == (101, "DRTP-2010")
        assert lines(bed, "feed refused") == ["DRTP-3007", "DRTP-3007", "DRTP-2010"]


async def test_filler_around_a_leaf_makes_nobody_else_of_it_ghsa_mrpr_756c_xm47(tmp_path: Path) -> None:
    """Whose key it is speaks, and nobody beside it in the chain."""
    async with edge_bed(tmp_path) as bed:
        mine, victim = own(await bed.enrolled("mine")), await bed.enrolled("victim")
        theirs = own(victim).chain
        uid = identity_of(mine.chain[0]).uid
        assert await ask(bed, Shown((mine.chain[0], theirs[0], *mine.chain[1:], *theirs[1:]), mine.key)) == (101, "")
        seen = [edge.edge.uid for edge in bed.observed.edges()]
        assert seen == [uid]
        assert await ask(bed, self_made(victim)) == (0, "")
        assert await ask(bed, of_another_authority(bed, victim)) == (0, "")
        assert [edge.edge.uid for edge in bed.observed.edges()] == [uid]


async def test_certificates_of_other_times_end_in_the_handshake(tmp_path: Path) -> None:
    async with edge_bed(tmp_path) as bed:
        assert await ask(bed, leaf_with(bed, ME, ago=timedelta(hours=25))) == (0, "")
        assert await ask(bed, leaf_with(bed, ME, ago=timedelta(minutes=-6))) == (0, "")
        ahead = leaf_with(bed, ME, ago=timedelta(minutes=-4))
        assert await ask(bed, ahead) == (101, "DRTP-2008"), "an issuer five minutes ahead is no stranger"


# ---- late renewals ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Late:
    """Parts of a late renewal that are not as they should be: given the bed and the identity, what is sent instead."""

    name: str
    changed: Callable[[Bed, Identity], dict[str, Any]]
    reason: str


def chain_of(shown: Shown) -> str:
    return b"".join(one.public_bytes(PEM) for one in shown.chain).decode()


def unreadable_key(_bed: Bed, identity: Identity) -> dict[str, Any]:
    """A curve that no library knows."""
    der = own(identity).chain[0].public_bytes(serialization.Encoding.DER)
    odd = der.replace(bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030163"))
    text = base64.encodebytes(odd).decode()
    return {"chain_pem": f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n"}


LATE = (
    Late("no chain", lambda *_: {"chain_pem": ""}, "ValueError"),
    Late("chain truncated", lambda _, me: {"chain_pem": me.chain_pem.decode()[:300]}, "ValueError"),
    Late("a key of no known curve", unreadable_key, "UnsupportedAlgorithm"),
    Late("filler before the leaf", lambda _, me: {"chain_pem": chain_of(self_made(me))}, "no proof of possession"),
    Late("no nonce", lambda *_: {"nonce": ""}, "stale nonce"),
    Late("a nonce of one's own", lambda *_: {"nonce": "99999999999.x.y"}, "stale nonce"),
    Late("no base64", lambda *_: {"signature": "?"}, "no proof of possession"),
    Late("another's signature", lambda *_: {"signature": base64.b64encode(sign(new_key(), b"x")).decode()}, "no proof"),
    Late("for another request", lambda *_: {"csr_pem": request_for(new_key())}, "no proof of possession"),
    Late("for another generation", lambda *_: {"generation": 7}, "no proof of possession"),
)


@pytest.mark.parametrize("late", LATE, ids=lambda late: late.name)
async def test_a_wrong_late_renewal_is_told_one_thing_and_leaves_its_line(tmp_path: Path, late: Late) -> None:
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        connector = aiohttp.TCPConnector(ssl=trusting(bed.authority.bundle_pem))
        async with aiohttp.ClientSession(connector=connector) as http:
            nonce = await (await http.get(f"{bed.address.url}/v1/nonce")).text()
        csr_pem = request_for(new_key())
        proof = sign(identity.key_pem, renewal_proof(nonce, csr_pem, identity.generation))
        right = RenewRequest(
            chain_pem=identity.chain_pem.decode(),
            csr_pem=csr_pem,
            generation=identity.generation,
            nonce=nonce,
            signature=base64.b64encode(proof).decode(),
        )
        wrong = msgspec.structs.replace(right, **late.changed(bed, identity))
        status, body = await post(bed, "/v1/renew", msgspec.json.encode(wrong))
        fault = msgspec.json.decode(body, type=Fault)
        entry = CODES["DRTP-2001"]
        assert (status, fault) == (403, Fault(code="DRTP-2001", message=entry.what, remedy=entry.remedy))
        assert exit_status(fault_of(status, body)) == Exit.DENIED
        held = await bed.server.identities.find(identity.uid)
        assert (held.record.spec.generation, held.record.spec.locked) == (1, False)
        (said,) = lines(bed, "renewal refused")
        assert late.reason in said


async def test_a_late_renewal_of_two_identities_is_nobodys(tmp_path: Path) -> None:
    async with edge_bed(tmp_path) as bed:
        connector = aiohttp.TCPConnector(ssl=trusting(bed.authority.bundle_pem))
        async with aiohttp.ClientSession(connector=connector) as http:
            nonce = await (await http.get(f"{bed.address.url}/v1/nonce")).text()
        for uris in ((ME, OTHER), ()):
            shown = leaf_with(bed, *uris)
            csr_pem = request_for(new_key())
            proof = shown.key.sign(renewal_proof(nonce, csr_pem, 1), ec.ECDSA(hashes.SHA256()))
            request = RenewRequest(
                chain_pem=chain_of(shown),
                csr_pem=csr_pem,
                generation=1,
                nonce=nonce,
                signature=base64.b64encode(proof).decode(),
            )
            status, body = await post(bed, "/v1/renew", msgspec.json.encode(request))
            assert (status, msgspec.json.decode(body, type=Fault).code) == (403, "DRTP-2001")
        said = lines(bed, "renewal refused")
        assert said == [f"The certificate carries {count} URIs; exactly one is an identity." for count in (2, 0)]
