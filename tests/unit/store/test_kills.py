"""Nothing acknowledged is lost by killing the store's process, however often.

`DRTP_KILLS=1000 pytest -s tests/unit/store/test_kills.py` is the whole campaign; it prints its figures.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from unit.store.kills import Campaign

KILLS = int(os.environ.get("DRTP_KILLS", "50"))


@pytest.mark.timeout(120 + KILLS)
async def test_no_kill_loses_or_halves_what_was_acknowledged(tmp_path: Path) -> None:
    seed = int(os.environ.get("DRTP_SEED") or secrets.randbits(32))
    print(f"seed {seed}")
    figures = await Campaign(tmp_path, seed).run(KILLS)
    print(figures)
    assert figures.kills == KILLS
    assert figures.acknowledged > KILLS, "a campaign that writes next to nothing proves nothing"
