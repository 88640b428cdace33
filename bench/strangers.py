"""What visitors notice of 2,000 strangers at each listener (at most 1.2 times the p99 without them)."""

from __future__ import annotations

import os
import statistics
import time

from bench.figures import Missed
from scenario.bed import Bed
from scenario.load import Crowd, Load, Visit, http, local_service, tcp, visitors
from scenario.strangers import Party, strangers
from scenario.test_strangers import AT_EACH_DOOR, Door, doors

RATIO_MAX = 1.2
NEW_PER_S = 100.0
"""Visitors of each sort: a p99 of one window is the fourth worst of all."""
WINDOW_S = 2.0
SETTLE_S = 2.0
"""For those who left to be gone, and for those who were turned away to have gone."""


def run(bed: Bed, count: int) -> str:
    """A thirtieth of `count` rounds, at least one: each goes to every door, calm and crowded in turns, 12 s a door.

    Raises: Missed with the table.
    """
    with local_service() as port:
        web = bed.serve(f"http://localhost:{port}", "--name", "strangers-web")
        database = bed.serve(f"tcp://localhost:{port}", "--name", "strangers-db", "--allow", "127.0.0.1/32")
        at = doors(bed)
        calm: dict[str, list[float]] = {door.name: [] for door in at}
        crowded: dict[str, list[float]] = {door.name: [] for door in at}
        came: list[Visit] = []
        for door in at * max(1, count // 30):
            with visitors(tcp(database.endpoint, per_s=NEW_PER_S), http(bed.http, web.host, per_s=NEW_PER_S)) as load:
                load.run_on(SETTLE_S)
                before = _p99_s(load)
                crowded[door.name].append(_with_strangers(load, door))
                load.run_on(SETTLE_S)
                calm[door.name].append((before + _p99_s(load)) / 2)
            came += load.crowd().visits
        for serving in (web, database):
            serving.stop()
    ratio, words = _table(calm, crowded)
    failed = len(Crowd(came).failed)
    words += f"{failed} of {len(came)} visitors failed.\n"
    if failed or ratio > RATIO_MAX:
        raise Missed(words)
    return words


def _with_strangers(load: Load, door: Door) -> float:
    with strangers(Party(door.place, AT_EACH_DOOR, door.greeting)) as crowd:
        crowd.arrived()
        load.run_on(SETTLE_S)
        return statistics.mean(_p99_s(load) for _ in range(2))


def _p99_s(load: Load) -> float:
    began = time.monotonic()
    load.run_on(WINDOW_S)
    return load.so_far().within(began, time.monotonic() - 0.3).setup_s(0.99)


def _table(calm: dict[str, list[float]], crowded: dict[str, list[float]]) -> tuple[float, str]:
    title = f"set-up p99 of visitors, {AT_EACH_DOOR:,} strangers at one door at a time ({os.cpu_count()} cores)"
    lines = [f"### {title}", "", "| door | calm, ms | crowded, ms | ratio |", "|---|---|---|---|"]
    ratios: list[float] = []
    for name, without in calm.items():
        of_each = [one / other for one, other in zip(crowded[name], without, strict=True)]
        ratio = statistics.median(of_each)
        ratios += of_each
        figures = f"{statistics.median(without) * 1e3:.1f} | {statistics.median(crowded[name]) * 1e3:.1f} | {ratio:.2f}"
        lines.append(f"| {name} | {figures} |")
    ratio = statistics.median(ratios)
    held = "held" if ratio <= RATIO_MAX else "missed"
    return ratio, "\n".join((*lines, "", f"Median of the ratios: {ratio:.2f}; {RATIO_MAX} is {held}. "))
