"""Near by map and far by measure: an agent is served at once, and ends where its packets are quick."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, free_port, tcp_service
from scenario.network import HERE, THERE, far_address, own_network

pytestmark = pytest.mark.alone

SLOW = "worker-003-lon-aa.far"
"""Stands beside the agent, and every packet to it goes round the world."""
ROUND_TRIP_S = 0.08
MOVES_WITHIN_S = 60.0
"""A few handshakes two seconds apart, a new tunnel; the rest is for a busy machine."""
GAUGES_WITHIN_S = 150.0
"""Figures of servers are written once a minute."""


def servers(bed: Bed, service: str) -> dict[str, dict[str, Any]]:
    """Of the service's only connection, by name."""
    (connection,) = bed.connections(service)
    return {one["serverRef"]["name"]: one for one in connection.get("status", {}).get("servers", [])}


def slow_pop(bed: Bed, directory: Path) -> None:
    """A POP that agents, gateways and other POPs reach over the long path only."""
    join = [str(BIN / "drtp"), "join", "pop", SLOW, "--data-dir", str(bed.data)]
    told = subprocess.run(join, capture_output=True, text=True, env=bed.env, timeout=30, check=True)
    secret = directory / "join"
    secret.write_text(told.stdout.strip())
    first = free_port(20000, 29000)
    argv = [
        BIN / "drtp", "pop", "--data-dir", directory / "pop", "--name", SLOW, "--pop", "lon", "--location", "51.5,-0.1",
        "--address", THERE, "--listen", HERE, "--health-address", HERE, "--port", "0",
        "--endpoint-ports", f"{first}-{first + 50}", "--join-file", secret,
    ]  # fmt: skip
    bed.programs.append(Program(argv, bed.env))
    eventually(lambda: bed.kubectl("get", "drtpserver", SLOW))
    bed.kubectl("wait", f"drtpserver/{SLOW}", "--for=condition=Ready", "--timeout=30s")


def says(visitor: socket.socket, words: bytes) -> bytes:
    visitor.sendall(words)
    return visitor.recv(len(words))


def echo_s(visitor: socket.socket) -> float:
    """The best of a few: a busy machine makes any of them slow."""
    took: list[float] = []
    for _ in range(5):
        began = time.monotonic()
        assert says(visitor, b"ping") == b"ping"
        took.append(time.monotonic() - began)
    return min(took)


def visitor_of_the_long_way(endpoint: tuple[str, int]) -> socket.socket | None:
    """A visitor whose bytes go through the slow POP; None if the gateway does not use it yet."""
    visitor = socket.create_connection(endpoint, timeout=10)
    if echo_s(visitor) >= ROUND_TRIP_S:
        return visitor
    visitor.close()
    return None


@pytest.mark.timeout(420)
def test_r8_an_agent_moves_to_the_pop_that_is_near_by_measure_and_cuts_no_visitor(
    new_bed: Callable[..., Bed], tmp_path: Path
) -> None:
    with own_network(), far_address(ROUND_TRIP_S), tcp_service(echo) as port:
        bed = new_bed()
        slow_pop(bed, tmp_path)
        moved = bed.serve(f"tcp://localhost:{port}", "--name", "moved", "--location", "51.5,-0.1")
        assert servers(bed, "moved")[SLOW]["role"] == "Primary", "at first the map is all that is known"
        with eventually(lambda: visitor_of_the_long_way(moved.endpoint)) as visitor:
            eventually(lambda: servers(bed, "moved")[SLOW]["role"] == "Leaving", MOVES_WITHIN_S)
            found = servers(bed, "moved")
            assert found[SLOW]["roundTripMillis"] >= ROUND_TRIP_S * 900, found
            eventually(lambda: all(one["clientStatus"] == "Connected" for one in servers(bed, "moved").values()))
            assert says(visitor, b"meanwhile") == b"meanwhile"
            with socket.create_connection(moved.endpoint, timeout=10) as later:
                assert says(later, b"later") == b"later"
                assert echo_s(later) < ROUND_TRIP_S / 2, "new visitors take the short way"
            assert says(visitor, b"after") == b"after"
        eventually(lambda: SLOW not in servers(bed, "moved"), MOVES_WITHIN_S)
        near = servers(bed, "moved")
        assert {one["role"] for one in near.values()} == {"Primary", "Secondary"}
        eventually(lambda: all(one["roundTripMillis"] < 20 for one in servers(bed, "moved").values()), GAUGES_WITHIN_S)
        eventually(lambda: peers_of(bed, SLOW).keys() == near.keys(), GAUGES_WITHIN_S)
        assert all(one["roundTripMillis"] < 20 for one in peers_of(bed, SLOW).values())
        from_near = peers_of(bed, next(iter(near)))
        assert from_near[SLOW]["roundTripMillis"] >= ROUND_TRIP_S * 900, from_near
        assert moved.stop() == 0, moved.program.story()


def peers_of(bed: Bed, server: str) -> dict[str, dict[str, Any]]:
    """The paths that a server has measured, by the other end."""
    (found,) = (one for one in bed.objects("drtpservers") if one["metadata"]["name"] == server)
    return {one["serverRef"]["name"]: one for one in found["status"].get("peers", [])}
