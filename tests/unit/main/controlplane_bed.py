"""A control plane for tests: in this process, or as the real process that can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from drtp.client.api import ApiClient
from drtp.client.context import Context
from drtp.kit.secret import Secret
from drtp.main.settings import ControlPlaneSettings

PROGRAM = """
import asyncio, sys
from pathlib import Path
from drtp.kit.observe import configure_logs
from drtp.main.controlplane import run_controlplane
from drtp.main.settings import ControlPlaneSettings
configure_logs()
sys.exit(asyncio.run(run_controlplane(ControlPlaneSettings(directory=Path(sys.argv[1])))))
"""


def settings(tmp_path: Path, **more: Any) -> ControlPlaneSettings:
    return ControlPlaneSettings(directory=tmp_path / "cp", **more)


async def operator(
    settings: ControlPlaneSettings, method: str, path: str, body: dict[str, Any] | None = None
) -> tuple[int, dict[str, Any]]:
    """One call over the operator's socket: status and answer."""
    connector = aiohttp.UnixConnector(str(settings.operator_socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, f"http://operator{path}", json=body) as answer,
    ):
        return answer.status, await answer.json()


async def context_of(settings: ControlPlaneSettings, *groups: str) -> Context:
    """Somebody with a fresh token of these groups, at home in `default`."""
    _, access = await operator(settings, "GET", "/v1/access")
    name = "administrator" if groups else "joe"
    _, token = await operator(settings, "POST", "/v1/tokens", {"name": name, "groups": groups})
    return Context(api=access["api"], ca_pem=access["ca"].encode(), token=Secret(token["token"]))


@asynccontextmanager
async def api_client(settings: ControlPlaneSettings, *groups: str) -> AsyncGenerator[ApiClient]:
    async with ApiClient(await context_of(settings, *groups)) as client:
        yield client


@asynccontextmanager
async def process(settings: ControlPlaneSettings) -> AsyncGenerator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """The control plane as a process, and its ready line; killed at the end if it still runs."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(settings.directory),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": "src"},
    )
    assert child.stdout is not None
    assert child.stderr is not None
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        log = group.create_task(child.stderr.read())
        try:
            ready = {}
            async for line in child.stdout:
                if line.startswith(b"{"):
                    ready = json.loads(line)
                    break
            yield child, ready
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
            sys.stderr.write((await log).decode())
