"""200 services and 1,000 idle visitors at once: what each process takes, and what one more service costs.

One agent serves all of them from a file, as a machine with many services does; each service is added by a line more and
SIGHUP. The memory of all together is the sum of the PSS (a page that several processes map counts once) of every
process of `drtp up` but Envoy, and of the agent. What "added" means is in `tests/scenario/fleet.py`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import statistics
import time
from collections.abc import Generator

from bench.figures import Missed
from bench.processes import MB, Part, over, parts
from scenario.bed import Bed, eventually
from scenario.fleet import Fleet
from scenario.load import LINGER_S, local_service, silent_visitor

SERVICES = 200
VISITORS = 1_000
EDGE = 20
"""Services at either end whose medians are compared; the very first one starts the agent and is not counted."""
IDLE_S = 30.0
MEMORY_MAX_MB = 400.0
RATIO_MAX = 1.5
CALM_S = 5.0
"""For what the last visitor and the last service have left to do."""


def run(bed: Bed, _count: int) -> str:
    """All of it, once. Raises: Missed with the tables where a limit is not held."""
    _room_for(VISITORS + 200)
    with local_service() as port:
        fleet = Fleet(bed, port)
        seconds = [fleet.add(f"scale-{number:03}") for number in range(1, SERVICES + 1)]
        assert fleet.program is not None
        agents = {f"agent of {SERVICES} services": fleet.program.pid}
        with _visitors([fleet.watched.address[name] for name in fleet.names]):
            eventually(lambda: _all_ready(bed), 60, 1.0)
            time.sleep(CALM_S)
            found = over(IDLE_S, lambda: parts(bed, agents))
        total = sum(part.pss for name, (part, _) in found.items() if name != "envoy") / MB
    first, last = statistics.median(seconds[1:EDGE]), statistics.median(seconds[-EDGE:])
    held = {
        f"{total:.0f} MB without Envoy; {MEMORY_MAX_MB:.0f} MB": total <= MEMORY_MAX_MB,
        f"services {SERVICES - EDGE + 1}-{SERVICES} take {last / first:.2f} times as long as 2-{EDGE}; {RATIO_MAX}": (
            last <= RATIO_MAX * first
        ),
    }
    words = [_table(found), *_added(seconds, first, last), ""]
    words += [f"{what} is {'held' if good else 'missed'}." for what, good in held.items()]
    if not all(held.values()):
        raise Missed("\n".join(words))
    return "\n".join((*words, ""))


def _all_ready(bed: Bed) -> bool:
    services = [one for one in bed.objects("drtpservices") if one["metadata"]["name"].startswith("scale-")]
    ready = [
        condition["status"]
        for one in services
        for condition in one["status"]["conditions"]
        if condition["type"] == "Ready"
    ]
    return len(services) == SERVICES and set(ready) == {"True"}


@contextlib.contextmanager
def _visitors(places: list[tuple[str, int]]) -> Generator[None]:
    """Each was served once, and waits; at the end each is served again."""
    came = [silent_visitor(places[number % len(places)]) for number in range(VISITORS)]
    try:
        yield
        for visitor in came:
            visitor.settimeout(LINGER_S)
            visitor.sendall(b"still there")
            assert visitor.recv(11, socket.MSG_WAITALL) == b"still there"
    finally:
        for visitor in came:
            visitor.close()


def _room_for(descriptors: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(descriptors, hard), hard))


def _table(found: dict[str, tuple[Part, float]]) -> str:
    lines = [
        f"### {SERVICES} services, {VISITORS} idle visitors ({os.cpu_count()} cores)",
        "",
        f"| process | RSS MB | PSS MB | USS MB | CPU s in {IDLE_S:.0f} s | descriptors |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(name, part, spent) for name, (part, spent) in found.items()]
    counted = [part for name, (part, _) in found.items() if name != "envoy"]
    whole = Part(
        rss=sum(part.rss for part in counted),
        uss=sum(part.uss for part in counted),
        pss=sum(part.pss for part in counted),
        written=sum(part.written for part in counted),
        cpu_s=sum(part.cpu_s for part in counted),
        descriptors=sum(part.descriptors for part in counted),
    )
    return "\n".join([*lines, _row("all without envoy", whole, sum(s for n, (_, s) in found.items() if n != "envoy"))])


def _row(name: str, part: Part, spent: float) -> str:
    memory = " | ".join(f"{size / MB:.1f}" for size in (part.rss, part.pss, part.uss))
    return f"| {name} | {memory} | {spent:.2f} | {part.descriptors} |"


def _added(seconds: list[float], first: float, last: float) -> list[str]:
    rows = {f"2-{EDGE}": first, "91-110": statistics.median(seconds[90:110]), f"{SERVICES - EDGE + 1}-{SERVICES}": last}
    return ["", "| services | created to first answer, median ms |", "|---|---|"] + [
        f"| {name} | {value * 1e3:.1f} |" for name, value in rows.items()
    ]
