"""Children of the supervisor: real processes, killed for real."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from drtp.kit.clock import SystemClock
from drtp.kit.errors import Terminal
from drtp.kit.secret import Secret
from drtp.main.embedded import processes
from drtp.main.embedded.child import OnDeath, Part
from drtp.main.embedded.layout import Layout
from drtp.main.embedded.operating import answer_operator, ask_supervisor
from drtp.main.embedded.restarts import Restarted, Restarts, parts_named
from drtp.main.embedded.supervisor import Supervisor

DEADLINE_S = 20.0


def layout(path: Path) -> Layout:
    made = Layout(path)
    made.run.mkdir()
    made.logs.mkdir()
    return made


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


SLEEPER = python("import json,time; print(json.dumps({'event':'ready'}), flush=True); time.sleep(600)")


async def said(child: Any, event: str) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE_S):
        async for seen in child.said:
            if event in seen:
                return seen[event]
    raise AssertionError


async def test_killed_part_is_started_again(tmp_path: Path) -> None:
    async with Supervisor(layout(tmp_path), SystemClock()) as supervisor:
        child = supervisor.start(Part("part", SLEEPER))
        await said(child, "ready")
        first = child.pid.value
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            _, second = await child.pid.newer(child.pid.version)
        assert second != first
        assert child.deaths.value == -signal.SIGKILL
        await supervisor.stop([["part"]], 5.0)
        assert not child.running


async def test_part_that_is_to_stay_dead_stays_dead(tmp_path: Path) -> None:
    async with Supervisor(layout(tmp_path), SystemClock()) as supervisor:
        child = supervisor.start(Part("part", SLEEPER, OnDeath.LEAVE))
        await said(child, "ready")
        assert child.pid.value is not None
        os.kill(child.pid.value, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            await child.deaths.first()
        assert not child.running
        assert child.pid.version == 1


async def test_part_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    stubborn = python(
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        'print(\'{"event":"ready"}\', flush=True); time.sleep(600)'
    )
    async with Supervisor(layout(tmp_path), SystemClock()) as supervisor:
        child = supervisor.start(Part("part", stubborn))
        await said(child, "ready")
        await supervisor.stop([["part"]], 0.2)
        assert child.deaths.value == -signal.SIGKILL


async def test_leaving_the_supervisor_leaves_no_process(tmp_path: Path) -> None:
    async with Supervisor(layout(tmp_path), SystemClock()) as supervisor:
        child = supervisor.start(Part("part", SLEEPER))
        await said(child, "ready")
        pid = child.pid.value
    assert pid is not None
    assert processes.name_of(pid) is None


async def test_join_secret_comes_by_descriptor_and_never_in_argv(tmp_path: Path) -> None:
    async def mint() -> Secret[str]:
        return Secret("drtp_enr_canary")

    reader = python(
        "import json,os,sys,time; fd=int(sys.argv[sys.argv.index('--join-fd')+1]); text=os.read(fd,100).decode();"
        "line=open('/proc/self/cmdline').read()+open('/proc/self/environ').read();"
        "print(json.dumps({'event':'ready','text':text,'line':line}), flush=True); time.sleep(600)"
    )
    async with Supervisor(layout(tmp_path), SystemClock()) as supervisor:
        child = supervisor.start(Part("part", reader, join=mint))
        event = await said(child, "ready")
        assert event["text"] == "drtp_enr_canary"
        assert "drtp_enr_canary" not in event["line"].replace("canary'", "")


async def test_stopping_does_not_wait_for_a_secret_that_never_comes(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never() -> Secret[str]:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(DEADLINE_S), Supervisor(layout(tmp_path), SystemClock()) as supervisor:
        supervisor.start(Part("part", SLEEPER, join=never))
        await asked.wait()
        await supervisor.stop([["part"]], 5.0)


def test_children_of_a_killed_supervisor_stop_by_themselves(tmp_path: Path) -> None:
    child = (
        "from drtp.main.lifeline import hold_lifeline; import time;"
        "hold_lifeline(); print('up', flush=True); time.sleep(600)"
    )
    parent = f"""
import os, subprocess, sys
reader, writer = os.pipe()
child = subprocess.Popen([sys.executable, "-c", {child!r}], pass_fds=[reader], stdout=subprocess.PIPE,
                         env={{**os.environ, "DRTP_LIFELINE_FD": str(reader)}}, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        name = processes.name_of(pid)
        assert name is not None
        supervisor.kill()
    descriptor = os.pidfd_open(pid) if processes.name_of(pid) == name else None
    if descriptor is not None:
        import select

        assert select.select([descriptor], [], [], DEADLINE_S)[0]
        os.close(descriptor)
    assert processes.name_of(pid) != name


async def test_leftovers_are_ended_by_name_and_strangers_are_spared(tmp_path: Path) -> None:
    with subprocess.Popen(python("import time; time.sleep(600)")) as ours:
        processes.remember(tmp_path / "ours.json", ours.pid)
        stranger = processes.ProcessName(os.getpid(), "another start time")
        (tmp_path / "stranger.json").write_text(f'{{"pid":{stranger.pid},"started":"{stranger.started}"}}')
        assert await processes.end_leftovers(tmp_path, SystemClock()) == ["ours"]
        assert ours.wait(5) == -signal.SIGTERM
    assert not list(tmp_path.iterdir())


async def test_a_planned_restart_starts_the_next_process_at_once(tmp_path: Path) -> None:
    async with Supervisor(layout(tmp_path), FrozenClock()) as supervisor:
        child = supervisor.start(Part("part", SLEEPER))
        for _time in range(2):
            await said(child, "ready")
            before = child.pid.value
            # Under a clock that stands still a back-off would never end.
            async with asyncio.timeout(DEADLINE_S):
                await child.restart(DEADLINE_S)
            assert child.pid.value != before
            assert child.deaths.value == -signal.SIGTERM
        await said(child, "ready")
        await supervisor.stop([["part"]], 5.0)


async def test_a_planned_restart_brings_back_a_part_that_was_left_dead(tmp_path: Path) -> None:
    async with Supervisor(layout(tmp_path), SystemClock()) as supervisor:
        child = supervisor.start(Part("part", SLEEPER, OnDeath.LEAVE))
        await said(child, "ready")
        child.kill()
        async with asyncio.timeout(DEADLINE_S):
            await child.deaths.first()
            await child.restart(DEADLINE_S)
            await said(child, "ready")
        child.kill()
        async with asyncio.timeout(DEADLINE_S):
            await child.deaths.newer(1)
        assert not child.running, "the rule for deaths is what it was"
        await supervisor.stop([["part"]], 5.0)


async def test_a_retired_part_ends_and_is_forgotten(tmp_path: Path) -> None:
    async with Supervisor(layout(tmp_path), SystemClock()) as supervisor:
        child = supervisor.start(Part("part", SLEEPER))
        await said(child, "ready")
        await supervisor.retire("part", 5.0)
        assert (child.running, supervisor.children) == (False, {})


class FrozenClock(SystemClock):
    """Nothing that waits goes on."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


def test_parts_to_restart_are_named_as_people_name_them() -> None:
    assert parts_named(["all"]) == ("controlplane", "pop-1", "pop-2", "gateway", "envoy", "hello")
    assert parts_named(["gateway", "worker-002-fra-ab.embedded", "pop"]) == ("gateway", "pop-2", "pop-1")
    for wrong in (["teapot"], ["pop-1", "hello-page"], []):
        with pytest.raises(Terminal, match="DRTP-7040"):
            parts_named(wrong)


async def test_the_supervisors_socket_is_private_and_answers_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "up.sock"

    class Told:
        async def run(self, names: tuple[str, ...]) -> AsyncIterator[Restarted]:
            for number, part in enumerate(parts_named(names)):
                yield Restarted(part, number, 0.5)

    async with asyncio.TaskGroup() as group:
        answering = group.create_task(answer_operator(path, cast("Restarts", Told())))
        async with asyncio.timeout(DEADLINE_S):
            while not path.exists():
                await asyncio.sleep(0.01)
        assert path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as garbage:
            garbage.connect(str(path))
            garbage.sendall(b"no json\n")
        told = await asyncio.to_thread(lambda: list(ask_supervisor(path, ("pop",))))
        assert told == [
            {"event": "restarted", "part": "pop-1", "pid": 0, "seconds": 0.5},
            {"event": "restarted", "part": "pop-2", "pid": 1, "seconds": 0.5},
        ]
        with pytest.raises(Terminal, match="DRTP-7040"):
            await asyncio.to_thread(lambda: list(ask_supervisor(path, ("teapot",))))
        answering.cancel()
    with pytest.raises(Terminal, match="DRTP-7041"):
        list(ask_supervisor(path, ("pop",)))
