"""Show 4: Joe's real PostgreSQL through a vended TCP port."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scenario.bed import Bed, eventually, free_port, require


def _as_postgres() -> dict[str, object]:
    """PostgreSQL refuses to run as root: use its own account where the tests run as root."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real server with one role `joe`, password `secret`; gives its port."""
    initdb, server = require("initdb"), require("postgres")
    # Not under pytest's own 0700 directory: the postgres account must reach it.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="drtp-pg-") as name:
        home = Path(name)
        home.chmod(0o755)
        data = home / "data"
        data.mkdir()
        password = home / "password"
        password.write_text("secret")
        who = _as_postgres()
        if who:
            os.chown(data, who["user"], who["group"])  # type: ignore[arg-type]
            os.chown(password, who["user"], who["group"])  # type: ignore[arg-type]
        subprocess.run(
            [initdb, "-D", str(data), "-U", "joe", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync"],
            check=True, capture_output=True, cwd=home, **who,  # type: ignore[call-overload]
        )  # fmt: skip
        port = free_port()
        options = ["-p", str(port), "-k", "", "-h", "127.0.0.1", "-c", "fsync=off", "-c", "max_connections=60"]
        process = subprocess.Popen(
            [server, "-D", str(data), *options],
            cwd=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **who,  # type: ignore[call-overload]
        )
        try:
            eventually(lambda: _query(port, "select 1") == "1")
            yield port
        finally:
            process.terminate()
            process.wait(20)


def _query(port: int, sql: str) -> str:
    done = subprocess.run(
        [require("psql"), "-h", "127.0.0.1", "-p", str(port), "-U", "joe", "-d", "postgres", "-tA", "-c", sql],
        env={**os.environ, "PGPASSWORD": "secret", "PGCONNECT_TIMEOUT": "10"},
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.timeout(150)
def test_psql_and_pgbench_run_without_one_error(bed: Bed, postgres: int) -> None:
    serving = bed.serve(f"tcp://localhost:{postgres}", "--name", "postgres")
    _, port = serving.endpoint
    assert 10000 <= port <= 32767
    assert _query(port, "select 'reached'") == "reached"
    environment = {**os.environ, "PGPASSWORD": "secret"}
    target = ["-h", "127.0.0.1", "-p", str(port), "-U", "joe", "postgres"]
    subprocess.run(
        [require("pgbench"), "-i", "-q", "-s", "2", *target], env=environment, check=True, capture_output=True
    )
    done = subprocess.run(
        [require("pgbench"), "-c", "20", "-j", "2", "-T", "30", *target],
        env=environment, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "number of failed transactions: 0" in done.stdout, done.stdout
    assert "error" not in done.stderr.lower(), done.stderr
    assert serving.program.process.poll() is None, serving.program.story()
    assert serving.stop() == 0
