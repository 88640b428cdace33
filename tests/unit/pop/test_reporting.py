"""What a POP says of its routes."""

from __future__ import annotations

from pathlib import Path as File

import msgspec
import pytest

from drtp.api.drtp import ClientStatus, ProgrammingStatus
from drtp.api.reports import PeerPath, PeerPaths, PopReport, Report, RouteReport
from drtp.client.roundtrips import Path
from drtp.pop.ports import Place
from drtp.pop.reporting import Standing, peer_reports, reports_of, settled
from drtp.pop.table import Table, read_table
from drtp.pop.vitals import DEAD_AFTER_READINGS, Fitness, Pulse, Vitals
from drtp.tunnel import ConnectionStats, LaneStats, SessionPhase, SessionStats, Stats
from edge_world import route, snapshot

FIT = Vitals(Fitness.OK, 100)


def table() -> Table:
    return read_table(snapshot({"route/c1": route()}), {"c1": Place("127.0.0.1", 20000)}, File("/run"))


def session(state: SessionPhase = SessionPhase.OPEN, epoch: int = 7, round_trip_ms: float = 10.0) -> SessionStats:
    lane = LaneStats(round_trip_ms=round_trip_ms)
    return SessionStats(peer="a1", address="192.0.2.1:5000", state=state, epoch=epoch, since_unix_ms=5, lanes=(lane,))


def said(stats: Stats, standing: Standing | None = None, before: dict[str, Report] | None = None) -> RouteReport:
    bound = Standing(bound={"route/c1": "127.0.0.1:20000"})
    report = reports_of(table(), standing or bound, stats, FIT, before or {})["route/c1"]
    assert isinstance(report, RouteReport)
    return report


def test_a_bound_route_is_programmed_with_its_sources() -> None:
    report = said(Stats())
    assert (report.programming, report.address, report.port) == (ProgrammingStatus.PROGRAMMED, "127.0.0.1", 20000)
    assert report.sources == route().sources
    assert report.session.status is ClientStatus.WAITING


def test_an_ipv6_endpoint_is_said_without_brackets() -> None:
    report = said(Stats(), Standing(bound={"route/c1": "[::1]:20000"}))
    assert (report.address, report.port) == ("::1", 20000)


def test_a_failed_route_repeats_no_sources() -> None:
    report = said(Stats(), Standing(failed={"route/c1": "no"}))
    assert (report.programming, report.sources, report.message) == (ProgrammingStatus.FAILED, (), "no")


def test_a_live_session_is_connected() -> None:
    report = said(Stats(sessions=(session(),)))
    assert report.session.status is ClientStatus.CONNECTED
    assert (report.session.agent, report.session.epoch, report.session.round_trip_ms) == ("a1", 7, 10.0)


def test_a_strangers_session_does_not_count() -> None:
    stranger = SessionStats(peer="a2", address="192.0.2.2:1", state=SessionPhase.OPEN)
    assert said(Stats(sessions=(stranger,))).session.status is ClientStatus.WAITING


def test_a_lost_session_is_disconnected_and_not_waiting() -> None:
    up = said(Stats(sessions=(session(),)))
    down = said(Stats(), before={"route/c1": up})
    assert down.session.status is ClientStatus.DISCONNECTED
    assert said(Stats(), before={"route/c1": down}).session.status is ClientStatus.DISCONNECTED


def test_the_newer_epoch_counts_during_a_change() -> None:
    both = Stats(sessions=(session(epoch=9), session(SessionPhase.CLOSED, epoch=7)))
    assert said(both).session.epoch == 9


def test_a_draining_pop_says_so_everywhere() -> None:
    vitals = Vitals(Fitness.DRAINING, 100)
    reports = reports_of(table(), Standing(bound={"route/c1": "127.0.0.1:1"}), Stats(), vitals, {})
    own, of_route = reports["self"], reports["route/c1"]
    assert isinstance(own, PopReport)
    assert own.draining
    assert isinstance(of_route, RouteReport)
    assert of_route.programming is ProgrammingStatus.DRAINING


def test_visitors_are_counted_only_where_somebody_waits_for_the_last_one() -> None:
    stats = Stats(connections=(ConnectionStats(connection="c1", service="s1", streams=3),))
    assert said(stats).visitors is None
    bound = Standing(bound={"route/c1": "127.0.0.1:1"})
    leaving = read_table(
        snapshot({"route/c1": msgspec.structs.replace(route(), leaving=True)}),
        {"c1": Place("127.0.0.1", 20000)},
        File("/run"),
    )
    for one, vitals in ((leaving, FIT), (table(), Vitals(Fitness.DRAINING, 100))):
        report = reports_of(one, bound, stats, vitals, {})["route/c1"]
        assert isinstance(report, RouteReport) and report.visitors == 3
        nobody = reports_of(one, bound, Stats(), vitals, {})["route/c1"]
        assert isinstance(nobody, RouteReport) and nobody.visitors == 0


@pytest.mark.parametrize(
    ("before", "measured", "then"),
    [(None, 10.123, 10.12), (10.0, 10.9, 10.0), (10.0, 12.5, 12.5), (1000.0, 1100.0, 1000.0), (3.0, 0.0, 0.0)],
)
def test_gauges_do_not_chatter(before: float | None, measured: float, then: float) -> None:
    assert settled(before, measured) == then


def test_a_driver_that_does_not_count_is_stuck() -> None:
    pulse = Pulse()
    assert pulse.vitals(0, None, draining=False, descriptors_share=0).fitness is Fitness.STARTING
    assert pulse.vitals(1, Stats(ticks=1), draining=False, descriptors_share=0.1) == Vitals(Fitness.OK, 100, 1, 0.1)
    assert pulse.vitals(2, Stats(ticks=1), draining=False, descriptors_share=0).fitness is Fitness.OK
    stuck = pulse.vitals(4.5, Stats(ticks=1, stale=True), draining=True, descriptors_share=0)
    assert (stuck.fitness, stuck.health) == (Fitness.STUCK, 0)
    assert pulse.vitals(5, Stats(ticks=2), draining=True, descriptors_share=0).fitness is Fitness.DRAINING


def test_a_dead_driver_ends_the_process_and_a_long_stop_does_not() -> None:
    pulse = Pulse()
    pulse.vitals(0, Stats(ticks=1), draining=False, descriptors_share=0)
    pulse.vitals(3600, Stats(ticks=1, stale=True), draining=False, descriptors_share=0)
    assert not pulse.dead
    for second in range(DEAD_AFTER_READINGS):
        pulse.vitals(3600 + second, Stats(ticks=1, stale=True), draining=False, descriptors_share=0)
    assert pulse.dead


def test_health_falls_as_descriptors_run_out() -> None:
    pulse = Pulse()
    shares = (0.8, 0.95, 1.0)
    healths = [pulse.vitals(0, Stats(ticks=1), draining=False, descriptors_share=share).health for share in shares]
    assert healths[0] == 100
    assert healths[0] > healths[1] > healths[2] >= 10
    assert healths[1] < 50, "placement must go elsewhere before the last descriptor"


def test_a_path_is_reported_once_it_is_measured_and_again_when_it_has_moved() -> None:
    unmeasured = SessionStats(peer="a1", address="192.0.2.1:5000", state=SessionPhase.OPEN, lanes=(LaneStats(),))
    fresh = said(Stats(sessions=(unmeasured,))).session
    assert (fresh.round_trip_ms, fresh.jitter_ms, fresh.loss) == (None, None, None)

    def measured(jitter_ms: float, loss: float) -> Stats:
        lane = LaneStats(round_trip_ms=40.0, round_trip_floor_ms=38.0, jitter_ms=jitter_ms, loss=loss)
        session = SessionStats(peer="a1", address="192.0.2.1:5000", state=SessionPhase.OPEN, lanes=(lane,))
        return Stats(sessions=(session,))

    before = said(measured(2.0, 0.05))
    assert (before.session.round_trip_floor_ms, before.session.jitter_ms, before.session.loss) == (38.0, 2.0, 0.05)
    assert said(measured(2.9, 0.055), before={"route/c1": before}) == before
    after = said(measured(3.1, 0.08), before={"route/c1": before}).session
    assert (after.jitter_ms, after.loss) == (3.1, 0.08)


def test_other_pops_are_reported_where_the_path_is_known_and_do_not_chatter() -> None:
    assert peer_reports({}, {}) == {}
    first = peer_reports({"par": Path(80.0, 78.0, 1.0, 0.0)}, {})
    assert first["peers"] == PeerPaths(paths={"par": PeerPath(80.0, 78.0, 1.0, 0.0)})
    assert peer_reports({"par": Path(90.0, 79.0, 1.5, 0.005)}, first) == first
    moved = peer_reports({"par": Path(100.0, 79.0, 1.5, 0.1)}, first)["peers"]
    assert moved == PeerPaths(paths={"par": PeerPath(100.0, 78.0, 1.0, 0.1)})
