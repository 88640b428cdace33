"""The feed end to end: real TLS, real client, real Store."""
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import shutil
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from drtp.api.drtp import ProgrammingStatus
from drtp.api.feed import EdgeRole
from drtp.api.meta import Key
from drtp.api.reports import LocalState, PopReport, RouteReport, ServiceReport
from drtp.api.snapshots import DenyEntry, Entries, TrustEntry
from drtp.api.spiffe import parse_uri
from drtp.client import home
from drtp.client.feed import FeedPhase
from drtp.client.identity import Identity, IdentityStore, build_identity
from drtp.client.keys import new_key, request_for
from drtp.edgeserver.answers import key_of
from drtp.edgeserver.identities import Identities, identity_key
from drtp.issuers.authority import Authority
from drtp.issuers.requests import proven_key
from drtp.kit.errors import Refused, Retryable, Terminal
from unit.edgeserver.edgebed import GATEWAY, clock_from_now, edge_bed, pop, until


def entries(*gateways: str) -> Entries:
    return {"trust": TrustEntry(gateways=gateways), "deny": DenyEntry()}


async def test_pop_gets_its_snapshot_and_only_changes_afterwards(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("pop", pop())
        bed.snapshots.publish(EdgeRole.POP, identity.uid, entries("g1"))
        async with bed.running(bed.feed("pop", pop())) as feed:
            first = await asyncio.wait_for(feed.snapshot.first(), 5)
            assert first.entries == entries("g1")
            generation = bed.snapshots.publish(EdgeRole.POP, identity.uid, entries("g1", "g2"))
            await until(lambda: feed.snapshot.value.generation == generation)
            assert feed.snapshot.value.entries == entries("g1", "g2")
            assert feed.snapshot.value.entries["deny"] is first.entries["deny"], "an unchanged entry was sent again"
            assert feed.state.value.phase is FeedPhase.UP


async def test_change_reaches_the_edge_within_milliseconds(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("pop", pop())
        bed.snapshots.publish(EdgeRole.POP, identity.uid, entries())
        async with bed.running(bed.feed("pop", pop())) as feed:
            version, _ = await feed.snapshot.newer(0)
            took: list[float] = []
            for turn in range(30):
                started = time.perf_counter()
                bed.snapshots.publish(EdgeRole.POP, identity.uid, entries(f"g{turn}"))
                version, _ = await asyncio.wait_for(feed.snapshot.newer(version), 5)
                took.append(time.perf_counter() - started)
            assert sorted(took)[len(took) // 2] < 0.05


async def test_reports_and_applied_reach_observed(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        feed = bed.feed("agent")
        feed.reports.set("service/c1", ServiceReport(connection="c1", local=LocalState.REACHABLE))
        async with bed.running(feed):
            generation = bed.snapshots.publish(EdgeRole.AGENT, identity.uid, {})
            await until(lambda: feed.snapshot.value)
            feed.applied(generation, {"server/x": "no route"})
            state = await until(lambda: (s := bed.observed.edge(identity.uid)) and s.applied and s)
            assert state.quarantined == {"server/x": "no route"}
            assert state.reports["service/c1"].local is LocalState.REACHABLE
            feed.reports.remove("service/c1")
            await until(lambda: not bed.observed.edge(identity.uid).reports)
        await until(lambda: not bed.observed.edge(identity.uid).connected)


async def test_applied_is_said_only_after_the_snapshot_is_on_disk(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("pop", pop())
        generation = bed.snapshots.publish(EdgeRole.POP, identity.uid, entries("g1"))
        async with bed.running(bed.feed("pop", pop())) as feed:
            await until(lambda: feed.snapshot.value)
            feed.applied(generation)
            await until(lambda: bed.observed.edge(identity.uid).applied == generation)
            assert bed.feed("pop", pop()).snapshot.value.generation == generation
        mode = stat.S_IMODE((tmp_path / "pop" / "snapshot.json").stat().st_mode)
        assert mode == 0o600


async def test_edge_starts_from_its_disk_with_the_control_plane_down_and_catches_up_without_the_whole(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("pop", pop())
        bed.snapshots.publish(EdgeRole.POP, identity.uid, entries("g1"))
        async with bed.running(bed.feed("pop", pop())) as feed:
            await until(lambda: feed.snapshot.value)
            feed.applied(feed.snapshot.value.generation)
            await until(lambda: bed.observed.edge(identity.uid).applied)
        port = bed.port
    again = bed.feed("pop", pop())
    assert again.snapshot.value.entries == entries("g1")
    assert again.identity.value.uid == identity.uid
    async with bed.running(again):
        await until(lambda: again.state.value.phase is FeedPhase.DOWN)
        assert again.state.value.code == "DRTP-3001"
        bed.server = bed.new_server()
        bed.snapshots.publish(EdgeRole.POP, identity.uid, entries("g2"))
        async with bed.server.serving("127.0.0.1", port, bed.tls.context):
            await until(lambda: again.snapshot.value.entries == entries("g2"), 10)


async def test_goodbye_at_shutdown_paces_the_return(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        await bed.enrolled("agent")
        feed = bed.feed("agent")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(feed.run())
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            bed.server._part_all()
            await until(lambda: feed.state.value.code == "DRTP-3002")
            assert feed.state.value.phase is FeedPhase.DOWN
            running.cancel()


async def test_deleted_server_revokes_the_pop_and_cuts_its_feed(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("pop", pop())
        feed = bed.feed("pop", pop())
        running = asyncio.ensure_future(feed.run())
        await until(lambda: feed.state.value.phase is FeedPhase.UP)
        await bed.store.delete(Key("DRTPServer.datumapis.com", "", "worker-001.pop"))
        with pytest.raises(Terminal) as refused:
            await asyncio.wait_for(running, 5)
        assert refused.value.code == "DRTP-2006"
        assert feed.state.value.terminal
        record = await bed.server.identities.find(identity.uid)
        assert record.record.spec.revoked


async def test_revoked_identity_is_cut_at_once_and_not_let_in_again(tmp_path: Path):
    """frp#1337, #4839, ngrok-python#124: a live client is cut from the server."""
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        feed = bed.feed("agent")
        running = asyncio.ensure_future(feed.run())
        await until(lambda: feed.state.value.phase is FeedPhase.UP)
        started = time.monotonic()
        await bed.server.identities.revoke(identity.uid, "test")
        with pytest.raises(Terminal):
            await asyncio.wait_for(running, 5)
        assert time.monotonic() - started < 2
        with pytest.raises(Terminal) as refused:
            await asyncio.wait_for(bed.feed("agent").run(), 5)
        assert refused.value.code == "DRTP-2006"


async def test_what_a_forgotten_edge_said_and_heard_is_forgotten_too(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        bed.snapshots.publish(EdgeRole.AGENT, identity.uid, {})
        async with bed.running(bed.feed("agent")) as feed:
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
        await until(lambda: not bed.observed.edge(identity.uid).connected and bed.server._last_sent)
        feed = bed.feed("agent")
        running = asyncio.ensure_future(feed.run())
        await until(lambda: feed.state.value.phase is FeedPhase.UP)
        await bed.store.delete(identity_key(identity.uid))
        with pytest.raises(Terminal):
            await asyncio.wait_for(running, 5)
        await until(lambda: not bed.server._sessions)
        assert bed.observed.edge(identity.uid) is None
        assert not bed.server._last_sent


async def test_an_identity_revoked_during_its_hello_gets_no_feed(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        registrations = bed.server._registrations
        write = registrations.apply

        async def meanwhile(writes):
            await bed.server.identities.revoke(identity.uid, "test")
            await asyncio.sleep(0.05)  # the cut, if it came, found nobody
            await write(writes)

        registrations.apply = meanwhile
        with pytest.raises(Terminal) as refused:
            await asyncio.wait_for(bed.feed("agent").run(), 5)
        assert refused.value.code == "DRTP-2006"


async def test_revocations_outlive_a_store_that_fails_for_a_while(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("pop", pop())
        feed = bed.feed("pop", pop())
        running = asyncio.ensure_future(feed.run())
        await until(lambda: feed.state.value.phase is FeedPhase.UP)
        revoke, failures = bed.server.identities.revoke, []

        async def failing(uid, reason):
            if not failures:
                failures.append(uid)
                raise Retryable("DRTP-1006")
            await revoke(uid, reason)

        bed.server.identities.revoke = failing
        await bed.store.delete(Key("DRTPServer.datumapis.com", "", "worker-001.pop"))
        with pytest.raises(Terminal) as refused:
            await asyncio.wait_for(running, 10)
        assert refused.value.code == "DRTP-2006"
        assert failures == [identity.uid]


async def test_newer_connection_of_one_identity_replaces_the_older_without_waiting(tmp_path: Path):
    """frp#3470, #4023, chisel#177, #445: a name belongs to an identity, never to the process that held it last."""
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        older = bed.feed("agent")
        running = asyncio.ensure_future(older.run())
        await until(lambda: older.state.value.phase is FeedPhase.UP)
        async with bed.running(bed.feed("agent")) as newer:
            await until(lambda: newer.state.value.phase is FeedPhase.UP)
            with pytest.raises(Terminal) as refused:
                await asyncio.wait_for(running, 5)
            assert refused.value.code == "DRTP-3003"
            assert bed.observed.edge(identity.uid).connected
            assert newer.state.value.phase is FeedPhase.UP


async def test_agents_connections_and_pops_server_are_written_and_kept_true(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        agent, server = await bed.enrolled("agent"), await bed.enrolled("pop", pop())
        (connection,) = (await bed.store.list("DRTPConnection.datumapis.com")).items
        assert connection.key.name == f"postgres-{agent.uid[:8]}"
        spec = connection.object["spec"]
        assert spec["serviceRef"] == {"name": "postgres"}
        assert spec["client"]["agentID"] == agent.uid
        assert spec["client"]["ip"] == "127.0.0.1"
        assert connection.metadata["ownerReferences"][0]["kind"] == "DRTPService"
        stored = await bed.store.get(Key("DRTPServer.datumapis.com", "", "worker-001.pop"))
        assert stored.uid == server.uid
        await bed.store.update({**stored.object, "spec": {**stored.object["spec"], "unschedulable": True}})
        revision = bed.store.revision
        async with bed.running(bed.feed("pop", pop())) as feed:
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
        stored = await bed.store.get(Key("DRTPServer.datumapis.com", "", "worker-001.pop"))
        assert stored.object["spec"]["unschedulable"], "a Hello undid the operator's cordon"
        assert stored.revision <= revision, "an unchanged registration was written"


async def test_pop_may_register_its_own_name_only(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        await bed.enrolled("pop", pop())
        with pytest.raises(Terminal) as refused:
            await asyncio.wait_for(bed.feed("pop", pop("worker-002.pop")).run(), 5)
        assert refused.value.code == "DRTP-3007"


async def test_certificate_role_decides_not_the_registration_ghsa_7868_235p_7497(tmp_path: Path):
    """GHSA-7868-235p-7497: no claim in a message makes anybody somebody else."""
    async with edge_bed(tmp_path) as bed:
        await bed.enrolled("agent")
        with pytest.raises(Terminal) as refused:
            await asyncio.wait_for(bed.feed("agent", GATEWAY).run(), 5)
        assert refused.value.code == "DRTP-3007"


async def test_agent_cannot_report_as_a_pop(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        feed = bed.feed("agent")
        async with bed.running(feed):
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            feed.reports.set("self", PopReport(health=100))
            await until(lambda: feed.state.value.code == "DRTP-3004")
            assert "self" not in bed.observed.edge(identity.uid).reports


@pytest.mark.parametrize(
    "report",
    [
        RouteReport(connection="c", programming=ProgrammingStatus.PROGRAMMED, address="127.0.0.1", port=70000),
        RouteReport(connection="c", programming=ProgrammingStatus.PROGRAMMED, address="1" * 46, port=7000),
        PopReport(health=101),
    ],
)
async def test_a_report_that_fits_no_status_ends_its_own_feed(tmp_path: Path, report: RouteReport | PopReport) -> None:
    """A hacked POP must not be able to make another's connection unreadable (threat 5)."""
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("pop", pop())
        feed = bed.feed("pop", pop())
        async with bed.running(feed):
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            feed.reports.set("self" if isinstance(report, PopReport) else "route/c", report)
            await until(lambda: feed.state.value.code == "DRTP-3004")
            assert not bed.observed.edge(identity.uid).reports


async def test_one_tenants_agent_sees_its_own_snapshot_only(tmp_path: Path):
    """Threat 1: there is no parameter to ask for another's."""
    async with edge_bed(tmp_path) as bed:
        first, second = await bed.enrolled("one"), await bed.enrolled("two")
        bed.snapshots.publish(EdgeRole.AGENT, first.uid, entries("secret-of-one"))
        bed.snapshots.publish(EdgeRole.AGENT, second.uid, entries("secret-of-two"))
        async with bed.running(bed.feed("one")) as one, bed.running(bed.feed("two")) as two:
            assert (await one.snapshot.first()).entries == entries("secret-of-one")
            assert (await two.snapshot.first()).entries == entries("secret-of-two")


async def test_certificate_renews_itself_at_a_third_with_a_new_key(tmp_path: Path):
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        first = await bed.enrolled("agent")
        async with bed.running(bed.feed("agent")) as feed:
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            for _ in range(4):
                await clock.advance(3600)
            assert feed.identity.value.generation == 1, "renewed long before a third"
            await bed.until_renewed(feed, "agent", hours=6)
            await clock.advance(1)
            await until(lambda: bed.identities("agent").other() is None)
        second = bed.identities("agent").load()
        assert second.uid == first.uid
        assert second.generation == 2
        assert second.key_pem != first.key_pem
        record = await bed.server.identities.find(first.uid)
        assert record.record.spec.used_generation == 2


async def test_cloned_key_locks_the_identity(tmp_path: Path):
    """Threat 4: the original renewed, then the copy of the old key shows up."""
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        identity = await bed.enrolled("agent")
        shutil.copytree(tmp_path / "agent", tmp_path / "clone", symlinks=True)
        home.settle(tmp_path / "clone")  # a thief's copy denies being one
        async with bed.running(bed.feed("agent")) as feed:
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            await bed.until_renewed(feed, "agent", hours=10)
            await clock.advance(1)
            await until(lambda: bed.identities("agent").other() is None)
        with pytest.raises(Terminal) as refused:
            await asyncio.wait_for(bed.feed("clone").run(), 5)
        assert refused.value.code == "DRTP-2007"
        record = await bed.server.identities.find(identity.uid)
        assert record.record.spec.locked


async def test_answer_that_comes_while_the_request_is_made_again_locks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two requests of one renewal are of one key, or the second looks like a copy's."""
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        identity = await bed.enrolled("agent")
        store = bed.identities("agent")
        installed, twice = threading.Event(), threading.Event()
        requests, late = 0, False
        pending_key, install, renew = IdentityStore.pending_key, IdentityStore.install, Identities.renew

        def late_key(self: IdentityStore):
            nonlocal late
            if requests == 1 and not late:  # the request made again: the answer to the first overtakes it, if it can
                late = True
                installed.wait(0.5)
            return pending_key(self)

        def slow_switch(self: IdentityStore, following: Identity) -> None:
            install(self, following)
            installed.set()
            twice.wait(0.5)

        async def slow_answer(self: Identities, *facts: Any, **more: Any):
            nonlocal requests
            requests += 1
            if requests == 1:
                await clock.advance(3600)  # the client has waited long enough for its answer
            else:
                twice.set()
            return await renew(self, *facts, **more)

        monkeypatch.setattr(IdentityStore, "pending_key", late_key)
        monkeypatch.setattr(IdentityStore, "install", slow_switch)
        monkeypatch.setattr(Identities, "renew", slow_answer)
        async with bed.running(bed.feed("agent")) as feed:
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            await bed.until_renewed(feed, "agent", hours=10)
            await clock.advance(1)
            await until(lambda: bed.identities("agent").other() is None)
        assert requests >= 2, "it was not asked for again"
        record = await bed.server.identities.find(identity.uid)
        assert (record.record.spec.locked, record.record.spec.used_generation) == (False, 2)
        assert store.load().generation == 2


async def test_identity_that_never_worked_gives_way_to_the_one_before_and_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """ziti#2080, #2896: renewal never bricks an agent."""
    async with edge_bed(tmp_path) as bed:
        first = await bed.enrolled("agent")
        store = bed.identities("agent")
        key = store.pending_key()
        foreign = Authority(tmp_path / "foreign", "drtp.test", "prism.test", bed.clock)
        public = proven_key(request_for(key)).public
        issued = foreign.issue(parse_uri(first.uri), public)
        store.install(
            build_identity(
                issued.chain_pem.encode(),
                key,
                first.bundle_pem,
                generation=2,
                suffix=first.suffix,
                feed_url=first.feed_url,
            )
        )
        feed = bed.feed("agent")
        assert feed.identity.value.generation == 2
        async with bed.running(feed):
            await until(lambda: feed.state.value.phase is FeedPhase.UP, 10)
            assert feed.identity.value.generation == 1
            assert store.other().generation == 2
        monkeypatch.setattr(
            "drtp.client.session.due_at",
            lambda identity, _rng: bed.clock.now() if identity.generation == 1 else identity.not_after,
        )
        feed = bed.feed("agent")
        async with bed.running(feed):
            await until(lambda: feed.identity.value.generation == 2 and store.other() is None, 10)
        assert store.load().key_pem == key
        assert (await bed.server.identities.find(first.uid)).record.spec.generation == 2


async def test_renewal_whose_answer_was_lost_is_answered_again_even_after_its_certificate_has_expired(tmp_path: Path):
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        first = await bed.enrolled("agent")
        presented = key_of(x509.load_pem_x509_certificates(first.chain_pem)[0])
        key = proven_key(request_for(bed.identities("agent").pending_key()))
        renew = bed.server.identities.renew
        lost = await renew(first.uid, presented, key, 1)
        assert await renew(first.uid, presented, key, 1) == lost
        await clock.advance(25 * 3600)
        late = await renew(first.uid, presented, key, 1)
        assert (late.generation, late.chain_pem != lost.chain_pem) == (2, True)
        other = proven_key(request_for(new_key()))
        with pytest.raises(Refused) as refused:
            await renew(first.uid, presented, other, 1)
        assert refused.value.code == "DRTP-2007"
