"""From what the agent sees to what it says to the control plane: pure."""

from __future__ import annotations

from drtp.agent.plan import Plan, service_key
from drtp.agent.view import PopView, ServiceView
from drtp.api.reasons import Reason
from drtp.api.reports import LocalState, Report, RoundTrips, ServiceReport, TunnelReport
from drtp.rules.measures import settled


def reports_of(
    plan: Plan, services: tuple[ServiceView, ...], pops: tuple[PopView, ...], said: dict[str, Report]
) -> dict[str, Report]:
    """Everything this agent says. `said`: what it said last, so that gauges do not chatter."""
    reports: dict[str, Report] = {}
    sources = {service.connection: service.sources for service in plan.services}
    for service in services:
        key = service_key(service.connection)
        before = said.get(key)
        known = before if isinstance(before, ServiceReport) else ServiceReport(connection=service.connection)
        local = service.local
        refused = key in plan.refused
        refusal = service.message if service.reason == Reason.TARGET_REFUSED else ""
        reports[key] = ServiceReport(
            connection=service.connection,
            local=LocalState.UNREACHABLE if refusal else local.state,
            message=refusal or ("" if local.state is LocalState.REACHABLE else local.message),
            connect_ms=settled(known.connect_ms, local.connect_ms),
            jitter_ms=settled(known.jitter_ms, None if local.connect_ms is None else local.jitter_ms),
            failures=_tally(known.failures, local.failures_total),
            # What was refused is not in force: it repeats no sources.
            sources=() if refused else sources[service.connection],
        )
    millis: dict[str, float] = {}
    for pop in pops:
        key = f"tunnel/{pop.server}"
        before = said.get(key)
        round_trip_ms = settled(before.round_trip_ms if isinstance(before, TunnelReport) else None, pop.round_trip_ms)
        reports[key] = TunnelReport(
            server=pop.server, status=pop.state, role=pop.role, round_trip_ms=round_trip_ms, message=pop.message
        )
        if round_trip_ms is not None:
            millis[pop.server_name] = round_trip_ms
    if millis:
        reports["roundtrips"] = RoundTrips(millis=millis)
    return reports


def _tally(said: int | None, counted: int) -> int:
    """A counter that grows all the time is said again when it has grown noteworthily."""
    return round(settled(said, counted) or 0)
