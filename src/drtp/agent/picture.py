"""From the plan and the core's stats to what people see: pure, so that each sentence can be tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from drtp.agent.plan import Plan, service_key
from drtp.agent.view import LocalView, PathView, PopView, Rates, ServiceView
from drtp.agent.words import plain
from drtp.api.drtp import ClientStatus
from drtp.api.reasons import Reason
from drtp.api.reports import LocalState
from drtp.api.snapshots import PlanServer, PlanService
from drtp.tunnel import ConnectionStats, LocalStats, SessionPhase, SessionStats, Stats

_STATES = {
    SessionPhase.CONNECTING: ClientStatus.CONNECTING,
    SessionPhase.GREETING: ClientStatus.CONNECTING,
    SessionPhase.OPEN: ClientStatus.CONNECTED,
    SessionPhase.DRAINING: ClientStatus.CONNECTED,
    SessionPhase.CLOSED: ClientStatus.DISCONNECTED,
}


def pop_views(plan: Plan, stats: Stats) -> tuple[PopView, ...]:
    """One line for each tunnel server of the plan, Primary first."""
    return views_of(plan.servers, stats)


def views_of(servers: Iterable[PlanServer], stats: Stats) -> tuple[PopView, ...]:
    """One line for each of `servers`, in their order."""
    sessions = _by_peer(stats)
    return tuple(_pop_view(server, sessions.get(server.server)) for server in servers)


def _by_peer(stats: Stats) -> dict[str, SessionStats]:
    """The best session with each peer: during a change of epochs there may be two."""
    best: dict[str, SessionStats] = {}
    for session in stats.sessions:
        if session.peer not in best or session.live:
            best[session.peer] = session
    return best


def _pop_view(server: PlanServer, session: SessionStats | None) -> PopView:
    blank = PopView(
        server=server.server,
        name=server.name,
        pop=server.pop,
        address=f"{server.address}:{server.port}",
        role=server.role,
        state=ClientStatus.WAITING,
    )
    if session is None:
        return blank
    return PopView(
        server=server.server,
        name=server.name,
        pop=server.pop,
        address=session.address or blank.address,
        role=server.role,
        state=_STATES[session.state],
        round_trip_ms=session.round_trip_ms,
        round_trip_floor_ms=session.round_trip_floor_ms,
        jitter_ms=session.jitter_ms,
        loss=session.loss,
        lanes=len(session.lanes),
        streams=session.streams,
        since_unix_ms=session.since_unix_ms,
        message="" if session.live else session.message or "",
        way=session.way,
    )


def service_views(
    plan: Plan, stats: Stats, pops: tuple[PopView, ...], rates: Mapping[str, Rates]
) -> tuple[ServiceView, ...]:
    """One for each service of the plan, refused ones included."""
    counts = {entry.connection: entry for entry in stats.connections}
    return tuple(
        _service_view(
            service,
            counts.get(service.connection),
            pops,
            plan.refused.get(service_key(service.connection), ""),
            rates.get(service.connection, Rates()),
        )
        for service in plan.services
    )


def _service_view(
    service: PlanService, counts: ConnectionStats | None, pops: tuple[PopView, ...], refusal: str, rates: Rates
) -> ServiceView:
    counts = counts or ConnectionStats(connection=service.connection, service=f"{service.namespace}/{service.name}")
    local = counts.local or LocalStats(target=f"{service.local.host}:{service.local.port}")
    refusal = refusal or _never_dialled(local)
    assigned = [pop for pop in pops if not service.servers or pop.server in service.servers]
    paths = tuple(_path(pop, local, refusal) for pop in assigned)
    obstacle = next((pop.message for pop in assigned if pop.message), "")
    ready, reason, message = _judge(service, local, paths, refusal, obstacle)
    return ServiceView(
        connection=service.connection,
        connection_name=service.connection_name,
        namespace=service.namespace,
        name=service.name,
        protocol=service.protocol,
        enabled=service.enabled,
        addresses=service.addresses,
        ready=ready,
        reason=reason,
        message=message,
        local=LocalView(
            state=local.state,
            target=local.target,
            connect_ms=local.connect_ms,
            jitter_ms=local.jitter_ms,
            failures_total=local.failures_total,
            message=plain(local.message),
        ),
        paths=paths,
        streams=counts.streams,
        streams_total=counts.streams_total,
        denied_total=counts.denied_total,
        bytes_in=counts.bytes_in,
        bytes_out=counts.bytes_out,
        datagrams_in=counts.datagrams_in,
        datagrams_out=counts.datagrams_out,
        datagrams_dropped=counts.datagrams_dropped,
        rates=rates,
    )


def _never_dialled(local: LocalStats) -> str:
    """The core's refusal of an address that no name may lead to: waiting does not help, as it does for a late one."""
    return f"DRTP-4017: {local.message}." if "is never dialled" in local.message else ""


def _path(pop: PopView, local: LocalStats, refusal: str) -> PathView:
    """Connected alone is not ready: the local service must have answered too (newt#284, pangolin#2815)."""
    if refusal:
        reason = Reason.TARGET_REFUSED
    elif pop.state is not ClientStatus.CONNECTED:
        reason = "NotConnected"
    elif local.state is not LocalState.REACHABLE:
        reason = Reason.LOCAL_SERVICE_UNREACHABLE if local.state is LocalState.UNREACHABLE else "LocalServiceUnknown"
    else:
        reason = ""
    return PathView(server=pop.server, name=pop.name, ready=not reason, reason=reason)


def _judge(
    service: PlanService, local: LocalStats, paths: tuple[PathView, ...], refusal: str, obstacle: str
) -> tuple[bool, str, str]:
    """(ready, reason, message): the nearest obstacle goes first, the control plane's own words last.

    `obstacle`: why a tunnel server is not connected, where that is known.
    """
    if refusal:
        return False, Reason.TARGET_REFUSED, refusal
    if local.state is LocalState.UNREACHABLE:
        return False, Reason.LOCAL_SERVICE_UNREACHABLE, plain(local.message) or f"{local.target} does not answer."
    if not any(path.ready for path in paths):
        if not paths:
            return False, service.reason or "Scheduling", service.message or "No tunnel server is assigned yet."
        # What has a page is said as it is; the rest passes by itself, as a rule.
        words = "No tunnel server is connected yet"
        return False, "NotConnected", f"{obstacle if obstacle.startswith('DRTP-') else words}."
    return service.ready, service.reason, service.message
