"""`datumctl status`, as people read it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from click.testing import CliRunner

from drtp.api.people import SYSTEM_MASTERS
from drtp.client.context import save_context
from drtp.kit.clock import SystemClock
from drtp.main.controlplane import running_controlplane
from drtp.main.datum.status import status
from unit.main.controlplane_bed import context_of, settings


async def test_a_project_without_services_is_named(tmp_path: Path) -> None:
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        save_context(tmp_path / "context", await context_of(tower.settings, SYSTEM_MASTERS))
        argv = ["--context", str(tmp_path / "context"), "--namespace", "datum-system"]
        done = await asyncio.to_thread(CliRunner().invoke, status, argv)
    assert done.exit_code == 0, done.output
    assert "No services in project datum-system." in done.output
