"""Edges that lived on while their control plane's store went back to a backup."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from cryptography import x509

from drtp.client import home
from drtp.client.feed import FeedPhase
from drtp.client.keys import request_for
from drtp.edgeserver.answers import key_of
from drtp.edgeserver.identities import identity_key
from drtp.issuers.requests import proven_key
from drtp.kit.clock import FakeClock
from drtp.kit.errors import Terminal
from unit.edgeserver.edgebed import Bed, clock_from_now, edge_bed, until


async def renewed(bed: Bed, clock: FakeClock, name: str) -> None:
    """Run the edge until it has connected with its second certificate."""
    async with bed.running(bed.feed(name)) as feed:
        await until(lambda: feed.state.value.phase is FeedPhase.UP)
        await bed.until_renewed(feed, name, hours=12)
        await clock.advance(1)
        await until(lambda: bed.identities(name).other() is None)


async def taken_back(bed: Bed, uid: str, spec: dict[str, object]) -> None:
    """The record as it was: what a restore does to it."""
    held = await bed.store.get(identity_key(uid))
    await bed.store.update({**held.object, "spec": spec})


async def test_an_edge_that_renewed_after_the_backup_goes_on_and_a_copy_of_its_old_key_does_not(tmp_path: Path):
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        identity = await bed.enrolled("agent")
        backup = (await bed.store.get(identity_key(identity.uid))).object["spec"]
        shutil.copytree(tmp_path / "agent", tmp_path / "clone", symlinks=True)
        home.settle(tmp_path / "clone")  # a thief's copy denies being one
        await renewed(bed, clock, "agent")
        await taken_back(bed, identity.uid, backup)
        async with bed.running(bed.feed("agent")) as feed:
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            spec = (await bed.server.identities.find(identity.uid)).record.spec
            assert (spec.generation, spec.used_generation, spec.locked) == (2, 2, False)
        with pytest.raises(Terminal) as refused:
            await asyncio.wait_for(bed.feed("clone").run(), 5)
        assert refused.value.code == "DRTP-2007"


async def test_it_renews_from_there_as_if_nothing_had_been(tmp_path: Path):
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        identity = await bed.enrolled("agent")
        backup = (await bed.store.get(identity_key(identity.uid))).object["spec"]
        await renewed(bed, clock, "agent")
        await taken_back(bed, identity.uid, backup)
        second = bed.identities("agent").load()
        leaf = x509.load_pem_x509_certificates(second.chain_pem)[0]
        await bed.server.identities.caught_up(identity.uid, key_of(leaf), second.not_after, second.generation)
        key = proven_key(request_for(bed.identities("agent").pending_key()))
        third = await bed.server.identities.renew(identity.uid, key_of(leaf), key, second.generation)
        assert third.generation == 3


async def test_what_the_record_knows_or_denies_is_never_overtaken(tmp_path: Path):
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        identity = await bed.enrolled("agent")
        identities = bed.server.identities
        before = (await identities.find(identity.uid)).record.spec
        assert before.not_after is not None
        # Ends no later than the recorded one: a copy, or an older certificate.
        await identities.caught_up(identity.uid, "another key", before.not_after, 2)
        # Says that it is no newer.
        later = before.not_after.replace(year=before.not_after.year + 1)
        await identities.caught_up(identity.uid, "another key", later, before.generation)
        assert (await identities.find(identity.uid)).record.spec == before
        await identities.revoke(identity.uid, "a thief")
        denied = (await identities.find(identity.uid)).record.spec
        await identities.caught_up(identity.uid, "another key", later, 2)
        assert (await identities.find(identity.uid)).record.spec == denied


async def test_an_edge_enrolled_after_the_backup_is_told_so_and_keeps_asking(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        await bed.store.delete(identity_key(identity.uid))
        async with bed.running(bed.feed("agent")) as feed:
            await until(lambda: feed.state.value.code == "DRTP-2008")
            state = feed.state.value
            assert (state.phase, state.terminal) == (FeedPhase.DOWN, False)
            assert "enrol again" in state.remedy
