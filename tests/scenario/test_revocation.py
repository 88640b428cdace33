"""Revoking an agent, a service, a user: live connections end within two seconds, and nobody comes in again."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scenario.bed import Bed, Serving, eventually, tcp_service

CUT_WITHIN_S = 2.0


def _talk(visitor: socket.socket, _peer: Any) -> None:
    visitor.sendall(b"connected")
    while visitor.recv(100):
        pass


def _visitor(serving: Serving) -> socket.socket:
    visitor = socket.create_connection(serving.endpoint, timeout=10)
    assert visitor.recv(100) == b"connected"
    return visitor


def _cut(visitor: socket.socket, revoke: Callable[[], object]) -> float:
    """Seconds from the command's end until the visitor hears of it: a reset, never an end."""
    revoke()
    began = time.monotonic()
    visitor.settimeout(10)
    with visitor, pytest.raises(ConnectionResetError):
        visitor.recv(100)
    return time.monotonic() - began


def _refused(serving: Serving) -> bool:
    try:
        with socket.create_connection(serving.endpoint, timeout=5) as visitor:
            return visitor.recv(100) == b""
    except OSError:
        return True


def _agent_of(bed: Bed, serving: Serving) -> str:
    (connection,) = bed.connections(serving.service)
    return connection["spec"]["client"]["agentID"]


@pytest.mark.parametrize("what", ["agent", "service"])
def test_a_revoked_agents_visitors_are_cut_and_its_owner_is_told(bed: Bed, what: str) -> None:
    with tcp_service(_talk) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", f"revoked-{what}", "--allow", "127.0.0.1/32")
        beside = bed.serve(f"tcp://localhost:{port}", "--name", f"beside-{what}", "--allow", "127.0.0.1/32")
        kept, visitor = _visitor(beside), _visitor(serving)
        name = _agent_of(bed, serving) if what == "agent" else serving.service

        def revoke() -> None:
            told = bed.datumctl("revoke", what, name, "--reason", "stolen laptop", "--output", "json")
            assert len(json.loads(told.stdout)["identities"]) == 1

        assert _cut(visitor, revoke) <= CUT_WITHIN_S
        assert eventually(lambda: _refused(serving), 2)
        assert serving.program.process.wait(20) != 0
        assert "DRTP-2006" in serving.program.story()
        kept.setblocking(False)
        with kept, pytest.raises(BlockingIOError):
            kept.recv(1)
        beside.stop()


def test_a_revoked_user_is_out_with_everything_of_their_own(new_bed: Callable[..., Bed], tmp_path: Path) -> None:
    bed = new_bed()
    operator, context = ("--context", bed.ready["kubeconfig"]), str(tmp_path / "bob.json")
    bobs = ("--context", context)
    user = ("create", "user", "bob", "--project", "analytics", "--context-file", context)
    bed.datumctl(*operator, "create", "project", "analytics")
    bed.datumctl(*operator, *user)
    with tcp_service(_talk) as port:
        asked = (f"tcp://localhost:{port}", "--name", "bobs", "--allow", "127.0.0.1/32", *bobs)
        serving = bed.serve(*asked)
        visitor = _visitor(serving)
        assert _cut(visitor, lambda: bed.datumctl(*operator, "revoke", "user", "bob")) <= CUT_WITHIN_S
        assert eventually(lambda: _refused(serving), 2)
        assert serving.program.process.wait(20) != 0
        assert "DRTP-1011" in bed.datumctl(*bobs, "whoami", check=False).stderr
        bed.datumctl(*operator, *user, "--reinstate")
        again = bed.serve(*asked, "--state-dir", str(tmp_path / "fresh"))
        with _visitor(again):
            pass
        again.stop(signal.SIGINT)
