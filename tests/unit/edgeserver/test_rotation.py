"""Rotation of the authority with real edges over TLS: every step waits for them, and nobody is lost on the way."""
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportOptionalOperand=false

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography import x509

from drtp.api.feed import EdgeRole, Fault, RenewRequest, renewal_proof
from drtp.api.internal import RotationPhase
from drtp.api.spiffe import bundle_digest, parse_uri
from drtp.client.enrolment import enrol
from drtp.client.feed import Feed, FeedPhase
from drtp.client.joining import EdgeAddress
from drtp.client.keys import new_key, request_for, sign
from drtp.client.tls import trusting
from drtp.client.vouching import read_roots, successors
from drtp.issuers import rotation as rotations
from drtp.issuers.authority import Authority
from drtp.issuers.requests import proven_key
from drtp.issuers.rotation import Rotation
from drtp.kit.errors import Conflict, Refused
from drtp.kit.secret import Secret
from unit.edgeserver.edgebed import AGENT, GATEWAY, Bed, edge_bed, pop, until
from unit.edgeserver.test_enrolment import post

NOW = timedelta()


class Rotating:
    """A bed whose doors follow its rotation, and edges whose hosts put roots in force."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.rotation = Rotation(bed.store, bed.authority, bed.audit, bed.clock)

    @property
    def phase(self) -> RotationPhase:
        return self.bed.authority.state.phase

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.rotation.run()), group.create_task(self._doors())]
            yield
            for task in tasks:
                task.cancel()

    async def _doors(self) -> None:
        async for _ in self.rotation.changed:
            self.bed.tls.refresh()

    @contextlib.asynccontextmanager
    async def edge(self, name: str, registration=AGENT, *, obeys: bool = True) -> AsyncGenerator[Feed]:
        """A feed that is up, and a host that takes its roots (unless it does not obey)."""
        feed = self.bed.feed(name, registration)
        async with self.bed.running(feed), asyncio.TaskGroup() as group:
            following = group.create_task(_host(feed) if obeys else asyncio.sleep(0))
            await until(lambda: feed.state.value.phase is FeedPhase.UP, 20)
            yield feed
            following.cancel()

    async def to(self, phase: RotationPhase, within_s: float = 15.0) -> None:
        await until(lambda: self.phase is phase, within_s)


async def _host(feed: Feed) -> None:
    async for identity in feed.identity:
        feed.trusting(identity)


def root_of(feed: Feed) -> x509.Name:
    """The root above an edge's certificate."""
    return x509.load_pem_x509_certificates(feed.identity.value.chain_pem)[1].issuer


@pytest.fixture
async def rotating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rotating]:
    monkeypatch.setattr(rotations, "CHECK_S", 0.05)
    monkeypatch.setattr(rotations, "SETTLE", timedelta(seconds=0.1))
    async with edge_bed(tmp_path) as bed:
        one = Rotating(bed)
        await one.rotation.load()
        async with one.running():
            yield one


async def test_every_edge_ends_under_the_next_root_and_trusts_it_alone(rotating: Rotating, tmp_path: Path) -> None:
    bed = rotating.bed
    kinds = {"agent": AGENT, "pop": pop(), "gateway": GATEWAY}
    for name, registration in kinds.items():
        await bed.enrolled(name, registration)
    async with contextlib.AsyncExitStack() as stack:
        feeds = [await stack.enter_async_context(rotating.edge(name, kind)) for name, kind in kinds.items()]
        former, digest = {root_of(feed) for feed in feeds}, ""
        for _ in range(2):
            begun = bed.authority.state.active
            await rotating.rotation.begin("test", hold=NOW)
            await rotating.to(RotationPhase.SERVERS)
            await rotating.to(RotationPhase.STANDBY)
            assert bed.authority.state.active == begun + 1
            digest = bed.authority.offer.value.digest
            await until(lambda: all(bundle_digest(feed.identity.value.bundle_pem) == digest for feed in feeds))  # noqa: B023
            assert former.isdisjoint({root_of(feed) for feed in feeds})
            former = {root_of(feed) for feed in feeds}
        # And from disk, as the next start will have it.
        for name in kinds:
            assert bundle_digest(bed.identities(name).load().bundle_pem) == digest
    bed.audit.close()
    said = (tmp_path / "audit" / "audit.log").read_text()
    assert said.count('"authority rotation begun"') == 2
    assert said.count('"authority rotation advanced"') == 6


async def test_a_step_waits_for_an_edge_that_has_not_taken_the_roots_and_force_does_not(rotating: Rotating) -> None:
    await rotating.bed.enrolled("agent")
    async with rotating.edge("agent", obeys=False) as feed:
        await rotating.rotation.begin("test", hold=NOW)
        await until(lambda: b"BEGIN" in feed.identity.value.bundle_pem.split(b"END CERTIFICATE")[1])
        seen = await rotating.rotation.outlook()
        assert [(one.role, one.name) for one in seen.behind] == [(EdgeRole.AGENT, "joe/postgres")]
        with pytest.raises(Refused, match="DRTP-2047"):
            await rotating.rotation.step("test", force=False)
        assert rotating.phase is RotationPhase.INIT
        feed.trusting(feed.identity.value)
        await rotating.to(RotationPhase.CLIENTS)
        await rotating.rotation.step("test", force=True)
        assert rotating.phase is RotationPhase.SERVERS


async def test_doors_change_no_sooner_than_people_were_given_time(rotating: Rotating) -> None:
    await rotating.rotation.begin("test", hold=timedelta(hours=24))
    await rotating.to(RotationPhase.CLIENTS)
    seen = await rotating.rotation.outlook()
    assert not seen.behind
    assert seen.not_before == rotating.bed.authority.state.begun + timedelta(hours=24)
    with pytest.raises(Refused, match="Not before"):
        await rotating.rotation.step("test", force=False)
    with pytest.raises(Conflict, match="DRTP-2045"):
        await rotating.rotation.begin("test")


@pytest.mark.parametrize("phase", [RotationPhase.INIT, RotationPhase.CLIENTS, RotationPhase.SERVERS])
async def test_a_restart_in_any_phase_goes_on_and_a_rollback_from_it_returns(
    rotating: Rotating, tmp_path: Path, phase: RotationPhase
) -> None:
    bed = rotating.bed
    await bed.enrolled("agent")
    async with rotating.edge("agent") as feed:
        former = root_of(feed)
        await rotating.rotation.begin("test", hold=timedelta(hours=3))
        while rotating.phase is not phase:
            await rotating.rotation.step("test", force=True)
        # What the next life reads is what this one follows.
        again = Authority(tmp_path / "authority", "drtp.test", "prism.test", bed.clock)
        await Rotation(bed.store, again, bed.audit, bed.clock).load()
        assert again.state == bed.authority.state
        assert (again.pin, again.bundle_pem) == (bed.authority.pin, bed.authority.bundle_pem)

        await rotating.rotation.roll_back("test")
        await rotating.to(RotationPhase.STANDBY)
        assert bed.authority.state.active == 1
        await until(lambda: bundle_digest(feed.identity.value.bundle_pem) == bed.authority.offer.value.digest)
        assert root_of(feed) == former
    with pytest.raises(Conflict, match="DRTP-2046"):
        await rotating.rotation.roll_back("test")


async def test_an_edge_that_was_away_during_two_rotations_returns_by_itself(rotating: Rotating) -> None:
    await rotating.bed.enrolled("agent")
    async with rotating.edge("agent"):
        pass
    for _ in range(2):
        await rotating.rotation.begin("test", hold=NOW)
        while rotating.phase is not RotationPhase.STANDBY:
            await rotating.rotation.step("test", force=True)
    async with rotating.edge("agent") as feed:
        digest = rotating.bed.authority.offer.value.digest
        await until(lambda: bundle_digest(feed.identity.value.bundle_pem) == digest, 20)


async def test_a_secret_made_before_the_doors_changed_enrols_after(rotating: Rotating) -> None:
    bed = rotating.bed
    before = EdgeAddress("127.0.0.1", bed.port, bed.authority.pin)
    secret = await bed.secret(EdgeRole.AGENT, "postgres")
    await rotating.rotation.begin("test", hold=NOW)
    while rotating.phase is not RotationPhase.STANDBY:
        await rotating.rotation.step("test", force=True)
    assert bed.authority.pin != before.pin
    identity = await enrol(before, bed.identities("late"), AGENT, secret=secret)
    assert bundle_digest(identity.bundle_pem) == bed.authority.offer.value.digest


async def test_a_root_left_as_compromised_vouches_for_nothing(rotating: Rotating) -> None:
    bed = rotating.bed
    before = EdgeAddress("127.0.0.1", bed.port, bed.authority.pin)
    secret = await bed.secret(EdgeRole.AGENT, "postgres")
    await rotating.rotation.begin("test", hold=NOW, grace=NOW)
    while rotating.phase is not RotationPhase.STANDBY:
        await rotating.rotation.step("test", force=True)
    with pytest.raises(Refused, match="DRTP-2014"):
        await enrol(before, bed.identities("late"), AGENT, secret=secret)


async def rolled_back(rotating: Rotating) -> None:
    """From wherever it is, back to the first root, which alone counts then."""
    await rotating.rotation.roll_back("test")
    while rotating.phase is not RotationPhase.STANDBY:
        await rotating.rotation.step("test", force=True)
    assert rotating.bed.authority.state.trusted == (1,)


async def test_whoever_has_the_key_of_a_root_that_was_rolled_back_is_nobody(rotating: Rotating, tmp_path: Path) -> None:
    """Neither an agent by a certificate of that root, nor the control plane to somebody who trusts the first one."""
    bed = rotating.bed
    identity = await bed.enrolled("agent")
    before = (await bed.server.identities.find(identity.uid)).record.spec
    await rotating.rotation.begin("test", hold=NOW)
    await rotating.rotation.step("test", force=True)
    thief = Authority(tmp_path / "authority", "drtp.test", "prism.test", bed.clock)
    thief.follow(bed.authority.state)
    await rolled_back(rotating)
    key = new_key()
    name = parse_uri(before.uri)
    forged = thief.issue(name, proven_key(request_for(key)).public)
    status, body = await late_renewal(bed, forged.chain_pem, key, before.generation + 1)
    assert (status, body.code) == (403, "DRTP-2001")
    assert (await bed.server.identities.find(identity.uid)).record.spec == before
    offer = read_roots(bed.authority.public_bundle_pem)
    stolen = bed.authority.roots[2]
    assert stolen not in offer
    assert not successors([stolen], bed.authority.public_bundle_pem, bed.clock.now())


async def test_an_edge_that_was_away_during_a_rollback_returns_by_its_own_key(rotating: Rotating) -> None:
    await rotating.bed.enrolled("agent")
    async with rotating.edge("agent") as feed:
        former = root_of(feed)
        await rotating.rotation.begin("test", hold=timedelta(hours=3))
        await rotating.to(RotationPhase.CLIENTS)
        await until(lambda: root_of(feed) != former)
        await until(lambda: rotating.bed.identities("agent").other() is None)
    await rolled_back(rotating)
    async with rotating.edge("agent") as feed:
        await until(lambda: root_of(feed) == former, 20)


async def test_a_restart_after_a_rollback_believes_the_root_as_little(rotating: Rotating, tmp_path: Path) -> None:
    bed = rotating.bed
    await rotating.rotation.begin("test", hold=NOW)
    await rolled_back(rotating)
    again = Authority(tmp_path / "authority", "drtp.test", "prism.test", bed.clock)
    await Rotation(bed.store, again, bed.audit, bed.clock).load()
    assert again.state.abandoned == (2,)
    assert again.roots[2] not in read_roots(again.public_bundle_pem)
    await rotating.rotation.begin("test", hold=NOW)
    assert bed.authority.state.next == 3


async def late_renewal(bed: Bed, chain_pem: str, key: Secret[bytes], generation: int) -> tuple[int, Fault]:
    """What the edge server answers to whoever has a chain and its key."""
    connector = aiohttp.TCPConnector(ssl=trusting(bed.authority.bundle_pem))
    async with aiohttp.ClientSession(connector=connector) as http, http.get(f"{bed.address.url}/v1/nonce") as given:
        nonce = await given.text()
    csr = request_for(new_key())
    proof = base64.b64encode(sign(key, renewal_proof(nonce, csr, generation))).decode()
    ask = RenewRequest(chain_pem=chain_pem, csr_pem=csr, generation=generation, nonce=nonce, signature=proof)
    status, body = await post(bed, "/v1/renew", msgspec.json.encode(ask))
    return status, msgspec.json.decode(body, type=Fault)


async def test_new_intermediates_issue_at_once_and_edges_renew(rotating: Rotating) -> None:
    await rotating.bed.enrolled("agent")
    async with rotating.edge("agent") as feed:
        before = x509.load_pem_x509_certificates(feed.identity.value.chain_pem)[1]
        await rotating.rotation.renew_intermediates("test")
        await until(lambda: x509.load_pem_x509_certificates(feed.identity.value.chain_pem)[1] != before)
        assert root_of(feed) == before.issuer
