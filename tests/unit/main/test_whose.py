"""Whose connector it is, where people share one account of an operating system."""

from __future__ import annotations

import asyncio
import os
import sys
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drtp.api.credentials import base62
from drtp.api.people import account_uid
from drtp.api.reports import ConnectorRegistration
from drtp.api.spiffe import parse_uri
from drtp.client.context import Context, save_context
from drtp.client.enrolment import enrol
from drtp.client.identity import IdentityStore
from drtp.client.joining import EdgeAddress
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Retryable
from drtp.kit.secret import Secret
from drtp.main.controlplane import Tower, running_controlplane
from drtp.main.datum import whose
from unit.main.controlplane_bed import operator, settings


@dataclass
class Bed:
    tower: Tower
    folder: Path

    async def context(self, name: str) -> Context:
        """Of somebody with a fresh token."""
        _, access = await operator(self.tower.settings, "GET", "/v1/access")
        _, token = await operator(self.tower.settings, "POST", "/v1/tokens", {"name": name})
        return Context(api=access["api"], ca_pem=access["ca"].encode(), token=Secret(token["token"]))

    async def enrolled(self, context: Context) -> Path:
        """A state directory with a connector of whoever the context is."""
        state = self.folder / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        edge = EdgeAddress("127.0.0.1", self.tower.settings.edge_port, bundle_pem=context.ca_pem)
        await enrol(edge, IdentityStore(state), ConnectorRegistration(services=("default/x",)), token=context.token)
        whose.note(state, whose.mark_of(context))
        return state


def caller(state: Path) -> str:
    identity = IdentityStore(state).load()
    return parse_uri(identity.uri).caller if identity is not None else ""


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        yield Bed(tower, tmp_path)


async def test_the_same_user_goes_on_by_another_token_and_another_user_does_not(bed: Bed) -> None:
    bob, again, ann = [await bed.context(name) for name in ("bob", "bob", "ann")]
    state = await bed.enrolled(bob)
    for context in (bob, again):
        await whose.settle(state, context)
        assert caller(state) == account_uid("bob")
    await whose.settle(state, ann)
    assert caller(state) == ""
    assert not list((state).rglob("*.pem")), "nothing of the former user is left to go on with"


async def test_what_was_shown_before_needs_no_control_plane_and_what_was_not_waits_for_it(bed: Bed) -> None:
    bob, ann = await bed.context("bob"), await bed.context("ann")
    state = await bed.enrolled(bob)
    away = "https://127.0.0.1:1"
    await whose.settle(state, replace(bob, api=away))
    with pytest.raises(Retryable):
        await whose.settle(state, replace(ann, api=away))
    assert caller(state) == account_uid("bob")


async def test_an_applications_directory_is_its_own_whoever_starts_it(bed: Bed) -> None:
    state = await bed.enrolled(await bed.context("bob"))
    whose.note(state, whose.BY_SECRET)
    await whose.settle(state, await bed.context("ann"))
    assert caller(state) == account_uid("bob")


async def test_who_brings_a_secret_is_the_application_that_it_is_for(bed: Bed) -> None:
    """And goes on by the same secret, spent as it is; by another one it is another application's."""
    first, second = ("drtp_enr_aaaaaaaaaaaa_" + "x" * 43, "drtp_enr_bbbbbbbbbbbb_" + "x" * 43)
    secrets = [Secret(f"{one}_{base62(zlib.crc32(one.encode()), 6)}@127.0.0.1:1#pin") for one in (first, second)]
    bob = await bed.context("bob")
    state = await bed.enrolled(bob)
    whose.settle_secret(state, secrets[0])
    assert caller(state) == "", "bob's was given up"
    (await bed.enrolled(bob))
    whose.note_secret(state, whose.mark_of_secret(secrets[0]))
    whose.settle_secret(state, secrets[0])
    await whose.settle(state, bob)
    assert caller(state) != "", "an application's, whoever starts it"
    whose.settle_secret(state, secrets[1])
    assert caller(state) == ""


async def test_what_is_noted_is_no_secret_and_private(bed: Bed) -> None:
    bob = await bed.context("bob")
    state = await bed.enrolled(bob)
    (noted,) = state.glob("enrolled-as.json")
    assert noted.stat().st_mode & 0o077 == 0
    assert bob.token is not None and bob.token.reveal() not in noted.read_text()


async def test_the_command_acts_as_whoever_signed_in_last(bed: Bed) -> None:
    path = bed.folder / "person" / "context.json"
    path.parent.mkdir(mode=0o700)
    for name in ("bob", "ann"):
        save_context(path, await bed.context(name))
        argv = ("-m", "drtp.main.datumctl", "--context", str(path), "connect", "default/none", "--once")
        child = await asyncio.create_subprocess_exec(
            sys.executable, *argv, stderr=asyncio.subprocess.PIPE, env={**os.environ}
        )
        _, said = await asyncio.wait_for(child.communicate(), 60)
        assert child.returncode == 77 and b"DRTP-4060" in said, said
        (state,) = (path.parent / "agents").glob("*/connect.default.none")
        assert caller(state) == account_uid(name)
