"""From what the agent sees to what it says to the control plane: pure."""

from __future__ import annotations

from drtp.agent.plan import Plan, service_key
from drtp.agent.view import PopView, ServiceView
from drtp.api.reasons import Reason
from drtp.api.reports import LocalState, Report, RoundTrips, ServiceReport, TunnelReport

NOTEWORTHY_SHARE = 0.2
NOTEWORTHY_MS = 1.0
"""A gauge that moved by less than both is not worth a message to the control plane."""


def settled(said: float | None, measured: float | None) -> float | None:
    """The gauge to say: the old one unless the new one differs noteworthily."""
    if said is None or measured is None:
        return None if measured is None else round(measured, 2)
    moved = abs(measured - said)
    return said if moved < NOTEWORTHY_MS or moved < said * NOTEWORTHY_SHARE else round(measured, 2)


def reports_of(
    plan: Plan, services: tuple[ServiceView, ...], pops: tuple[PopView, ...], said: dict[str, Report]
) -> dict[str, Report]:
    """Everything this agent says. `said`: what it said last, so that gauges do not chatter."""
    reports: dict[str, Report] = {}
    sources = {service.connection: service.sources for service in plan.services}
    for service in services:
        key = service_key(service.connection)
        before = said.get(key)
        refused = key in plan.refused
        refusal = service.message if service.reason == Reason.TARGET_REFUSED else ""
        reports[key] = ServiceReport(
            connection=service.connection,
            local=LocalState.UNREACHABLE if refusal else service.local.state,
            message=refusal or ("" if service.local.state is LocalState.REACHABLE else service.local.message),
            connect_ms=settled(
                before.connect_ms if isinstance(before, ServiceReport) else None, service.local.connect_ms
            ),
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
