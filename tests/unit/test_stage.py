"""`tools/stage`: what whoever builds sees of a long command."""

from __future__ import annotations

import subprocess
from pathlib import Path

STAGE = Path(__file__).parents[2] / "tools" / "stage"


def _staged(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([STAGE, "sh", "-c", script], capture_output=True, text=True, timeout=30, check=False)


def test_a_stage_that_succeeds_says_how_long_it_took_and_no_more() -> None:
    done = _staged("echo chatter")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.split()[1:] == ["s", "done"]


def test_a_stage_that_fails_shows_what_was_said_and_keeps_the_status() -> None:
    done = _staged("echo the reason; exit 3")
    assert done.returncode == 3
    assert "failed" in done.stderr
    assert "the reason" in done.stderr
