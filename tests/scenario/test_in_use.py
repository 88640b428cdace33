"""A second process with a directory that is in use is refused with words, and the first goes on."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from scenario.bed import BIN, Bed, echo, tcp_service


def second(bed: Bed, *argv: str | Path) -> str:
    """What it says, once it has ended with exit status 1."""
    done = subprocess.run(argv, env=bed.env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1, done
    assert "do: " in done.stderr and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_a_second_process_is_refused_and_the_first_goes_on(bed: Bed, tmp_path: Path) -> None:
    drtp, data = BIN / "drtp", bed.data
    with tcp_service(echo) as port:
        target = f"tcp://localhost:{port}"
        first = bed.serve(target, "--name", "in-use", "--state-dir", str(tmp_path / "state"))
        pids = {process.pid for process in bed.processes()}

        up = second(bed, drtp, "up", "--data-dir", data)
        assert "DRTP-7006" in up and f"runs with the data directory {data}" in up
        controlplane = second(bed, drtp, "controlplane", "--data-dir", data)
        assert "DRTP-1007" in controlplane and "Another process uses the store" in controlplane
        place = (
            "--name",
            bed.ready["pops"][0]["name"],
            "--pop",
            "nyc",
            "--location",
            "40.7,-74",
            "--address",
            "127.0.0.1",
        )
        pop = second(bed, drtp, "pop", "--data-dir", data / "pops" / "pop-1", *place, "--port", "0")
        assert "DRTP-4010" in pop and "Another process runs with" in pop
        gateway = ("--name", "gateway", "--address", "127.0.0.1")
        assert "DRTP-5015" in second(bed, drtp, "gateway", "--data-dir", data / "gateway", *gateway)
        context = ("--context", bed.ready["context"])
        serve = ("serve", target, "--name", "in-use", "--state-dir", tmp_path / "state")
        assert "DRTP-4010" in second(bed, BIN / "datumctl", *context, *serve)

        assert {process.pid for process in bed.processes()} == pids
        with socket.create_connection(first.endpoint, timeout=10) as visitor:
            visitor.sendall(b"x")
            assert visitor.recv(1) == b"x"
        first.stop()
