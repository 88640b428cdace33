"""A POP's life from start to signal, without a control plane."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from drtp.api.probing import PULSE
from drtp.kit.errors import Retryable, Terminal
from drtp.pop import PopSettings, run_pop
from drtp.pop.run import sockets_of
from edge_world import Authority, enrolled, until


def settings(directory: Path, **changes: Any) -> PopSettings:
    return PopSettings(
        directory=directory,
        name="worker-001.test",
        pop="nyc",
        latitude="40.7",
        longitude="-74.0",
        server_ip="127.0.0.1",
        listeners=("127.0.0.1:0",),
        endpoint_ports=(21000, 21099),
        drain_s=2.0,
        **changes,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return enrolled(tmp_path / "pop", Authority().identity("pop", "p1", "p1.tunnel.test.example"))


@asynccontextmanager
async def living(pop: PopSettings) -> AsyncGenerator[asyncio.Task[int], None]:
    """`run_pop` as a process runs it; ends with SIGTERM."""
    async with asyncio.TaskGroup() as group:
        life = group.create_task(run_pop(pop))
        await until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
        yield life
        os.kill(os.getpid(), signal.SIGTERM)


async def test_sigterm_drains_and_ends_with_zero(directory: Path) -> None:
    async with living(settings(directory)) as life:
        assert not life.done()
    assert life.result() == 0


async def test_two_processes_never_share_a_directory(directory: Path) -> None:
    async with living(settings(directory)):
        with pytest.raises(Terminal, match="DRTP-4010"):
            await run_pop(settings(directory))


async def test_two_pops_never_share_a_directory_of_sockets(directory: Path, tmp_path: Path) -> None:
    other = enrolled(tmp_path / "other", Authority().identity("pop", "p2", "p2.tunnel.test.example"))
    async with living(settings(directory)):
        with pytest.raises(Terminal, match="DRTP-5021"):
            await run_pop(settings(other, endpoint_sockets=sockets_of(settings(directory))))


async def test_sockets_of_a_killed_process_are_gone_and_other_files_stay(directory: Path) -> None:
    sockets = sockets_of(settings(directory))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(sockets / "c9.sock"))
    (sockets / "notes.sock").write_text("no socket")
    async with living(settings(directory)):
        found = {path.name for path in sockets.iterdir()}
    assert found == {"lock", "notes.sock", PULSE}


async def test_a_pop_that_is_not_enrolled_says_so(tmp_path: Path) -> None:
    with pytest.raises(Terminal, match="DRTP-2015"):
        await run_pop(settings(tmp_path / "pop"))


async def test_a_taken_health_port_is_named(directory: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken: tuple[str, int] = stranger.getsockname()
        with pytest.raises(Retryable, match=f"DRTP-4003.*:{taken[1]} "):
            await run_pop(settings(directory, health_address=taken))


async def test_metrics_are_served_where_the_operator_asked(directory: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    async with (
        living(settings(directory, metrics_address=("127.0.0.1", port))),
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        assert "drtp_pop_health " in await answer.text()
