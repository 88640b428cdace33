"""What a program did goes with its service account, whether anybody watched when that was deleted or not."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from drtp.api.feed import EdgeRole
from drtp.api.internal import API_TOKEN, EDGE_IDENTITY, ENROLMENT_SECRET, INVITATION, Bound
from drtp.api.meta import Key
from drtp.api.people import User, service_account_user
from drtp.client.enrolment import enrol
from drtp.kit.errors import Refused
from drtp.kit.secret import Secret
from drtp.store.protocol import Write
from unit.edgeserver.edgebed import AGENT, Bed, edge_bed, pop
from unit.edgeserver.test_connectors import WANTS

ACCOUNT = Key("ServiceAccount", "joe", "reports")
ME = service_account_user("joe", "reports")


class Program(NamedTuple):
    """A service account that may serve: its uid, and a token of it."""

    uid: str
    token: Secret[str]


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with edge_bed(tmp_path) as one:
        yield one


async def _program(bed: Bed) -> Program:
    metadata = {"name": "reports", "namespace": "joe"}
    made = await bed.store.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    group = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reports-serves", "namespace": "joe"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": "reports", "namespace": "joe"}],
    }
    await bed.store.create(binding)
    await bed.authoriser.reached(bed.store.revision)
    return Program(
        made.uid, (await bed.accounts.issue_to_program("joe", "reports", made.uid, timedelta(hours=1))).token
    )


async def _agent(bed: Bed, program: Program, name: str = "its") -> str:
    store = bed.identities(name)
    return (await enrol(bed.address, store, AGENT, token=program.token, namespace="joe", services=("postgres",))).uid


async def _secret(bed: Bed, by: str) -> Secret[str]:
    service = await bed.store.get(Key("DRTPService.datumapis.com", "joe", "postgres"))
    bound = Bound(kind="DRTPService.datumapis.com", name="postgres", namespace="joe", uid=service.uid)
    return (await bed.secrets.mint(EdgeRole.AGENT, bound, created_by=by)).secret


async def _gone(bed: Bed, uid: str) -> None:
    """Wait until the identity is revoked."""
    async with asyncio.timeout(3):
        while not (await bed.server.identities.find(uid)).record.spec.revoked:
            await asyncio.sleep(0.005)


async def test_agents_secrets_and_invitations_of_a_program_go_with_its_service_account(bed: Bed) -> None:
    program, neighbour = await _program(bed), await bed.enrolled("neighbour")
    agent = await _agent(bed, program)
    connector = await enrol(bed.address, bed.identities("calls"), WANTS, token=program.token)
    secret, other = await _secret(bed, f"user {program.uid}"), await _secret(bed, "operator")
    await bed.invitations.mint("joe", "uid", "view", User(ME.name, program.uid), timedelta(days=1))
    await bed.store.delete(ACCOUNT)
    await _gone(bed, agent)
    await _gone(bed, connector.uid)
    async with asyncio.timeout(3):
        while (await bed.store.list(API_TOKEN)).items:
            await asyncio.sleep(0.005)
    assert not (await bed.store.list(INVITATION)).items
    with pytest.raises(Refused):
        await enrol(bed.address, bed.identities("late"), AGENT, secret=secret)
    await enrol(bed.address, bed.identities("others"), AGENT, secret=other)
    assert not (await bed.server.identities.find(neighbour.uid)).record.spec.revoked


async def test_a_deletion_that_nobody_saw_is_found_at_the_next_start(tmp_path: Path) -> None:
    async with edge_bed(tmp_path) as bed:
        program, worker = await _program(bed), await bed.enrolled("pop", pop())
        agent = await _agent(bed, program)
        await _secret(bed, f"user {program.uid}")
    await bed.store.delete(ACCOUNT)
    await bed.store.delete(Key("DRTPServer.datumapis.com", "", "worker-001.pop"))
    bed.server = bed.new_server()
    async with bed.server.serving("127.0.0.1", 0, bed.tls.context):
        for uid in (agent, worker.uid):
            await _gone(bed, uid)
        async with asyncio.timeout(3):
            while not (await bed.accounts.user(program.uid) is None and not (await bed.store.list(API_TOKEN)).items):
                await asyncio.sleep(0.005)
        assert all(one.object["spec"]["uses"] for one in (await bed.store.list(ENROLMENT_SECRET)).items)


async def test_a_crash_between_the_steps_leaves_nothing_behind_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with edge_bed(tmp_path) as bed:
        program = await _program(bed)
        agents = [await _agent(bed, program, name) for name in ("one", "two")]
        revoke = bed.server.identities.revoke

        async def revoked_until_the_crash(uid: str, *why: str, **by: str) -> None:
            await revoke(uid, *why, **by)
            await asyncio.Event().wait()

        monkeypatch.setattr(bed.server.identities, "revoke", revoked_until_the_crash)
        await bed.store.delete(ACCOUNT)
        async with asyncio.timeout(3):
            while not any([(await bed.server.identities.find(one)).record.spec.revoked for one in agents]):
                await asyncio.sleep(0.005)
    bed.server = bed.new_server()
    async with bed.server.serving("127.0.0.1", 0, bed.tls.context):
        for agent in agents:
            await _gone(bed, agent)


async def test_an_agent_that_enrols_while_its_service_account_is_deleted_is_revoked(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = await _program(bed)
    apply = bed.store.apply

    async def applied_after_the_deletion(writes: Sequence[Write]) -> Any:
        monkeypatch.setattr(bed.store, "apply", apply)
        await bed.store.delete(ACCOUNT)
        return await apply(writes)

    monkeypatch.setattr(bed.store, "apply", applied_after_the_deletion)
    with pytest.raises(Refused):
        await _agent(bed, program)
    (record,) = (await bed.store.list(EDGE_IDENTITY)).items
    assert record.object["spec"]["revoked"]


async def test_a_secret_or_invitation_that_was_made_at_the_last_moment_lets_nobody_in(bed: Bed) -> None:
    """Whoever looked for them was faster than the write."""
    program = await _program(bed)
    await bed.store.delete(ACCOUNT)
    async with asyncio.timeout(3):
        while (await bed.store.list(API_TOKEN)).items:
            await asyncio.sleep(0.005)
    secret = await _secret(bed, f"user {program.uid}")
    with pytest.raises(Refused):
        await enrol(bed.address, bed.identities("late"), AGENT, secret=secret)
    invited = await bed.invitations.mint("joe", "uid", "view", User(ME.name, program.uid), timedelta(days=1))
    with pytest.raises(Refused):
        await bed.invitations.admit(invited.secret.reveal(), User("ann", "uid-ann"))
