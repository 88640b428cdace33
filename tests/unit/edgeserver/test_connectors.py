"""Connectors enrol as somebody: a user, or an application; and lose their identity with them."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drtp.api.feed import EdgeRole
from drtp.api.internal import EDGE_IDENTITY, Bound, CallerKind
from drtp.api.meta import Key
from drtp.api.reports import ConnectorRegistration
from drtp.api.revoking import Because
from drtp.api.spiffe import PeerRole, parse_uri
from drtp.client.enrolment import enrol
from drtp.client.feed import Feed, FeedPhase
from drtp.client.identity import Identity
from drtp.client.keys import new_key, request_for
from drtp.edgeserver import identities
from drtp.issuers.requests import proven_key
from drtp.kit.errors import Refused, Retryable, Terminal
from drtp.store.protocol import Write
from unit.edgeserver.edgebed import AGENT, Bed, clock_from_now, edge_bed, until

WANTS = ConnectorRegistration(hostname="laptop", services=("joe/postgres", "no name", "a/b/c"))


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with edge_bed(tmp_path) as one:
        yield one


async def _of_user(bed: Bed, user: str = "bob", directory: str = "laptop") -> Identity:
    issued = await bed.accounts.issue(user, timedelta(hours=1))
    return await enrol(bed.address, bed.identities(directory), WANTS, token=issued.token)


def _feed(bed: Bed, directory: str, said: ConnectorRegistration = WANTS) -> Feed:
    return Feed(bed.identities(directory), lambda: said, bed.directory / directory, bed.clock)


async def _account(bed: Bed, name: str = "reports") -> Bound:
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "joe"}}
    stored = await bed.store.create(body)
    return Bound(kind="ServiceAccount", name=name, namespace="joe", uid=stored.uid)


async def test_a_users_connector_carries_the_user_and_lasts_eight_hours(bed: Bed) -> None:
    identity = await _of_user(bed)
    record = (await bed.server.identities.find(identity.uid)).record.spec
    name = parse_uri(record.uri)
    assert (name.role, name.caller, name.project) == (PeerRole.CONNECTOR, record.caller.uid, "")
    assert (record.caller.kind, record.caller.name) == (CallerKind.USER, "bob")
    assert record.wants == ("joe/postgres",)
    assert timedelta(hours=7) < identity.not_after - bed.clock.now() <= timedelta(hours=8)


async def test_two_machines_of_one_user_are_two_connectors(bed: Bed) -> None:
    first, second = await _of_user(bed), await _of_user(bed, directory="desktop")
    assert first.uid != second.uid


async def test_what_a_connector_asks_for_follows_its_hello(bed: Bed) -> None:
    identity = await _of_user(bed)
    async with bed.running(_feed(bed, "laptop", ConnectorRegistration(services=("joe/web",)))) as feed:
        await until(lambda: feed.state.value.phase is FeedPhase.UP)
        assert (await bed.server.identities.find(identity.uid)).record.spec.wants == ("joe/web",)


async def test_a_revoked_user_takes_the_connectors_along(bed: Bed) -> None:
    await _of_user(bed)
    feed = _feed(bed, "laptop")
    running = asyncio.ensure_future(feed.run())
    await until(lambda: feed.state.value.phase is FeedPhase.UP)
    assert len((await bed.server.revocation.user("bob", Because("olga", "left"))).identities) == 1
    with pytest.raises(Terminal):
        await asyncio.wait_for(running, 2)


async def test_an_application_enrols_by_a_secret_of_its_account_and_goes_with_it(bed: Bed) -> None:
    bound = await _account(bed)
    secret = (await bed.secrets.mint(EdgeRole.CONNECTOR, bound)).secret
    identity = await enrol(bed.address, bed.identities("app"), WANTS, secret=secret)
    record = (await bed.server.identities.find(identity.uid)).record.spec
    name = parse_uri(record.uri)
    assert (name.role, name.caller) == (PeerRole.CONNECTOR, bound.uid)
    assert name.project
    assert (record.caller.kind, record.caller.name) == (CallerKind.APP, "system:serviceaccount:joe:reports")
    await bed.store.delete(Key("ServiceAccount", "joe", "reports"))
    async with asyncio.timeout(3):
        while not (await bed.server.identities.find(identity.uid)).record.spec.revoked:
            await asyncio.sleep(0.01)


async def test_a_secret_lets_in_what_it_was_made_for_and_nothing_else(bed: Bed) -> None:
    bound = await _account(bed)
    secret = (await bed.secrets.mint(EdgeRole.CONNECTOR, bound)).secret
    with pytest.raises(Refused):
        await enrol(bed.address, bed.identities("agent"), AGENT, secret=secret)
    of_service = await bed.secret(EdgeRole.AGENT, "postgres")
    with pytest.raises(Refused):
        await enrol(bed.address, bed.identities("app"), WANTS, secret=of_service)
    await bed.store.delete(Key("ServiceAccount", "joe", "reports"))
    await _account(bed)
    with pytest.raises(Refused):
        await enrol(bed.address, bed.identities("app2"), WANTS, secret=secret)


async def test_a_read_only_token_makes_no_connector(bed: Bed) -> None:
    uid = (await bed.accounts.issue("bob", timedelta(hours=1))).uid
    token = (await bed.accounts.mint_token(uid, lifetime=timedelta(hours=1), read_only=True)).secret
    with pytest.raises(Refused) as refused:
        await enrol(bed.address, bed.identities("laptop"), WANTS, token=token)
    assert refused.value.code == "DRTP-2005"


async def test_a_connector_is_not_renewed_beyond_the_token_that_let_it_in(bed: Bed) -> None:
    identity = await _of_user(bed)
    record = (await bed.server.identities.find(identity.uid)).record.spec
    key = proven_key(request_for(new_key()))
    await bed.server.identities.renew(identity.uid, record.key_now, key, 1)
    held = await bed.server.identities.find(identity.uid)
    after = held.record.spec
    assert after.caller is not None
    ended = msgspec.structs.replace(after.caller, until=bed.clock.now() - timedelta(seconds=1))
    await bed.store.update(held.replaced(msgspec.structs.replace(after, caller=ended)))
    with pytest.raises(Refused) as refused:
        await bed.server.identities.renew(identity.uid, after.key_now, proven_key(request_for(new_key())), 2)
    assert refused.value.code == "DRTP-2009"


async def test_a_connector_that_enrols_while_its_account_is_deleted_is_revoked(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = await _account(bed)
    secret = (await bed.secrets.mint(EdgeRole.CONNECTOR, bound)).secret
    apply = bed.store.apply

    async def applied_after_the_deletion(writes: Sequence[Write]) -> Any:
        monkeypatch.setattr(bed.store, "apply", apply)
        await bed.store.delete(Key("ServiceAccount", "joe", "reports"))
        return await apply(writes)

    monkeypatch.setattr(bed.store, "apply", applied_after_the_deletion)
    with pytest.raises(Refused):
        await enrol(bed.address, bed.identities("app"), WANTS, secret=secret)
    assert all(one.object["spec"]["revoked"] for one in (await bed.store.list(EDGE_IDENTITY)).items)


async def test_connectors_of_one_caller_are_capped_and_others_are_not_kept_out(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "CONNECTORS_MAX", 2)
    first = await _of_user(bed, directory="one")
    await _of_user(bed, directory="two")
    with pytest.raises(Refused) as refused:
        await _of_user(bed, directory="three")
    assert refused.value.code == "DRTP-2050"
    await _of_user(bed, "eve", "eves")
    await bed.server.identities.revoke(first.uid, "lost")
    await _of_user(bed, directory="three")


async def test_a_program_with_a_good_secret_is_told_that_there_are_too_many(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "CONNECTORS_MAX", 0)
    secret = (await bed.secrets.mint(EdgeRole.CONNECTOR, await _account(bed))).secret
    with pytest.raises(Refused, match="DRTP-2050"):
        await enrol(bed.address, bed.identities("app"), WANTS, secret=secret)


async def test_an_edge_that_says_something_else_each_time_is_slowed_down(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Hello that changes nothing writes nothing, and is not counted."""
    identity = await _of_user(bed)
    key = (await bed.server.identities.find(identity.uid)).record.spec.key_now
    known = bed.server.identities
    await known.connected(identity.uid, key, hostname="laptop")
    at = bed.store.revision
    for _ in range(100):
        await known.connected(identity.uid, key, hostname="laptop")
    assert bed.store.revision == at
    for number in range(identities.CHANGES_BURST):
        await known.connected(identity.uid, key, hostname=f"laptop-{number}")
    with pytest.raises(Retryable, match="DRTP-2051"):
        await known.connected(identity.uid, key, hostname="another")


async def test_a_certificate_that_comes_into_use_is_no_word_of_the_edges(bed: Bed) -> None:
    identity = await _of_user(bed)
    known = bed.server.identities
    for _ in range(identities.CHANGES_BURST + 5):
        spec = (await known.find(identity.uid)).record.spec
        key = proven_key(request_for(new_key()))
        await known.renew(identity.uid, spec.key_now, key, spec.generation)
        await known.connected(identity.uid, key.fingerprint)


async def test_a_users_connector_is_forgotten_soon_after_its_end_and_a_programs_is_not(tmp_path: Path) -> None:
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        identity = await _of_user(bed)
        secret = (await bed.secrets.mint(EdgeRole.CONNECTOR, await _account(bed))).secret
        program = await enrol(bed.address, bed.identities("app"), WANTS, secret=secret)
        known = bed.server.identities
        await clock.advance(8.9 * 3600)
        await known.collect()
        assert await known.find(identity.uid) is not None
        await clock.advance(0.3 * 3600)
        await known.collect()
        assert await known.find(identity.uid) is None
        assert await known.find(program.uid) is not None
