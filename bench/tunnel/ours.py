"""DRTP as a way: POP endpoint in mode `plain`, mutual TLS 1.3 to the agent; and no relay at all, for the scale."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import msgspec

from bench.tunnel.edge import SNAPSHOT
from bench.tunnel.load import Address
from bench.tunnel.ways import Way, free_port, running
from drtp.api.snapshots import Entry
from edge_world import Authority, enrolled, plan_server, plan_service, route, snapshot


@contextlib.contextmanager
def direct(service: Address, _scratch: Path) -> Generator[Way]:
    """No relay."""
    yield Way(service)


@contextlib.contextmanager
def drtp(service: Address, scratch: Path) -> Generator[Way]:
    """POP endpoint in mode `plain`, mutual TLS 1.3 to the agent."""
    authority = Authority()
    homes = {role: scratch / role for role in ("pop", "agent")}
    enrolled(homes["pop"], authority.identity("pop", "p1", "p1.tunnel.test.example"))
    enrolled(homes["agent"], authority.identity("agent", "a1"))
    _snapshot(homes["pop"], {"route/c1": route()})
    edge = [sys.executable, "-m", "bench.tunnel.edge"]
    where = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    log = scratch / "pop.log"
    with running([*edge, "pop", homes["pop"], str(free_port())], log, env=where) as pop:
        listener = int(str(_said(pop, log, "listener")))
        _snapshot(homes["agent"], {"server/p1": plan_server("p1", listener), "service/c1": plan_service(service[1])})
        with running([*edge, "agent", homes["agent"]], scratch / "agent.log", env=where) as agent:
            host, _, port = str(_said(pop, log, "endpoint")).rpartition(":")
            yield Way((host, int(port)), (pop.pid, agent.pid))


def _snapshot(home: Path, entries: dict[str, Entry]) -> None:
    (home / SNAPSHOT).write_bytes(msgspec.json.encode(snapshot(entries)))


def _said(process: subprocess.Popen[str], log: Path, fact: str) -> object:
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(json.JSONDecodeError):
            said = json.loads(line)
            if fact in said:
                return said[fact]
    raise RuntimeError(f"{process.args} ended before it said {fact}: {log.read_text()[-2000:]}")
