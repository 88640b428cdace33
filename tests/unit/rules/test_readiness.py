"""What the conditions of a connection say, from the status of its servers and the agent's own word."""

from __future__ import annotations

from drtp.api.drtp import ClientStatus, ProgrammingStatus, Role, ServerStatus
from drtp.api.meta import ConditionStatus, LocalRef
from drtp.api.reports import LocalState
from drtp.rules.readiness import LocalFacts, connection_conclusions


def _server(client: ClientStatus) -> ServerStatus:
    return ServerStatus(
        role=Role.PRIMARY,
        server_ref=LocalRef(name="worker-001"),
        programming_status=ProgrammingStatus.PROGRAMMED,
        client_status=client,
    )


def _reason(client: ClientStatus, state: LocalState) -> tuple[ConditionStatus, str]:
    local = LocalFacts(agent="laptop", target="localhost:8080", state=state, message="connection refused")
    found = connection_conclusions([_server(client)], 1, 1, local, enabled=True)
    connected = next(one for one in found if one.type == "Connected")
    return connected.status, connected.reason


def test_connected_agent_with_a_dead_local_service_is_said_to_have_one() -> None:
    """newt#284, pangolin#2815, rathole#401: a green control channel over a dead data path is not ready."""
    assert _reason(ClientStatus.CONNECTED, LocalState.UNREACHABLE) == (
        ConditionStatus.FALSE,
        "LocalServiceUnreachable",
    )


def test_agent_that_is_gone_is_gone_whatever_it_said_last() -> None:
    assert _reason(ClientStatus.DISCONNECTED, LocalState.UNREACHABLE) == (ConditionStatus.FALSE, "AgentDisconnected")


def test_connected_agent_with_a_live_local_service_is_connected() -> None:
    assert _reason(ClientStatus.CONNECTED, LocalState.REACHABLE) == (ConditionStatus.TRUE, "Connected")
