"""The POP that visitors go to is killed while 200 new ones a second come: who failed, how slow, how soon it went on."""

from __future__ import annotations

import os

from bench.figures import table
from scenario.bed import Bed, eventually, killed
from scenario.load import Crowd, http, local_service, tcp, visitors

NEW_PER_S = 100.0
"""Of each sort."""
LOOK_S = 2.0
"""After each kill: by then the POP is back."""
SERVICES = ("bench-echo", "bench-web")


def run(bed: Bed, count: int) -> str:
    """A tenth of `count` kills, at least two: each takes about ten seconds."""
    kills = list[float]()
    with local_service() as port:
        echo = bed.serve(f"tcp://localhost:{port}", "--name", SERVICES[0])
        web = bed.serve(f"localhost:{port}", "--name", SERVICES[1])
        with visitors(tcp(echo.endpoint, per_s=NEW_PER_S), http(bed.http, web.host, per_s=NEW_PER_S)) as load:
            for _ in range(max(2, count // 10)):
                eventually(lambda: all(len(bed.endpoints(name)) == 2 for name in SERVICES), 60, 0.5)
                primary = bed.primary(SERVICES[0])
                load.run_on(1.5)
                kills.append(killed(bed.part(primary)))
                load.run_on(LOOK_S)
        crowd = load.crowd()
        for serving in (echo, web):
            serving.stop()
    return _figures(crowd, kills)


def _figures(crowd: Crowd, kills: list[float]) -> str:
    rows: dict[str, list[float]] = {"kill to the first visitor served": []}
    came = failed = 0
    for instant in kills:
        later = crowd.within(instant, instant + LOOK_S)
        came, failed = came + len(later.visits), failed + len(later.failed)
        served = [(visit, visit.setup_s) for visit in later.visits if visit.setup_s is not None]
        rows["kill to the first visitor served"].append(min(visit.at + setup for visit, setup in served) - instant)
        for visit, setup in served:
            rows.setdefault(f"set-up after the kill, {visit.stream}", []).append(setup)
    title = f"a POP killed under {2 * NEW_PER_S:.0f} new visitors a second ({os.cpu_count()} cores)"
    return f"{table(title, rows, 'seconds')}\n{failed} of {came} visitors who came after {len(kills)} kills failed.\n"
