"""The process that holds store and authority is killed at random points of enrolments and renewals.

`DRTP_IDENTITY_KILLS=10000 pytest -s tests/unit/edgeserver/test_identity_kills.py` is the whole campaign; it prints its
figures. CI does 200.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from unit.edgeserver.identity_kills import Campaign

KILLS = int(os.environ.get("DRTP_IDENTITY_KILLS") or (200 if os.environ.get("CI") == "true" else 20))


@pytest.mark.timeout(120 + KILLS)
async def test_no_kill_spends_a_secret_twice_forgets_a_certificate_or_bricks_an_agent(tmp_path: Path) -> None:
    seed = int(os.environ.get("DRTP_SEED") or secrets.randbits(32))
    print(f"seed {seed}")
    figures = await Campaign(tmp_path, seed).run(KILLS)
    print(figures)
    assert (figures.kills, figures.restores) == (KILLS, 1)
    assert figures.enrolled + figures.renewed > KILLS, "a campaign in which next to nothing happens proves nothing"
