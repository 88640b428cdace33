"""What people see of an agent: ready means that a visitor is answered."""

from __future__ import annotations

from pathlib import Path as File

import msgspec
import pytest

from drtp.agent.picture import pop_views, service_views
from drtp.agent.pins import Pins
from drtp.agent.plan import Plan, read_plan, targets_of
from drtp.agent.rates import RateMeter
from drtp.agent.reporting import reports_of
from drtp.agent.view import AgentView, PopView, ServiceView
from drtp.api.drtp import ClientStatus, Role
from drtp.api.reports import LocalState, RoundTrips, ServiceReport, TunnelReport
from drtp.api.snapshots import MeasureTarget
from drtp.client.roundtrips import Path, Target
from drtp.tunnel import ConnectionStats, LaneStats, LocalStats, SessionPhase, SessionStats, Stats
from edge_world import plan_server, plan_service, snapshot


def plan(tmp_path: File, *, ready: bool = True) -> Plan:
    entries = {
        "server/p2": plan_server("p2", 444, Role.SECONDARY),
        "server/p1": plan_server("p1", 443, Role.PRIMARY),
        "service/c1": plan_service(5432, servers=("p1", "p2"), ready=ready),
    }
    return read_plan(snapshot(dict(entries)), Pins({}, tmp_path / "pins.json"), allow_target=False)


def stats(
    state: SessionPhase = SessionPhase.OPEN, local: LocalState = LocalState.REACHABLE, message: str = ""
) -> Stats:
    lane = LaneStats(round_trip_ms=12.0, jitter_ms=1.0, loss=0.01)
    return Stats(
        sessions=(SessionStats(peer="p1", address="127.0.0.1:443", state=state, lanes=(lane,), message="gone"),),
        connections=(
            ConnectionStats(
                connection="c1", service="joe/echo", streams=2, local=LocalStats(state=local, message=message)
            ),
        ),
    )


def seen(plan: Plan, stats: Stats) -> tuple[ServiceView, tuple[PopView, ...]]:
    pops = pop_views(plan, stats)
    return service_views(plan, stats, pops, {})[0], pops


def test_pops_come_primary_first_with_what_was_measured(tmp_path: File) -> None:
    _, pops = seen(plan(tmp_path), stats())
    assert [pop.role for pop in pops] == [Role.PRIMARY, Role.SECONDARY]
    assert (pops[0].state, pops[0].round_trip_ms, pops[0].message) == (ClientStatus.CONNECTED, 12.0, "")
    assert pops[1].state is ClientStatus.WAITING


def test_one_working_path_is_enough(tmp_path: File) -> None:
    service, _ = seen(plan(tmp_path), stats())
    assert service.ready
    assert [path.reason for path in service.paths] == ["", "NotConnected"]
    assert AgentView(services=(service,)).ready


def test_newt_284_connected_alone_is_not_ready(tmp_path: File) -> None:
    service, _ = seen(plan(tmp_path), stats(local=LocalState.UNREACHABLE, message="connection refused (os error 111)"))
    assert (service.ready, service.reason) == (False, "LocalServiceUnreachable")
    assert service.message == "connection refused"
    unknown, _ = seen(plan(tmp_path), stats(local=LocalState.UNKNOWN))
    assert not unknown.ready


def test_no_session_is_not_ready_and_says_why(tmp_path: File) -> None:
    service, pops = seen(plan(tmp_path), stats(state=SessionPhase.CLOSED))
    assert (service.ready, service.reason) == (False, "NotConnected")
    assert (pops[0].state, pops[0].message) == (ClientStatus.DISCONNECTED, "gone")


def test_the_control_planes_word_counts_too(tmp_path: File) -> None:
    service, _ = seen(plan(tmp_path, ready=False), stats())
    assert not service.ready


def test_nothing_to_serve_is_not_ready() -> None:
    assert not AgentView().ready


def test_a_refused_target_is_shown_and_reported_without_sources(tmp_path: File) -> None:
    refused = plan(tmp_path).also_refused({"service/c1": "DRTP-4012: no"})
    service, pops = seen(refused, stats())
    assert (service.ready, service.reason) == (False, "TargetRefused")
    report = reports_of(refused, (service,), pops, {}, {})["service/c1"]
    assert isinstance(report, ServiceReport)
    assert (report.local, report.message, report.sources) == (LocalState.UNREACHABLE, "DRTP-4012: no", ())


def test_the_reports_hold_services_tunnels_and_round_trips(tmp_path: File) -> None:
    of = plan(tmp_path)
    service, pops = seen(of, stats())
    paths = {"p1": Path(12.0, 11.0, 0.5, 0.0), "p9": Path(90.0, 88.0, 0.5, 0.0)}
    reports = reports_of(of, (service,), pops, paths, {})
    assert reports["roundtrips"] == RoundTrips(millis={"p1": 12.0, "p9": 90.0})
    tunnel, local = reports["tunnel/p1"], reports["service/c1"]
    assert isinstance(tunnel, TunnelReport)
    assert tunnel.status is ClientStatus.CONNECTED
    assert isinstance(local, ServiceReport)
    assert local.sources == plan_service(1).sources
    assert reports_of(of, (service,), pops, paths, reports) == reports
    drifted = {"p1": Path(12.9, 11.0, 0.5, 0.0), "p9": Path(100.0, 88.0, 0.5, 0.0)}
    later = reports_of(of, (service,), pops, drifted, reports)
    assert later["roundtrips"] == RoundTrips(millis={"p1": 12.0, "p9": 100.0})


def test_what_is_to_be_measured_is_not_for_the_core(tmp_path: File) -> None:
    target = MeasureTarget(server="p9", name="p9", address="192.0.2.9", port=443)
    of = read_plan(
        snapshot(
            {
                "server/p1": plan_server("p1", 443, Role.PRIMARY),
                "measure/p9": target,
                "measure/p1": replace_name(target),
            }
        ),
        Pins({}, tmp_path / "pins.json"),
        allow_target=False,
    )
    assert of.documents.keys() == {"server/p1"}
    assert set(targets_of(of)) == {Target("p1", "127.0.0.1", 443), Target("p9", "192.0.2.9", 443)}


def replace_name(target: MeasureTarget) -> MeasureTarget:
    """The server that the agent has a session with, among those that it may be given."""
    return msgspec.structs.replace(target, server="p1", name="p1", address="127.0.0.1", port=443)


def test_the_view_is_json(tmp_path: File) -> None:
    service, pops = seen(plan(tmp_path), stats())
    document = msgspec.json.decode(msgspec.json.encode(AgentView(services=(service,), pops=pops)))
    assert document["pops"][0]["roundTripMs"] == 12.0
    assert document["services"][0]["local"]["state"] == "Reachable"


def test_rates_are_of_the_last_seconds() -> None:
    meter = RateMeter()
    assert meter.rates(0.0, (0, 0, 0)).bytes_in_per_s == 0
    assert meter.rates(1.0, (1000, 500, 2)).bytes_in_per_s == 1000
    later = [meter.rates(float(second), (1000, 500, 2)) for second in range(2, 20)]
    assert later[-1].bytes_in_per_s == 0
    assert meter.rates(20.0, (6000, 500, 2)).bytes_in_per_s == pytest.approx(1000)
