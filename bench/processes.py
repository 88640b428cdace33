"""The product's processes, and what each of them takes: memory, CPU, descriptors."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil

from drtp.gateway.settings import paths
from scenario.bed import Bed

MB = 1e6


@dataclass(frozen=True)
class Part:
    """One process at one moment. Memory in bytes: resident, its own alone, and its share of what several map.

    written: the pages that it has written. Others of its own become shared when somebody else starts the same program.
    """

    rss: int
    uss: int
    pss: int
    written: int
    cpu_s: float
    descriptors: int


def parts(bed: Bed, agents: Mapping[str, int]) -> dict[str, psutil.Process]:
    """Every process of the installation by name, and `agents` (name -> pid) beside them."""
    return bed.parts() | {name: psutil.Process(pid) for name, pid in agents.items()}


def look(process: psutil.Process) -> Part:
    """What a process takes now. Raises: psutil.NoSuchProcess."""
    memory = cast("Any", process.memory_full_info())
    spent = process.cpu_times()
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    written = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty:")) << 10
    return Part(memory.rss, memory.uss, memory.pss, written, spent.user + spent.system, process.num_fds())


def allocated_by_envoy(bed: Bed) -> int:
    """Bytes that Envoy has in use, as its allocator counts them."""
    connection = http.client.HTTPConnection("envoy")
    connection.sock = socket.socket(socket.AF_UNIX)
    with contextlib.closing(connection):
        connection.sock.connect(str(paths(bed.data / "gateway").admin_socket))
        connection.request("GET", "/memory")
        return int(json.loads(connection.getresponse().read())["allocated"])


def over(seconds: float, found: Callable[[], Mapping[str, psutil.Process]]) -> dict[str, tuple[Part, float]]:
    """What each process takes after `seconds`, and the CPU seconds that it has spent in them."""
    before = {name: look(process) for name, process in found().items()}
    time.sleep(seconds)
    after = {name: look(process) for name, process in found().items()}
    return {name: (part, part.cpu_s - before[name].cpu_s) for name, part in after.items() if name in before}
