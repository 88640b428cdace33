"""What the edges say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from drtp.api.feed import Applied, ReportDelta
from drtp.api.internal import EdgeRole
from drtp.api.reports import AgentRegistration, GatewayRegistration, GatewayReport, PopReport
from drtp.api.snapshots import Generation
from drtp.store.observed import APPLIED, EdgeChange, EdgeRef, Observed

AGENT = EdgeRef(EdgeRole.AGENT, "a1")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=3)


def test_an_edge_that_never_connected_is_unknown() -> None:
    observed = Observed()
    observed.take_report("a1", ReportDelta(whole=True, upsert={"self": PopReport(health=1)}), NOW)
    observed.heartbeat("a1", NOW)
    assert observed.edge("a1") is None
    assert observed.report("a1", "self") is None


def test_reports_stay_over_a_disconnect_until_the_next_whole_report() -> None:
    observed = Observed()
    observed.connect(AGENT, AgentRegistration(), NOW, "203.0.113.7")
    observed.take_report("a1", ReportDelta(whole=True, upsert={"self": PopReport(health=90)}), NOW)
    observed.disconnect("a1", LATER)
    state = observed.edge("a1")
    assert state is not None
    assert (state.connected, state.last_seen, set(state.reports)) == (False, LATER, {"self"})
    observed.connect(AGENT, AgentRegistration(), LATER)
    assert observed.report("a1", "self") == PopReport(health=90)
    observed.take_report("a1", ReportDelta(whole=True, upsert={"other": PopReport(health=1)}), LATER)
    assert observed.report("a1", "self") is None


def test_only_what_changed_is_told() -> None:
    observed = Observed()
    changes = observed.subscribe()
    observed.connect(AGENT, AgentRegistration(), NOW)
    report = PopReport(health=90)
    observed.take_report("a1", ReportDelta(whole=True, upsert={"self": report, "b": report}), NOW)
    assert changes.take_now() == (EdgeChange(AGENT, ""), EdgeChange(AGENT, "b"), EdgeChange(AGENT, "self"))
    observed.take_report("a1", ReportDelta(whole=True, upsert={"self": report}), NOW)
    assert changes.take_now() == (EdgeChange(AGENT, "b"),)
    observed.take_report("a1", ReportDelta(whole=False, upsert={"self": report}, remove=("none",)), NOW)
    observed.heartbeat("a1", LATER)
    assert changes.take_now() == ()
    observed.take_applied("a1", Applied(generation=Generation(1, 2), quarantined={"route/x": "bad"}), LATER)
    assert changes.take_now() == (EdgeChange(AGENT, APPLIED),)


def test_the_connected_edge_of_a_name_wins() -> None:
    observed = Observed()
    for uid, role in (("g1", EdgeRole.GATEWAY), ("g2", EdgeRole.GATEWAY)):
        observed.connect(EdgeRef(role, uid), GatewayRegistration(name="gw"), NOW)
        observed.take_report(uid, ReportDelta(whole=True, upsert={"self": GatewayReport(envoy_ready=True)}), NOW)
    observed.disconnect("g2", LATER)
    found = observed.named(EdgeRole.GATEWAY, "gw")
    assert found is not None
    assert found.edge.uid == "g1"
    observed.forget("g1")
    assert observed.edge("g1") is None
