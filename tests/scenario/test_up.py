"""`drtp up` under blows: it leaves nothing behind, takes over what a killed predecessor left, and keeps secrets."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scenario.bed import BIN, Bed, Program, eventually


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.timeout(180)
def test_killed_supervisor_takes_its_parts_along_and_the_next_one_continues(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed()
    first = bed.ready
    assert bed.up is not None
    bed.up.stop(signal.SIGKILL)
    eventually(lambda: not bed.processes(), 20)
    assert not _alive(first["gateway"]["envoyPid"])
    bed.up = Program([BIN / "drtp", "up", "--data-dir", bed.data, "--output", "json"], bed.env)
    bed.ready = bed.up.event("ready", 60)
    for same in ("api", "hello", "ca", "context"):
        assert bed.ready[same] == first[same]
    assert bed.curl(bed.ready["hello"], "--write-out", " %{http_code}").stdout.endswith(b" 200")


@pytest.mark.timeout(180)
def test_everything_killed_at_once_is_cleared_away_by_the_next_start(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed()
    envoy = bed.ready["gateway"]["envoyPid"]
    assert bed.up is not None
    hosts = [bed.ready["gateway"]["pid"], bed.up.pid]
    for pid in hosts:
        os.kill(pid, signal.SIGKILL)
    bed.up.process.wait(10)
    assert _alive(envoy), "Envoy outlives a crash of its host"
    bed.up = Program([BIN / "drtp", "up", "--data-dir", bed.data, "--output", "json"], bed.env)
    bed.ready = bed.up.event("ready", 60)
    assert bed.curl(bed.ready["hello"], "--write-out", " %{http_code}").stdout.endswith(b" 200")
    bed.close()
    eventually(lambda: not bed.processes(), 5)
    assert not _alive(bed.ready["gateway"]["envoyPid"])


@pytest.mark.timeout(180)
def test_stopping_ends_the_envoy_of_a_gateway_that_was_killed(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed("--no-restart", "gateway")
    envoy = bed.ready["gateway"]["envoyPid"]
    assert bed.up is not None
    os.kill(bed.ready["gateway"]["pid"], signal.SIGKILL)
    assert bed.curl(bed.ready["hello"], "--write-out", " %{http_code}").stdout.endswith(b" 200")
    assert bed.up.stop(signal.SIGTERM, 30) == 0
    assert not _alive(envoy)
    assert not bed.processes()


def test_a_data_directory_belongs_to_one_supervisor(bed: Bed) -> None:
    second = Program([BIN / "drtp", "up", "--data-dir", bed.data, "--output", "json"], bed.env)
    assert second.process.wait(20) == 1
    assert "DRTP-7006" in second.story()


def test_no_join_secret_and_no_token_shows_in_arguments_or_logs(bed: Bed) -> None:
    """cloudflared#1539, #666."""
    secret = bed.datumctl("credentials", "hello").stdout.strip()
    assert secret.startswith("drtp_enr_")
    assert "drtp_" not in " ".join(" ".join(process.cmdline()) for process in bed.processes())
    for log in (bed.data / "logs").iterdir():
        text = log.read_text()
        assert "drtp_enr_" not in text, log
        assert "drtp_pat_" not in text, log
    for private in (bed.ready["context"], bed.ready["kubeconfig"], bed.data):
        assert Path(private).stat().st_mode & 0o077 == 0, private
