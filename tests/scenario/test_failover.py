"""Something dies and stays dead: the service goes on, and says what it lacks."""

from __future__ import annotations

import socket
from collections.abc import Callable

import psutil
import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, killed, tcp_service


def _visit(endpoint: tuple[str, int]) -> bool:
    with socket.create_connection(endpoint, timeout=5) as visitor:
        visitor.sendall(b"are you there")
        return visitor.recv(100) == b"are you there"


@pytest.mark.timeout(180)
def test_pop_that_stays_dead_leaves_the_service_reachable_and_degraded(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed("--no-restart", "pop")
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        eventually(lambda: len(bed.endpoints("echo")) == 2)
        killed(bed.part(bed.ready["pops"][0]["name"]))
        assert all(_visit(serving.endpoint) for _ in range(20))
        eventually(lambda: len(bed.endpoints("echo")) == 1, 60)
        assert all(_visit(serving.endpoint) for _ in range(5))


@pytest.mark.timeout(180)
def test_killed_gateway_host_cuts_nobody_and_the_next_one_adopts_its_envoy(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed()
    envoy = psutil.Process(bed.ready["gateway"]["envoyPid"])
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        with socket.create_connection(serving.endpoint, timeout=5) as live:
            for turn in range(2):
                killed(bed.part("gateway"))
                live.sendall(b"still here")
                assert live.recv(20) == b"still here"
                assert all(_visit(serving.endpoint) for _ in range(5))
                # Only a gateway host that is back can program what is new.
                assert _visit(bed.serve(f"tcp://localhost:{port}", "--name", f"after-{turn}").endpoint)
            live.sendall(b"to the end")
            assert live.recv(20) == b"to the end"
    assert envoy.is_running()
    assert [p.pid for p in bed.processes() if p.name() == "envoy"] == [envoy.pid]


@pytest.mark.timeout(180)
def test_visitors_go_on_while_the_control_plane_is_dead(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed("--no-restart", "controlplane")
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        killed(bed.part("controlplane"))
        assert all(_visit(serving.endpoint) for _ in range(10))
        again = Program([BIN / "drtp", "controlplane", "--data-dir", bed.data], bed.env)
        bed.programs.append(again)
        eventually(lambda: bed.kubectl("get", "drtpservice", serving.service, "-n", serving.namespace))
        assert all(_visit(serving.endpoint) for _ in range(10))
        with tcp_service(echo) as other:
            assert _visit(bed.serve(f"tcp://localhost:{other}", "--name", "later").endpoint)
