"""What those who enrol, sign in and use tokens notice of 2,000 strangers at each step of it: p99 at most 1.2 times.

The strangers finish their TLS handshake and then stall, go on at a byte a second, or send garbage; at one door at a
time, calm and crowded in turns. The control plane's memory comes back.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bench.enrolment import make_services, secrets_of
from bench.figures import Missed, percentile
from bench.processes import MB, look
from drtp.client.context import load_context
from scenario.bed import Bed
from scenario.doorsteps import API_ROUTES, EDGE_ROUTES, Crowding, doorsteps
from scenario.honest import Call, honest_calls, window_of

STRANGERS = 2_000
RATIO_MAX = 1.2
WINDOW_S = 10.0
SETTLE_S = 12.0
"""Longer than any deadline of a request that never ends."""
MEMORY_RATIO, MEMORY_BYTES_MORE = 1.05, 6 << 20


@dataclass
class _Seen:
    """p99 of honest calls by sort, in seconds; failures; the control plane's own memory after each window."""

    calm: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    crowded: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    calls: int = 0
    failed: int = 0
    memory: list[int] = field(default_factory=list[int])


def run(bed: Bed, count: int) -> str:
    """A thirtieth of `count` rounds, at least one, at both doors. Raises: Missed with the table."""
    make_services(bed)
    (join,) = asyncio.run(secrets_of(bed, 1))
    calls = asyncio.run(honest_calls(bed, join))
    api = urlsplit(load_context(Path(bed.ready["context"])).api)
    doors = {
        "enrolment": Crowding((join.edge.host, join.edge.port), EDGE_ROUTES, STRANGERS),
        "sign-in and tokens": Crowding((str(api.hostname), api.port or 443), API_ROUTES, STRANGERS),
    }
    seen = {name: _Seen() for name in doors}
    asyncio.run(window_of(calls, WINDOW_S))  # the first of all load what later ones find loaded
    for name, crowding in list(doors.items()) * max(1, count // 30):
        _round(bed, seen[name], calls, crowding)
    return _table(seen)


def _round(bed: Bed, seen: _Seen, calls: dict[str, Call], crowding: Crowding) -> None:
    """Two crowds, of which the first warms the allocators up; calm before and after the second."""
    with doorsteps(crowding) as strangers:
        strangers.arrived()
    for crowded in (False, True, False):
        if crowded:
            with doorsteps(crowding) as strangers:
                strangers.arrived()
                _note(seen, seen.crowded, asyncio.run(window_of(calls, WINDOW_S)))
            continue
        time.sleep(SETTLE_S)
        _note(seen, seen.calm, asyncio.run(window_of(calls, WINDOW_S)))
        seen.memory.append(look(bed.part("controlplane")).uss)


def _note(seen: _Seen, figures: dict[str, list[float]], window: dict[str, list[float]]) -> None:
    for name, seconds in window.items():
        good = [one for one in seconds if one >= 0]
        seen.calls += len(seconds)
        seen.failed += len(seconds) - len(good)
        figures.setdefault(name, []).append(percentile(good or [WINDOW_S], 0.99))


def _table(seen: dict[str, _Seen]) -> str:
    title = f"p99 of honest calls, {STRANGERS:,} strangers at the steps of one door's routes ({os.cpu_count()} cores)"
    lines = [f"### {title}", "", "| door | call | calm, ms | crowded, ms | ratio |", "|---|---|---|---|---|"]
    ratios: list[float] = []
    back = True
    for door, of in seen.items():
        for name, crowded in of.crowded.items():
            calm = statistics.median(of.calm[name])
            ratios.append(statistics.median(crowded) / calm)
            figures = f"{calm * 1e3:.1f} | {statistics.median(crowded) * 1e3:.1f} | {ratios[-1]:.2f}"
            lines.append(f"| {door} | {name} | {figures} |")
        back = back and of.memory[-1] <= of.memory[0] * MEMORY_RATIO + MEMORY_BYTES_MORE
        sizes = ", ".join(f"{one / MB:.0f}" for one in of.memory)
        lines.append(f"| {door} | control plane, MB after calm windows | {sizes} | | |")
    ratio, failed = statistics.median(ratios), sum(of.failed for of in seen.values())
    held = {f"Median of the ratios {ratio:.2f}; {RATIO_MAX}": ratio <= RATIO_MAX, "memory's return": back}
    lines += ["", *(f"{what} is {'held' if good else 'missed'}." for what, good in held.items())]
    lines.append(f"{failed} of {sum(of.calls for of in seen.values())} honest calls failed.\n")
    if not all(held.values()) or failed:
        raise Missed("\n".join(lines))
    return "\n".join(lines)
