"""A laptop's weekend. An agent that was off for 62 hours returns by itself; off for 8 days it says what to do.

The clocks of the control plane's and the agent's processes are set by libfaketime, so that TLS, too, is of that day.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from drtp.api.people import SYSTEM_MASTERS
from drtp.main.settings import ControlPlaneSettings
from unit.main.controlplane_bed import api_client, operator, process, settings
from unit.main.test_controlplane import service

WEEKEND_H, LONG_H = 62, 8 * 24


def preload() -> str:
    """libfaketime, as its own command would load it; a machine without it skips."""
    if shutil.which("faketime") is None:
        if os.environ.get("CI"):
            pytest.fail("faketime is not installed")
        pytest.skip("faketime is not installed")
    said = subprocess.run(
        ["faketime", "-f", "+1h", "env"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    found = re.search(r"^LD_PRELOAD=(.*)$", said, re.MULTILINE)
    assert found
    return found[1]


@contextlib.contextmanager
def hours_later(monkeypatch: pytest.MonkeyPatch, hours: int):
    """Whatever is started inside lives so much later."""
    with monkeypatch.context() as patch:
        if hours:
            patch.setenv("LD_PRELOAD", preload())
            patch.setenv("FAKETIME", f"+{hours}h")
            patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        yield


@contextlib.asynccontextmanager
async def agent(state: Path, *how: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """`datumctl serve` for the service `kept`, with nothing but its state directory and `how`."""
    argv = ["serve", "--service", "kept", "--namespace", "default", "--state-dir", str(state), "--output", "json", *how]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "drtp.main.datumctl",
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(state.parent), "XDG_CONFIG_HOME": str(state.parent / "none")},
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


def generation(state: Path) -> int:
    try:
        return int(msgspec.json.decode((state / "identity" / "current" / "identity.json").read_bytes())["generation"])
    except FileNotFoundError:
        return 0


async def reaches(state: Path, wanted: int, within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while generation(state) < wanted:
            await asyncio.sleep(0.05)


async def enrolled(where: ControlPlaneSettings, state: Path) -> None:
    async with process(where):
        async with api_client(where, SYSTEM_MASTERS) as api:
            await api.create(service("kept"), "drtpservices", namespace="default")
        _, minted = await operator(
            where, "POST", "/v1/secrets", {"role": "agent", "name": "kept", "namespace": "default"}
        )
        secret = state.parent / "secret"
        secret.write_text(minted["secret"])
        secret.chmod(0o600)
        async with agent(state, "--secret-file", str(secret)):
            await reaches(state, 1)


@pytest.mark.timeout(120)
async def test_after_a_weekend_it_returns_by_itself_and_after_eight_days_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preload()
    where, state = settings(tmp_path), tmp_path / "agent"
    await enrolled(where, state)
    with hours_later(monkeypatch, WEEKEND_H):
        async with process(where), agent(state):
            await reaches(state, 2)
    with hours_later(monkeypatch, WEEKEND_H + LONG_H + 1):
        async with process(where), agent(state) as child:
            _, said = await asyncio.wait_for(child.communicate(), 30)
    told = said.decode()
    assert child.returncode not in {0, None}, told
    assert "DRTP-2009" in told
    assert "secret" in told, told
