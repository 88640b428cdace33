"""Revoking takes away certificates, secrets and tokens, and nothing that belongs to somebody else."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from drtp.api.feed import EdgeRole
from drtp.api.internal import EDGE_IDENTITY
from drtp.api.people import account_uid
from drtp.api.revoking import Because
from drtp.client.enrolment import enrol
from drtp.client.feed import FeedPhase
from drtp.client.identity import Identity
from drtp.edgeserver.revocation import Revocation
from drtp.kit.errors import NotFound, Refused, Terminal
from drtp.main.roles import set_projects
from drtp.store.protocol import Write
from unit.edgeserver.edgebed import AGENT, GATEWAY, Bed, edge_bed, pop, until

WHY = Because("olga", "left the company")


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with edge_bed(tmp_path) as one:
        yield one


@pytest.fixture
def revocation(bed: Bed) -> Revocation:
    return bed.server.revocation


async def _revoked(bed: Bed, uid: str) -> bool:
    return (await bed.server.identities.find(uid)).record.spec.revoked


async def _by_user(bed: Bed, user: str, name: str) -> Identity:
    """An agent that `user` starts with their own token."""
    issued = await bed.accounts.issue(user, timedelta(hours=1))
    await set_projects(bed.store, issued.uid, user, ["joe"])
    await bed.authoriser.reached(bed.store.revision)
    return await enrol(
        bed.address, bed.identities(name), AGENT, token=issued.token, namespace="joe", services=("postgres",)
    )


async def test_a_revoked_agents_feed_ends_and_its_neighbour_goes_on(bed: Bed, revocation: Revocation) -> None:
    identity, neighbour = await bed.enrolled("agent"), await bed.enrolled("neighbour")
    feed = bed.feed("agent")
    running = asyncio.ensure_future(feed.run())
    await until(lambda: feed.state.value.phase is FeedPhase.UP)
    assert (await revocation.agent("joe", identity.uid, WHY)).identities == (identity.uid,)
    with pytest.raises(Terminal):
        await asyncio.wait_for(running, 2)
    assert not await _revoked(bed, neighbour.uid)


async def test_an_agent_of_another_project_is_unknown(bed: Bed, revocation: Revocation) -> None:
    identity = await bed.enrolled("agent")
    for namespace, uid in (("eve", identity.uid), ("joe", "nobody")):
        with pytest.raises(NotFound) as refused:
            await revocation.agent(namespace, uid, WHY)
        assert refused.value.what == f"There is no agent {uid} in {namespace}."
    assert not await _revoked(bed, identity.uid)


async def test_a_gateway_or_pop_is_no_agent(bed: Bed, revocation: Revocation) -> None:
    gateway = await bed.enrolled("gateway", GATEWAY)
    with pytest.raises(NotFound):
        await revocation.agent("", gateway.uid, WHY)


async def test_a_revoked_service_loses_all_agents_and_unspent_secrets_and_can_begin_anew(
    bed: Bed, revocation: Revocation
) -> None:
    await bed.service("mysql")
    agents = [await bed.enrolled(name) for name in ("one", "two")]
    other = await bed.enrolled("other", bound="mysql")
    unspent = await bed.secret(EdgeRole.AGENT, "postgres")
    others = await bed.secret(EdgeRole.AGENT, "mysql")
    withdrawn = await revocation.service("joe", "postgres", WHY)
    assert sorted(withdrawn.identities) == sorted(one.uid for one in agents)
    assert withdrawn.secrets == 3  # two are spent, and let their agents ask again
    with pytest.raises(Refused):
        await enrol(bed.address, bed.identities("late"), AGENT, secret=unspent)
    assert not await _revoked(bed, other.uid)
    await enrol(bed.address, bed.identities("more"), AGENT, secret=others)
    fresh = await bed.enrolled("fresh")
    assert not await _revoked(bed, fresh.uid)


async def test_a_revoked_user_is_nobody_and_takes_their_own_agents_along(bed: Bed, revocation: Revocation) -> None:
    own = await _by_user(bed, "bob", "own")
    eves = await _by_user(bed, "eve", "eves")
    projects = await bed.enrolled("projects")
    token = (await bed.accounts.issue("bob", timedelta(hours=1))).token
    uid = account_uid("bob")
    assert (await bed.accounts.authenticate(token.reveal(), None, "")).uid == uid
    withdrawn = await revocation.user("bob", WHY)
    assert (withdrawn.identities, withdrawn.tokens, withdrawn.user) == ((own.uid,), 2, uid)
    assert await bed.accounts.authenticate(token.reveal(), None, "") is None
    assert not await _revoked(bed, eves.uid)
    assert not await _revoked(bed, projects.uid)
    with pytest.raises(Refused):
        await bed.accounts.issue("bob", timedelta(hours=1))
    again = await bed.accounts.issue("bob", timedelta(hours=1), reinstate=True)
    assert (await bed.accounts.authenticate(again.token.reveal(), None, "")).uid == uid
    assert await _revoked(bed, own.uid)


async def test_an_agent_that_enrols_while_its_user_is_revoked_is_revoked_too(
    bed: Bed, revocation: Revocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await bed.accounts.issue("bob", timedelta(hours=1))
    await set_projects(bed.store, issued.uid, "bob", ["joe"])
    await bed.authoriser.reached(bed.store.revision)
    apply = bed.store.apply

    async def applied_after_the_revocation(writes: Sequence[Write]) -> Any:
        monkeypatch.setattr(bed.store, "apply", apply)
        assert (await revocation.user("bob", WHY)).identities == ()
        return await apply(writes)

    monkeypatch.setattr(bed.store, "apply", applied_after_the_revocation)
    with pytest.raises(Refused):
        await enrol(
            bed.address, bed.identities("own"), AGENT, token=issued.token, namespace="joe", services=("postgres",)
        )
    (record,) = (await bed.store.list(EDGE_IDENTITY)).items
    assert record.object["spec"]["revoked"]


async def test_a_revoked_user_does_not_come_back_by_a_token_of_the_operators_socket(
    bed: Bed, revocation: Revocation
) -> None:
    uid = (await bed.accounts.issue("bob", timedelta(hours=1))).uid
    await revocation.user("bob", WHY)
    await bed.accounts.ensure(uid, "bob")
    with pytest.raises(Refused) as refused:
        await bed.accounts.mint_token(uid)
    assert refused.value.code == "DRTP-1031"


async def test_an_administrator_is_not_revoked_through_the_api(bed: Bed, revocation: Revocation) -> None:
    await bed.accounts.ensure(account_uid("olga"), "olga", groups=("system:masters",))
    with pytest.raises(Refused) as refused:
        await revocation.user("olga", WHY)
    assert refused.value.code == "DRTP-1031"


async def test_pops_and_gateways_are_revoked_by_name(bed: Bed, revocation: Revocation) -> None:
    worker, gateway = await bed.enrolled("pop", pop()), await bed.enrolled("gateway", GATEWAY)
    assert (await revocation.pop("worker-001.pop", WHY)).identities == (worker.uid,)
    assert (await revocation.gateway("gw-1", WHY)).identities == (gateway.uid,)
    assert await _revoked(bed, worker.uid)
    assert await _revoked(bed, gateway.uid)
    for revoke in (revocation.pop, revocation.gateway):
        with pytest.raises(NotFound):
            await revoke("nowhere", WHY)


async def test_the_audit_log_says_who_revoked_what_and_why(bed: Bed, revocation: Revocation, tmp_path: Path) -> None:
    identity = await bed.enrolled("agent")
    await revocation.agent("joe", identity.uid, WHY)
    lines = [path.read_text() for path in tmp_path.rglob("audit.log")]
    assert len(lines) == 1
    last = lines[0].splitlines()[-1]
    assert all(word in last for word in ("identity revoked", identity.uid, "olga", "left the company"))
