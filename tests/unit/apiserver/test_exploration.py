"""Requests made from the API's own OpenAPI documents break nothing and tell no tenant of another.

`DRTP_EXPLORE_CASES=20000 pytest -s tests/unit/apiserver/test_exploration.py`, or `make explore`, is the whole of it; it
prints its figures. `DRTP_SEED` repeats a run. CI sends some to some operations.
"""

from __future__ import annotations

import os
import random
import secrets
from pathlib import Path

import pytest

from unit.apiserver.exploring import Explorer, operations, planted

CASES = int(os.environ.get("DRTP_EXPLORE_CASES") or 150)
SUCCEED_MIN = 20 if CASES >= 20_000 else 80
"""One case of so many gets all the way through, at least; of few operations some samples are mostly refusals."""
OF_ONE = 8
"""Cases of an operation, at least; with few cases it is some operations, others each time, of each method its part."""


@pytest.mark.timeout(120 + CASES)
def test_nothing_that_the_documents_allow_fails_inside_or_crosses_tenants(tmp_path: Path) -> None:
    start = int(os.environ.get("DRTP_SEED") or secrets.randbits(32))
    print(f"seed {start}")
    found = list(operations())
    random.Random(start).shuffle(found)
    found.sort(key=lambda operation: operation.method)
    count = min(len(found), CASES // OF_ONE)
    chosen = [found[n * len(found) // count] for n in range(count)]
    log = tmp_path / "log"
    with log.open("a", buffering=1) as stream, planted(tmp_path, stream) as api:
        explorer = Explorer(api, log)
        for operation in chosen:
            explorer.explore(operation, -(-CASES // len(chosen)), start)
    print(explorer.found)
    assert explorer.found.faults == []
    assert explorer.found.cases >= CASES * 0.9
    assert explorer.found.statuses[200] + explorer.found.statuses[201] > explorer.found.cases / SUCCEED_MIN
