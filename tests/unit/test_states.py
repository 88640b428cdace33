"""The state diagrams of the guide are held against the code they picture: states, and the ways between them."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drtp.api.drtp import ClientStatus, ProgrammingStatus
from drtp.api.reasons import Reason
from drtp.api.reports import Report, RouteReport
from drtp.pop.ports import Place
from drtp.pop.reporting import Standing, reports_of
from drtp.pop.table import read_table
from drtp.pop.vitals import Fitness, Vitals
from drtp.rules import readiness
from drtp.rules.readiness import ServerFacts
from drtp.tunnel import SessionPhase, SessionStats, Stats
from edge_world import route, snapshot

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "states.md").read_text()
DIAGRAMS = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
Arrow = tuple[str, str]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
FLAG = (True, False)
TABLE = read_table(snapshot({"route/c1": route()}), {"c1": Place("127.0.0.1", 20000)}, Path("/run"))
BOUND = Standing(bound={"route/c1": "127.0.0.1:20000"})
FIT, DRAINING = Vitals(Fitness.OK, 100), Vitals(Fitness.DRAINING, 100)


def _arrows(diagram: str) -> set[Arrow]:
    """Those between two states; a state's beginning and end are no state."""
    found: list[Arrow] = re.findall(r"(\S+) --> ([A-Za-z]+|\[\*\])", diagram)
    return {arrow for arrow in found if "[*]" not in arrow}


def _states(diagram: str) -> set[str]:
    return {state for arrow in _arrows(diagram) for state in arrow} | set(
        re.findall(r"\[\*\] --> ([A-Za-z]+)", diagram)
    )


def _said(stats: Stats, standing: Standing, vitals: Vitals, before: Mapping[str, Report]) -> RouteReport:
    report = reports_of(TABLE, standing, stats, vitals, before)["route/c1"]
    assert isinstance(report, RouteReport)
    return report


def test_server_diagram_shows_every_reason_of_ready_and_ways_that_one_fact_opens() -> None:
    reasons = {Reason[name] for name in re.findall(r"Reason\.([A-Z_]+)", inspect.getsource(readiness.server_ready))}
    assert reasons
    assert _states(DIAGRAMS[0]) == reasons
    old = NOW - readiness.LEASE - timedelta(seconds=1)
    facts = itertools.product((NOW, old), FLAG, (None, 49, 50), FLAG, FLAG, FLAG)
    known = {one: readiness.server_ready(ServerFacts(*one), NOW).reason for one in facts}
    possible = {
        (known[a], known[b])
        for a, b in itertools.permutations(known, 2)
        if sum(x != y for x, y in zip(a, b, strict=True)) == 1
    }
    assert _arrows(DIAGRAMS[0]) <= possible


def test_endpoint_diagram_shows_every_status_and_none_leads_back_to_the_beginning() -> None:
    assert _states(DIAGRAMS[1]) == {status.value for status in ProgrammingStatus}
    standings = (Standing(), BOUND, Standing(failed={"route/c1": "no"}))
    said = {
        _said(Stats(), standing, vitals, {}).programming.value for standing in standings for vitals in (FIT, DRAINING)
    }
    # What a POP says follows from the present alone, so it may say any of these after any other.
    possible = {(before, after) for before in (*said, "Init") for after in said if before != after}
    assert _arrows(DIAGRAMS[1]) <= possible


def test_agent_diagram_shows_every_status_and_every_way() -> None:
    assert _states(DIAGRAMS[2]) == {status.value for status in ClientStatus}
    looks = [
        Stats(sessions=sessions)
        for sessions in (
            (),
            *((SessionStats(peer="a1", address="192.0.2.1:1", state=phase, epoch=1),) for phase in SessionPhase),
        )
    ]
    reached = [_said(Stats(), BOUND, FIT, {})]
    seen: set[Arrow] = set()
    known = {reached[0].session.status}
    while reached:
        before = reached.pop()
        for stats in looks:
            after = _said(stats, BOUND, FIT, {"route/c1": before})
            seen.add((before.session.status.value, after.session.status.value))
            if after.session.status not in known:
                known.add(after.session.status)
                reached.append(after)
    # The controller's own word for every agent of a POP whose lease has run out.
    silent = {(status.value, "Disconnected") for status in ClientStatus}
    assert _arrows(DIAGRAMS[2]) == {(before, after) for before, after in seen | silent if before != after}
