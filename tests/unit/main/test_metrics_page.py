"""The table of metrics follows the code, and no tenant is a label."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "operations" / "metrics.md"
TENANTS = {"tenant", "namespace", "name", "object", "connection", "uid", "hostname", "visitor", "user"}


def test_the_page_is_what_the_code_makes(tmp_path: Path) -> None:
    """In a process of its own: what other tests register is no part of it."""
    made = tmp_path / "metrics.md"
    subprocess.run([sys.executable, "-m", "drtp.main.commands.metrics_page", str(made)], check=True, timeout=60)
    assert made.read_text() == PAGE.read_text()


def test_no_tenant_is_a_label() -> None:
    rows = re.findall(r"^\| `(drtp_\w+)` \| \w+ \| ([\w, ]*) \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 40
    for name, labels in rows:
        named = set(labels.split(", ")) - {""}
        assert not named & TENANTS, name
        assert name.startswith("drtp_agent_") or "service" not in named, name
