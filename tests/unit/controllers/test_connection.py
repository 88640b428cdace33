"""Connections: placed, moved after a hold-down, collected when their agent is long gone."""

from __future__ import annotations

from collections.abc import Iterable

from drtp.api.core import Event, Lease
from drtp.api.drtp import ClientStatus, DRTPConnection, DRTPServer, DRTPService, ProgrammingStatus, Role
from drtp.api.internal import EdgeIdentity, EdgeRole
from drtp.api.meta import Key
from drtp.api.reports import (
    LocalState,
    PeerPath,
    PeerPaths,
    PopReport,
    Report,
    RoundTrips,
    RouteReport,
    ServiceReport,
    SessionState,
    TunnelReport,
)
from drtp.api.snapshots import Backend, DenyEntry, MeasureTarget, PlanServer, PlanService, RouteEntry, TrustEntry
from drtp.controllers.connection import DWELL, PLACED_BY
from drtp.controllers.runtime import Change, World
from drtp.rules.access import permits
from tower import DRTP, FALSE, TRUE, Tower, service


def assigned(tower: Tower, name: str = "web-a1") -> list[str]:
    return [one.server_ref.name for one in tower.get(DRTPConnection, "joe", name).spec.servers]


async def serving(tower: Tower, *pops: str) -> None:
    for name in pops:
        await tower.pop(name)
    await tower.apply(service())
    await tower.agent("a1", "joe", "web")
    for name in assigned(tower):
        await tower.pop_serves(name)
    await tower.agent_says("a1", LocalState.REACHABLE)


async def test_all_servers_are_in_different_failure_domains() -> None:
    async with Tower().running() as tower:
        await tower.pop("a", failureDomain="one")
        await tower.pop("b", failureDomain="one")
        await tower.pop("c", failureDomain="two")
        await tower.apply(service())
        await tower.agent("a1", "joe", "web")
        assert assigned(tower) == ["a", "c"]


async def test_a_single_pop_reads_degraded_and_a_second_one_is_taken_when_it_comes() -> None:
    async with Tower().running() as tower:
        await serving(tower, "nyc")
        found = tower.get(DRTPConnection, "joe", "web-a1")
        assert tower.condition(found, "Scheduled") == (TRUE, "Degraded")
        await tower.pop("ewr")
        assert assigned(tower) == ["nyc", "ewr"]


async def test_a_silent_pop_keeps_its_connections_through_the_hold_down_and_loses_them_after() -> None:
    async with Tower().running() as tower:
        await serving(tower, "a", "b", "c")
        assert assigned(tower) == ["a", "b"]
        await tower.hang_up(tower.servers["a"])
        await tower.advance(10)
        assert tower.condition(tower.get(DRTPServer, "", "a"), "Ready") == (TRUE, "Ready")
        await tower.advance(10)
        assert tower.condition(tower.get(DRTPServer, "", "a"), "Ready") == (FALSE, "LeaseExpired")
        assert assigned(tower) == ["a", "b"]
        await tower.advance(40)
        assert assigned(tower) == ["b", "c", "a"]
        await tower.pop_serves("c")
        assert assigned(tower) == ["b", "c"]


async def test_draining_moves_away_only_after_the_new_tunnel_is_up() -> None:
    async with Tower().running() as tower:
        await serving(tower, "a", "b", "c")
        await tower.say(tower.servers["a"], {"self": PopReport(health=100, draining=True)})
        assert assigned(tower) == ["b", "c", "a"]
        await tower.pop_serves("a", visitors=0)
        assert assigned(tower) == ["b", "c", "a"]
        await tower.pop_serves("c")
        assert assigned(tower) == ["b", "c"]
        assert not [
            one for one in tower.entries(EdgeRole.POP, tower.servers["a"]).values() if isinstance(one, RouteEntry)
        ]


async def test_a_cordoned_pop_takes_nothing_new_and_gives_away_what_it_has() -> None:
    async with Tower().running() as tower:
        await serving(tower, "a", "b")
        await tower.patch(DRTPServer, "", "a", {"spec": {"unschedulable": True}})
        assert tower.condition(tower.get(DRTPServer, "", "a"), "Ready") == (TRUE, "Cordoned")
        assert assigned(tower) == ["b", "a"]
        await tower.pop("c")
        assert assigned(tower) == ["b", "c", "a"]
        await tower.pop_serves("b")
        await tower.pop_serves("c")
        assert assigned(tower) == ["b", "c", "a"], "nobody knows yet whether visitors are left on a"
        await tower.pop_serves("a")
        assert assigned(tower) == ["b", "c"]


async def test_a_pop_that_leaves_keeps_its_visitors_until_the_last_one_or_it_is_gone() -> None:
    async with Tower().running() as tower:
        await serving(tower, "a", "b", "c")
        await tower.patch(DRTPServer, "", "a", {"spec": {"unschedulable": True}})
        await tower.pop_serves("c")
        await tower.pop_serves("a", visitors=3)
        found = tower.get(DRTPConnection, "joe", "web-a1")
        roles = {one.server_ref.name: one.role for one in found.spec.servers}
        assert roles == {"b": Role.PRIMARY, "c": Role.SECONDARY, "a": Role.LEAVING}
        entries = tower.entries(EdgeRole.POP, tower.servers["a"]).values()
        (route,) = (one for one in entries if isinstance(one, RouteEntry))
        assert route.leaving and route.enabled
        plan = tower.entries(EdgeRole.AGENT, "a1").values()
        assert tower.servers["a"] in {one.server for one in plan if isinstance(one, PlanServer)}, "its session ends"
        await tower.advance(120)
        assert assigned(tower) == ["b", "c", "a"]
        await tower.hang_up(tower.servers["a"])
        await tower.advance(10)
        assert assigned(tower) == ["b", "c", "a"], "a hiccup is no end"
        await tower.advance(20)
        assert assigned(tower) == ["b", "c"]


async def test_gateways_use_a_pop_that_leaves_last() -> None:
    async with Tower().running() as tower:
        await tower.gateway("g1")
        await serving(tower, "a", "b", "c")
        await tower.patch(DRTPServer, "", "a", {"spec": {"unschedulable": True}})
        await tower.pop_serves("c")
        await tower.pop_serves("a", visitors=1)
        (backend,) = (one for one in tower.entries(EdgeRole.GATEWAY, "g1").values() if isinstance(one, Backend))
        ranks = {one.server: one.priority for one in backend.endpoints}
        assert ranks == {tower.servers["b"]: 0, tower.servers["c"]: 1, tower.servers["a"]: 2}


async def test_a_service_that_is_not_exposed_is_ready_and_admits_nobody_at_the_tunnel() -> None:
    async with Tower().running() as tower:
        await tower.pop("a")
        await tower.pop("b")
        await tower.apply(service(expose=None))
        await tower.agent("a1", "joe", "web")
        await tower.pop_serves("a")
        await tower.pop_serves("b")
        found = tower.get(DRTPService, "joe", "web")
        assert tower.condition(found, "Ready") == (TRUE, "Ready")
        assert tower.condition(found, "Exposed") == (FALSE, "NotRequested")
        entries = tower.entries(EdgeRole.POP, tower.servers["a"]).values()
        (route,) = (one for one in entries if isinstance(one, RouteEntry))
        assert not permits(route.access, "203.0.113.9")


async def test_a_server_chosen_by_hand_is_left_alone() -> None:
    async with Tower().running() as tower:
        for name in ("a", "b", "c"):
            await tower.pop(name)
        await tower.apply(service())
        servers = [{"role": "Primary", "serverRef": {"name": "c"}}]
        await tower.apply(
            {
                "apiVersion": DRTP,
                "kind": "DRTPConnection",
                "metadata": {"name": "by-hand", "namespace": "joe"},
                "spec": {"serviceRef": {"name": "web"}, "servers": servers},
            }
        )
        assert assigned(tower, "by-hand") == ["c"]


async def test_connections_are_collected_a_day_after_their_agent_has_gone_and_the_service_stays() -> None:
    async with Tower().running() as tower:
        await serving(tower, "a", "b")
        await tower.hang_up("a1")
        for name in ("a", "b"):
            uid = tower.servers[name]
            tower.observed.disconnect(uid, tower.clock.now())
        await tower.advance(60)
        assert tower.view.get(DRTPConnection, "joe", "web-a1") is not None
        await tower.clock.advance(25 * 3600)
        await tower.settle()
        assert tower.view.get(DRTPConnection, "joe", "web-a1") is None
        assert tower.view.get(DRTPService, "joe", "web") is not None


async def test_a_revoked_agent_is_denied_everywhere_in_one_turn() -> None:
    async with Tower().running() as tower:
        await serving(tower, "a", "b")
        await tower.patch(EdgeIdentity, "", "a1", {"spec": {"revoked": True}})
        for name in ("a", "b"):
            entries = tower.entries(EdgeRole.POP, tower.servers[name])
            denied = entries["deny"]
            assert isinstance(denied, DenyEntry)
            assert denied.minimum_generation == {"a1": -1}
            assert [one.agents for one in entries.values() if isinstance(one, RouteEntry)] == [()]
        assert not tower.entries(EdgeRole.AGENT, "a1")


async def test_a_revoked_pop_is_left_by_everybody_in_one_turn_though_it_goes_on_reporting() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await serving(tower, "a", "b")
        await tower.pop("c")
        bad = tower.servers["a"]

        def told() -> tuple[set[str], set[str], set[str]]:
            plan, table = tower.entries(EdgeRole.AGENT, "a1"), tower.entries(EdgeRole.GATEWAY, "gw-1")
            dialled = {one.server for one in plan.values() if isinstance(one, PlanServer)}
            measured = {one.server for one in plan.values() if isinstance(one, MeasureTarget)}
            ends = {end.server for one in table.values() if isinstance(one, Backend) for end in one.endpoints}
            return dialled, measured, ends

        assert all(bad in servers for servers in told())
        await tower.patch(EdgeIdentity, "", bad, {"spec": {"revoked": True}})
        assert not any(bad in servers for servers in told())
        assert tower.condition(tower.get(DRTPServer, "", "a"), "Ready") == (FALSE, "Revoked")
        assert set(assigned(tower)) == {"b", "c"}
        denied = tower.entries(EdgeRole.AGENT, "a1")["deny"]
        assert isinstance(denied, DenyEntry)
        assert denied.minimum_generation == {bad: -1}
        await tower.say(bad, {"self": PopReport(health=100)})
        assert tower.condition(tower.get(DRTPServer, "", "a"), "Ready") == (FALSE, "Revoked")
        await tower.patch(EdgeIdentity, "", bad, {"spec": {"revoked": False}})
        assert tower.condition(tower.get(DRTPServer, "", "a"), "Ready") == (TRUE, "Ready")
        assert "deny" not in tower.entries(EdgeRole.AGENT, "a1")


async def test_nobody_is_sent_to_a_revoked_pop_that_was_assigned_by_hand() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await serving(tower, "a", "b")
        await tower.patch(DRTPConnection, "joe", "web-a1", {"metadata": {"annotations": {PLACED_BY: None}}})
        await tower.patch(EdgeIdentity, "", tower.servers["a"], {"spec": {"revoked": True}})
        assert assigned(tower) == ["a", "b"]
        plan = tower.entries(EdgeRole.AGENT, "a1")
        assert [one.server for one in plan.values() if isinstance(one, PlanServer)] == [tower.servers["b"]]
        found = tower.get(DRTPConnection, "joe", "web-a1")
        (message,) = (one.message for one in found.status.servers if one.server_ref.name == "a")
        assert message == "Its POP was revoked."


async def test_an_agent_of_another_tenant_never_gets_a_service() -> None:
    async with Tower().running() as tower:
        await tower.pop("a")
        await tower.apply(service())
        await tower.apply(service("own", "eve"))
        await tower.agent("evil", "eve", "own")
        await tower.apply(
            {
                "apiVersion": DRTP,
                "kind": "DRTPConnection",
                "metadata": {"name": "trick", "namespace": "joe"},
                "spec": {"serviceRef": {"name": "web"}, "client": {"agentID": "evil"}},
            }
        )
        plans = [one for one in tower.entries(EdgeRole.AGENT, "evil").values() if isinstance(one, PlanService)]
        assert [(one.namespace, one.name) for one in plans] == [("eve", "own")]
        routes = [
            one for one in tower.entries(EdgeRole.POP, tower.servers["a"]).values() if isinstance(one, RouteEntry)
        ]
        assert {(one.namespace, one.agents) for one in routes} == {("joe", ()), ("eve", ("evil",))}


async def test_every_pop_trusts_exactly_the_gateways_that_are_not_revoked() -> None:
    async with Tower().running() as tower:
        uid = await tower.pop("a")
        await tower.gateway("gw-1")
        await tower.gateway("gw-2")
        await tower.patch(EdgeIdentity, "", "gw-2", {"spec": {"revoked": True}})
        assert tower.entries(EdgeRole.POP, uid)["trust"] == TrustEntry(gateways=("gw-1",))


def measured(tower: Tower, round_trip_ms: float, *more: float) -> dict[str, Report]:
    """The POP's report of the only connection, with these figures: floor, jitter and loss too, or zeros."""
    connection = tower.get(DRTPConnection, "joe", "web-a1")
    floor_ms, jitter_ms, loss = more or (0, 0, 0)
    session = SessionState(
        status=ClientStatus.CONNECTED,
        agent="a1",
        round_trip_ms=round_trip_ms,
        round_trip_floor_ms=floor_ms,
        jitter_ms=jitter_ms,
        loss=loss,
    )
    uid = connection.metadata.uid
    return {
        f"route/{uid}": RouteReport(
            connection=uid, programming=ProgrammingStatus.PROGRAMMED, address="127.0.0.1", port=20000, session=session
        )
    }


async def test_r22_a_path_and_the_local_service_are_measured_in_the_status() -> None:
    async with Tower().running() as tower:
        await serving(tower, "nyc")
        await tower.say(tower.servers["nyc"], measured(tower, 41.6, 39.2, 3.1, 0.012))
        uid = tower.get(DRTPConnection, "joe", "web-a1").metadata.uid
        said = ServiceReport(connection=uid, local=LocalState.REACHABLE, connect_ms=2.6, jitter_ms=0.4, failures=3)
        await tower.say("a1", {f"service/{uid}": said})
        status = tower.get(DRTPConnection, "joe", "web-a1").status
        path, local = status.servers[0], status.local
        assert (path.round_trip_millis, path.round_trip_floor_millis) == (42, 39)
        assert (path.jitter_millis, path.loss_permille) == (3, 12)
        assert local is not None
        assert (local.state, local.connect_millis, local.jitter_millis, local.failures) == (
            LocalState.REACHABLE, 3, 0, 3,
        )  # fmt: skip


async def test_figures_that_dance_are_written_once_a_minute() -> None:
    async with Tower().running() as tower:
        await serving(tower, "nyc")
        await tower.say(tower.servers["nyc"], measured(tower, 40))
        before = tower.view.revision
        for step in range(20):
            await tower.say(tower.servers["nyc"], measured(tower, 400 if step % 2 else 40))
        assert tower.view.revision == before
        await tower.say(tower.servers["nyc"], measured(tower, 400))
        await tower.advance(60)
        assert tower.get(DRTPConnection, "joe", "web-a1").status.servers[0].round_trip_millis == 400


async def test_silence_after_a_restart_leaves_the_figures() -> None:
    async with Tower().running() as tower:
        await serving(tower, "nyc")
        await tower.say(tower.servers["nyc"], measured(tower, 40))
        before = tower.get(DRTPConnection, "joe", "web-a1").status
    async with Tower(tower.clock, tower.store).running() as again:
        await again.settle()
        after = again.get(DRTPConnection, "joe", "web-a1").status
        assert (after.servers, after.local, after.measured_time) == (before.servers, before.local, before.measured_time)


async def far_and_near(tower: Tower) -> None:
    """Placed by map on two POPs beside the agent; a third one is beyond the ocean."""
    await tower.pop("lon", location={"latitude": "51.5", "longitude": "-0.1"})
    await tower.pop("par", location={"latitude": "48.9", "longitude": "2.4"})
    await tower.pop("nyc", location={"latitude": "40.7", "longitude": "-74.0"})
    await tower.apply(service())
    await tower.agent("a1", "joe", "web", location={"latitude": "51.5", "longitude": "-0.2"})
    assert assigned(tower) == ["lon", "par"]
    for name in assigned(tower):
        await tower.pop_serves(name)
    await tower.agent_says("a1", LocalState.REACHABLE)


async def trips(tower: Tower, **millis: float) -> None:
    await tower.say("a1", {"roundtrips": RoundTrips(millis=millis)})


async def test_r8_an_agent_is_placed_by_map_at_once_and_by_measure_when_there_is_one() -> None:
    async with Tower().running() as tower:
        await far_and_near(tower)
        await trips(tower, lon=80, par=85, nyc=12)
        assert assigned(tower) == ["nyc", "lon", "par"]
        roles = [one.role for one in tower.get(DRTPConnection, "joe", "web-a1").spec.servers]
        assert roles == [Role.PRIMARY, Role.SECONDARY, Role.LEAVING]


async def test_a_move_by_measure_takes_the_old_tunnel_away_after_its_last_visitor() -> None:
    async with Tower().running() as tower:
        await far_and_near(tower)
        await trips(tower, lon=80, par=85, nyc=12)
        await tower.pop_serves("par", visitors=1)
        await tower.pop_serves("nyc")
        assert assigned(tower) == ["nyc", "lon", "par"]
        assert tower.condition(tower.get(DRTPConnection, "joe", "web-a1"), "Ready") == (TRUE, "Ready")
        await tower.pop_serves("par", visitors=0)
        assert assigned(tower) == ["nyc", "lon"]


async def test_who_was_moved_by_measure_rests_before_the_next_move() -> None:
    async with Tower().running() as tower:
        await far_and_near(tower)
        await trips(tower, lon=80, par=85, nyc=12)
        await tower.pop_serves("nyc")
        await tower.pop_serves("par", visitors=0)
        assert assigned(tower) == ["nyc", "lon"]
        await trips(tower, lon=80, par=20, nyc=12)
        assert assigned(tower) == ["nyc", "lon"]
        await tower.advance(DWELL.total_seconds())
        assert assigned(tower) == ["nyc", "par", "lon"]


async def test_nobody_is_moved_by_measure_while_a_path_is_down() -> None:
    async with Tower().running() as tower:
        await far_and_near(tower)
        await tower.pop_serves("par", session=ClientStatus.DISCONNECTED)
        await trips(tower, lon=80, par=85, nyc=12)
        assert assigned(tower) == ["lon", "par"]
        await tower.pop_serves("par")
        assert assigned(tower)[:2] == ["nyc", "lon"]


async def test_a_restarted_control_plane_that_knows_no_measure_moves_nobody() -> None:
    async with Tower().running() as tower:
        await far_and_near(tower)
        await trips(tower, lon=80, par=85, nyc=12)
        await tower.pop_serves("nyc")
        await tower.pop_serves("par", visitors=0)
    async with Tower(tower.clock, tower.store).running() as again:
        await again.advance(60)
        assert assigned(again)[:2] == ["nyc", "lon"]


async def test_a_server_set_by_hand_is_not_moved_by_measure() -> None:
    async with Tower().running() as tower:
        await far_and_near(tower)
        chosen = [{"role": "Primary", "serverRef": {"name": "par"}}]
        change = {"metadata": {"annotations": {"datumapis.com/placed-by": None}}, "spec": {"servers": chosen}}
        await tower.patch(DRTPConnection, "joe", "web-a1", change)
        await tower.pop_serves("par")
        await trips(tower, lon=80, par=85, nyc=12)
        assert assigned(tower) == ["par"]


async def test_agents_measure_what_they_may_be_given_and_pops_each_other() -> None:
    async with Tower().running() as tower:
        await far_and_near(tower)

        def targets(role: EdgeRole, uid: str) -> set[str]:
            return {one.name for one in tower.entries(role, uid).values() if isinstance(one, MeasureTarget)}

        assert targets(EdgeRole.AGENT, "a1") == {"lon", "par", "nyc"}
        assert targets(EdgeRole.POP, tower.servers["nyc"]) == {"lon", "par"}
        await tower.patch(DRTPServer, "", "par", {"spec": {"unschedulable": True}})
        assert targets(EdgeRole.AGENT, "a1") == {"lon", "nyc"}


async def test_paths_between_pops_are_in_their_status_the_nearest_first() -> None:
    async with Tower().running() as tower:
        await tower.pop("nyc")
        paths = {
            "par": PeerPath(round_trip_ms=82.4, round_trip_floor_ms=80.0, jitter_ms=1.2, loss=0.004),
            "ewr": PeerPath(round_trip_ms=1.6, round_trip_floor_ms=1.4),
        }
        await tower.say(tower.servers["nyc"], {"peers": PeerPaths(paths=paths)})
        peers = tower.get(DRTPServer, "", "nyc").status.peers
        assert [(one.server_ref.name, one.round_trip_millis) for one in peers] == [("ewr", 2), ("par", 82)]
        assert (peers[1].round_trip_floor_millis, peers[1].jitter_millis, peers[1].loss_permille) == (80, 1, 4)
        await tower.hang_up(tower.servers["nyc"])
        await tower.advance(30)
        assert tower.get(DRTPServer, "", "nyc").status.peers == peers


async def test_heartbeats_are_written_at_most_every_ten_seconds() -> None:
    async with Tower().running() as tower:
        await tower.pop("a")
        first = tower.get(Lease, "datum-system", "a").metadata.resource_version
        await tower.advance(5)
        assert tower.get(Lease, "datum-system", "a").metadata.resource_version == first
        await tower.advance(10)
        assert tower.get(Lease, "datum-system", "a").metadata.resource_version != first


async def test_an_agents_record_that_is_written_anew_gives_its_connections_no_turn() -> None:
    async with Tower().running() as tower:
        await serving(tower, "a", "b")
        (controller,) = (one for one in tower.controllers if one.name == "connection")
        told: list[Key] = []
        tower.view.listen(
            lambda change: told.extend(controller.watches.get(change.key.kind, _nobody)(tower.world, change))
        )
        await tower.patch(EdgeIdentity, "", "a1", {"spec": {"certificatePem": "another", "generation": 2}})
        assert told == []
        await tower.patch(EdgeIdentity, "", "a1", {"spec": {"revoked": True}})
        assert [key.kind for key in told] == ["DRTPConnection.datumapis.com"]


def _nobody(_world: World, _change: Change) -> Iterable[Key]:
    return ()


async def test_events_of_what_is_gone_go_after_minutes_and_others_stay() -> None:
    async with Tower().running() as tower:
        await serving(tower, "a", "b")
        await tower.agent_says("a1", LocalState.UNREACHABLE, "connection refused")

        def kinds() -> set[str | None]:
            return {one.involved_object.kind for one in tower.view.list(Event)}

        assert kinds() >= {"DRTPService", "DRTPConnection", "DRTPServer"}
        await tower.delete(DRTPService, "joe", "web")
        await tower.advance(60)
        assert "DRTPService" in kinds(), "what became of it can still be read"
        await tower.advance(70)
        assert "DRTPService" not in kinds()
        await tower.advance(200)
        assert kinds() >= {"DRTPConnection", "DRTPServer"}


async def test_transitions_become_events_that_are_counted_and_go_after_an_hour() -> None:
    async with Tower().running() as tower:
        await serving(tower, "a", "b")
        await tower.agent_says("a1", LocalState.UNREACHABLE, "connection refused")
        await tower.agent_says("a1", LocalState.REACHABLE)
        await tower.agent_says("a1", LocalState.UNREACHABLE, "connection refused")
        found = [
            one
            for one in tower.view.list(Event, "joe")
            if one.reason == "ConnectedLocalServiceUnreachable" and one.involved_object.kind == "DRTPConnection"
        ]
        assert [one.count for one in found] == [2]
        await tower.clock.advance(3700)
        await tower.settle()
        assert not [one for one in tower.view.list(Event, "joe") if one.metadata.name == found[0].metadata.name]


async def test_a_restart_collects_no_agent_before_it_could_come_back() -> None:
    async with Tower().running() as tower:
        await tower.pop("nyc")
        await tower.apply(service())
        await tower.agent("a1", "joe", "web")
        await tower.advance(60)
        before = tower.get(DRTPConnection, "joe", "web-a1").metadata.uid
    await tower.clock.advance(25 * 3600)
    async with Tower(tower.clock, tower.store).running() as again:
        await again.advance(30)
        assert again.get(DRTPConnection, "joe", "web-a1").metadata.uid == before
        await again.advance(15 * 60)
        assert not again.view.list(DRTPConnection, "joe")


async def test_an_agents_words_reach_its_own_connections_alone_cve_2026_55428() -> None:
    """What an agent says of another's connection is heard by nobody: no address, no state, no route comes of it."""
    async with Tower().running() as tower:
        await tower.pop("nyc")
        await tower.gateway()
        for namespace, agent in (("joe", "a1"), ("eve", "a2")):
            await tower.apply(service(namespace=namespace))
            await tower.agent(agent, namespace, "web")
        await tower.pop_serves("nyc")
        await tower.agent_says("a1", LocalState.REACHABLE)
        await tower.gateway_programs()
        before = tower.get(DRTPConnection, "joe", "web-a1")
        entries = tower.entries(EdgeRole.POP, tower.servers["nyc"]), tower.entries(EdgeRole.GATEWAY, "gw-1")
        uid = before.metadata.uid
        lies: dict[str, Report] = {
            f"service/{uid}": ServiceReport(connection=uid, local=LocalState.UNREACHABLE, message="mine now"),
            f"route/{uid}": RouteReport(
                connection=uid, programming=ProgrammingStatus.PROGRAMMED, address="203.0.113.66", port=666
            ),
            f"tunnel/{tower.servers['nyc']}": TunnelReport(
                server=tower.servers["nyc"], status=ClientStatus.CONNECTED, message="mine now"
            ),
        }
        await tower.say("a2", lies)
        after = tower.get(DRTPConnection, "joe", "web-a1")
        assert after.status == before.status
        assert entries == (tower.entries(EdgeRole.POP, tower.servers["nyc"]), tower.entries(EdgeRole.GATEWAY, "gw-1"))
