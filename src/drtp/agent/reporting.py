"""From what the agent sees to what it says to the control plane: pure."""

from __future__ import annotations

from collections.abc import Mapping

from drtp.agent.plan import Plan, service_key
from drtp.agent.view import PopView, ServiceView
from drtp.api.reasons import Reason
from drtp.api.reports import LocalState, Report, RoundTrips, ServiceReport, TunnelReport
from drtp.client.roundtrips import Path
from drtp.rules.measures import settled

ROUND_TRIP_SHARE = 0.1
"""What placement goes by is said more finely than it asks for: a move follows from the path, not from what was left
unsaid.
"""


def reports_of(
    plan: Plan,
    services: tuple[ServiceView, ...],
    pops: tuple[PopView, ...],
    paths: Mapping[str, Path],
    said: dict[str, Report],
) -> dict[str, Report]:
    """Everything this agent says. `paths`: as measured, by server. `said`: last time, so that gauges do not chatter."""
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
    for pop in pops:
        key = f"tunnel/{pop.server}"
        before = said.get(key)
        round_trip_ms = settled(before.round_trip_ms if isinstance(before, TunnelReport) else None, pop.round_trip_ms)
        reports[key] = TunnelReport(
            server=pop.server, status=pop.state, role=pop.role, round_trip_ms=round_trip_ms, message=pop.message
        )
    trips = _round_trips(paths, said.get("roundtrips"))
    if trips.millis:
        reports["roundtrips"] = trips
    return reports


def _round_trips(paths: Mapping[str, Path], said: Report | None) -> RoundTrips:
    before = said.millis if isinstance(said, RoundTrips) else {}
    settled_ms = {
        name: settled(before.get(name), path.round_trip_ms, share=ROUND_TRIP_SHARE) for name, path in paths.items()
    }
    return RoundTrips(millis={name: millis for name, millis in settled_ms.items() if millis is not None})


def _tally(said: int | None, counted: int) -> int:
    """A counter that grows all the time is said again when it has grown noteworthily."""
    return round(settled(said, counted) or 0)
