"""Parts that an operator starts one by one: a POP of its own, over IPv6, beside those of `drtp up`."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, free_port, tcp_service

NAME = "worker-003-nrt-aa.by-hand"


def _operator(bed: Bed, *argv: str) -> str:
    command = [str(BIN / "drtp"), *argv, "--data-dir", str(bed.data)]
    done = subprocess.run(command, capture_output=True, text=True, env=bed.env, timeout=30, check=True)
    return done.stdout.strip()


def _servers(bed: Bed, service: str) -> dict[str, dict[str, Any]]:
    """Of one service's only connection, by name."""
    listed = json.loads(bed.kubectl("get", "drtpconnections", "-n", "default", "-o", "json"))["items"]
    (connection,) = (one for one in listed if one["spec"]["serviceRef"]["name"] == service)
    return {one["serverRef"]["name"]: one for one in connection.get("status", {}).get("servers", [])}


@pytest.mark.timeout(180)
def test_a_pop_joins_by_hand_over_ipv6_and_serves_when_the_others_are_drained(
    new_bed: Callable[..., Bed], tmp_path: Path
) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    bed = new_bed()
    drained, other = "worker-001-nyc-ac.embedded", "worker-002-fra-ab.embedded"
    secret = tmp_path / "join"
    secret.write_text(_operator(bed, "join", "pop", NAME))
    first = free_port(20000, 29000)
    argv = [
        BIN / "drtp", "pop", "--data-dir", tmp_path / "pop", "--name", NAME, "--pop", "nrt", "--location", "35.7,139.7",
        "--address", "::1", "--port", "0", "--endpoint-address", "::1", "--endpoint-ports", f"{first}-{first + 50}",
    ]  # fmt: skip
    pop = Program([*argv, "--join-file", secret], bed.env)
    bed.programs.append(pop)
    eventually(lambda: bed.kubectl("get", "drtpserver", NAME))
    bed.kubectl("wait", f"drtpserver/{NAME}", "--for=condition=Ready", "--timeout=30s")
    spec = json.loads(bed.kubectl("get", "drtpserver", NAME, "-o", "json"))["spec"]
    assert (spec["serverIP"], spec["pop"], spec["failureDomain"]) == ("::1", "nrt", "nrt")
    assert json.loads(bed.datumctl("servers", "-o", "json").stdout)
    with tcp_service(echo) as port:
        moved = bed.serve(f"tcp://localhost:{port}", "--name", "moved", "--location", "40.7,-74.0")
        assert NAME not in _servers(bed, "moved")
        with socket.create_connection(moved.endpoint, timeout=10) as live:
            live.sendall(b"before")
            assert live.recv(10) == b"before"
            _operator(bed, "drain", drained)
            # Make before break: the new POP carries before the drained one is let go, and that keeps who is on it.
            eventually(lambda: _servers(bed, "moved").keys() == {NAME, other, drained}, 60)
            eventually(lambda: _servers(bed, "moved")[NAME]["clientStatus"] == "Connected")
            server = _servers(bed, "moved")[NAME]
            assert server["programmingStatus"] == "Programmed"
            assert server["podAddress"] == "::1"
            assert first <= server["podPort"] <= first + 50
            assert _servers(bed, "moved")[drained]["role"] == "Leaving"
            live.sendall(b"still")
            assert live.recv(10) == b"still"
        eventually(lambda: _servers(bed, "moved").keys() == {NAME, other}, 60)
        _operator(bed, "drain", other)
        only = bed.serve(f"tcp://localhost:{port}", "--name", "only")
        assert _servers(bed, "only").keys() == {NAME}
        with socket.create_connection(only.endpoint, timeout=10) as visitor:
            visitor.sendall(b"through six")
            assert visitor.recv(20) == b"through six"
        kept = _servers(bed, "only")[NAME]["podPort"]
        assert pop.stop(signal.SIGTERM) == 0, pop.story()
        # Its identity and its ports are on its disk: no secret a second time.
        bed.programs.append(Program(argv, bed.env))
        eventually(lambda: _answers(only.endpoint), 60)
        assert _servers(bed, "only")[NAME]["podPort"] == kept


def _answers(endpoint: tuple[str, int]) -> bool:
    with socket.create_connection(endpoint, timeout=5) as visitor:
        visitor.sendall(b"?")
        return visitor.recv(10) == b"?"
