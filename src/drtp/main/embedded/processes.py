"""Which process is meant by a number in a file: process ids are reused, so the start time is part of the name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import msgspec

from drtp.kit.clock import Clock
from drtp.kit.files import write_atomic


class ProcessName(msgspec.Struct, frozen=True):
    """One process, once. `started` is opaque: equal for the same process, different for a later owner of the number."""

    pid: int
    started: str


def name_of(pid: int) -> ProcessName | None:
    """The name of a running process; None if there is none, or only its unreaped remains."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The second field is the command in brackets and may hold anything; fields count from behind it.
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else ProcessName(pid, fields[19])
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return ProcessName(pid, listed.stdout.strip()) if listed.returncode == 0 else None


def remember(path: Path, pid: int) -> None:
    """Write down a process that was just started."""
    name = name_of(pid)
    if name is not None:
        write_atomic(path, msgspec.json.encode(name))


def recall(path: Path) -> ProcessName | None:
    """The process written down, if it still runs."""
    try:
        name = msgspec.json.decode(path.read_bytes(), type=ProcessName)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return name if name_of(name.pid) == name else None


def send(name: ProcessName, number: signal.Signals) -> None:
    """Signal exactly this process, never a later owner of its number."""
    if name_of(name.pid) == name:
        with contextlib.suppress(ProcessLookupError):
            os.kill(name.pid, number)


async def end(name: ProcessName, clock: Clock, grace_s: float) -> None:
    """Ask a process that is not our child to stop; kill it after `grace_s`."""
    send(name, signal.SIGTERM)
    deadline = clock.monotonic() + grace_s
    while name_of(name.pid) == name:
        if clock.monotonic() >= deadline:
            send(name, signal.SIGKILL)
            return
        # Nothing wakes us when a process that is not our child ends.
        await clock.sleep(0.02)


async def end_leftovers(directory: Path, clock: Clock, grace_s: float = 5.0) -> list[str]:
    """End what an earlier supervisor started and could not stop; gives the names. Files of the dead are removed."""
    ended: list[str] = []
    for path in sorted(directory.glob("*.json")):
        name = recall(path)
        if name is not None:
            await end(name, clock, grace_s)
            ended.append(path.stem)
        path.unlink(missing_ok=True)
    return ended
