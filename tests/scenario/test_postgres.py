"""Joe's real PostgreSQL through a vended TCP port."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from scenario.bed import Bed
from scenario.database import PASSWORD, client, postgresql, query


@pytest.fixture(scope="module")
def postgres() -> Iterator[int]:
    """A real server with one role `joe`, password `secret`; gives its port."""
    with postgresql() as port:
        yield port


@pytest.mark.timeout(150)
def test_psql_and_pgbench_run_without_one_error(bed: Bed, postgres: int) -> None:
    serving = bed.serve(f"tcp://localhost:{postgres}", "--name", "postgres")
    _, port = serving.endpoint
    assert 10000 <= port <= 32767
    assert query(port, "select 'reached'") == "reached"
    environment = {**os.environ, **PASSWORD}
    made = client("pgbench", port, "-i", "-q", "-s", "2", "postgres")
    subprocess.run(made, env=environment, check=True, capture_output=True)
    done = subprocess.run(
        client("pgbench", port, "-c", "20", "-j", "2", "-T", "30", "postgres"),
        env=environment, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "number of failed transactions: 0" in done.stdout, done.stdout
    assert "error" not in done.stderr.lower(), done.stderr
    assert serving.program.process.poll() is None, serving.program.story()
    assert serving.stop() == 0
