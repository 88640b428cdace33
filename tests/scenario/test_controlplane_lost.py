"""The control plane is dead for a while, and everything else dies meanwhile, one after the other, under load (R28)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
import pytest

from scenario.bed import BIN, Bed, Program, Serving, eventually, killed
from scenario.load import Crowd, Fate, Visit, http, local_service, tcp, visitors

pytestmark = pytest.mark.alone

DOWN_S = float(os.environ.get("DRTP_TEST_DOWN_S", "12"))
"""How long the control plane stays dead. `DRTP_TEST_DOWN_S=30` for the long form."""
NEW_PER_S = 50.0
STEP_S = 2.0
ENVOY_AWAY_MAX_S = 3.0
"""From the death of Envoy to the first visitor that its successor serves. Measured: 0.5."""


class Death(NamedTuple):
    """A part died between these two instants."""

    dying: float
    died: float

    def caught(self, visit: Visit) -> bool:
        """The visitor was there, and was told within a second."""
        return visit.at <= self.died and self.dying <= visit.ended < self.died + 1.0


def _conclusions(bed: Bed) -> dict[tuple[str, str, str], tuple[str, str]]:
    """(kind, name, condition) -> (status, since when), of everything that visitors depend on."""
    kinds = ("drtpservers", "drtpservices", "drtpconnections", "gateways", "httproutes", "tcproutes")
    return {
        (kind, thing["metadata"]["name"], condition["type"]): (condition["status"], condition["lastTransitionTime"])
        for kind in kinds
        for thing in bed.objects(kind)
        for condition in _conditions(thing)
    }


def _conditions(thing: dict[str, Any]) -> list[dict[str, Any]]:
    status = thing.get("status", {})
    return [*status.get("conditions", []), *(c for p in status.get("parents", []) for c in p["conditions"])]


def _again(bed: Bed, serving: Serving) -> Program:
    """The same `serve` once more, as a service manager does after a crash."""
    program = Program(serving.program.argv, bed.env)
    bed.programs.append(program)
    return program


@pytest.mark.timeout(300)
def test_r28_all_parts_die_while_the_control_plane_is_dead_and_visitors_go_on(new_bed: Callable[..., Bed]) -> None:
    """ziti#3769: agents older than the control plane go on taking new connections."""
    bed = new_bed("--no-restart", "controlplane")
    with local_service() as port:
        echo = bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        replica = bed.serve(f"tcp://localhost:{port}", "--name", "echo", "--state-dir", str(bed.directory / "replica"))
        web = bed.serve(f"localhost:{port}", "--name", "web")
        eventually(lambda: len(bed.endpoints("echo")) == 4 and len(bed.endpoints("web")) == 2, 60)
        eventually(lambda: all(status == "True" for status, _ in _conclusions(bed).values()), 60)
        endpoints, conclusions = bed.endpoints("echo"), _conclusions(bed)
        deaths: dict[str, Death] = {}
        with visitors(tcp(echo.endpoint, per_s=NEW_PER_S), http(bed.http, web.host, per_s=NEW_PER_S)) as load:
            load.run_on(1.0)
            dead_since = _die(deaths, "control plane", bed.part("controlplane"))
            load.run_on(1.0)
            _die(deaths, "POP", bed.part(bed.ready["pops"][0]["name"]))
            load.run_on(STEP_S)
            envoy = bed.part("envoy")
            _die(deaths, "gateway host", bed.part("gateway"))
            load.run_on(STEP_S)
            assert bed.part("envoy") == envoy, "the next gateway host adopts it"
            _die(deaths, "Envoy", envoy)
            load.run_on(STEP_S)
            _die(deaths, "agent", psutil.Process(replica.program.pid))
            load.run_on(1.0)
            _again(bed, replica)
            load.run_on(max(STEP_S, dead_since + DOWN_S - time.monotonic()))
            again = Program([BIN / "drtp", "controlplane", "--data-dir", bed.data], bed.env)
            bed.programs.append(again)
            eventually(lambda: bed.endpoints("echo"), 30, 0.0)
            samples = 0
            while samples < 10:
                seen = bed.endpoints("echo")
                assert seen.items() >= endpoints.items(), "an endpoint was withdrawn"
                samples += 1
            load.run_on(STEP_S)
            later = bed.serve(f"tcp://localhost:{port}", "--name", "later")
            with visitors(tcp(later.endpoint, per_s=20.0)) as others:
                others.run_on(1.0)
            assert others.crowd().failed == []
        crowd = load.crowd()
        withdrawn = {k: (v, now) for k, v in conclusions.items() if (now := _conclusions(bed).get(k)) != v}
        assert withdrawn == {}
    _nobody_failed_but_inside(crowd, deaths)


def _die(deaths: dict[str, Death], name: str, victim: psutil.Process) -> float:
    deaths[name] = Death(time.monotonic(), killed(victim))
    return deaths[name].died


def _story(visit: Visit, deaths: dict[str, Death]) -> str:
    """The visit beside the death before it."""
    name, death = max(((n, d) for n, d in deaths.items() if d.dying < visit.ended), key=lambda pair: pair[1].dying)
    begin, end = visit.at - death.died, visit.ended - death.died
    return f"{visit.stream} {visit.fate.value}, from {begin:.3f} to {end:.3f} s after the death of the {name}"


def _nobody_failed_but_inside(crowd: Crowd, deaths: dict[str, Death]) -> None:
    """Whose bytes were inside a process that died is lost; so is who dialled before Envoy's successor listened."""
    envoy = deaths["Envoy"]
    back = min(visit.at for visit in crowd.after(envoy.died).visits if visit.fate is Fate.SERVED)
    turned_away = [v for v in crowd.failed if envoy.dying < v.at < back and v.fate in {Fate.REFUSED, Fate.RESET}]
    inside = {
        name: [v for v in crowd.failed if v not in turned_away and death.caught(v)] for name, death in deaths.items()
    }
    print(crowd)
    print(f"Envoy away for {back - envoy.died:.2f} s, {len(turned_away)} turned away")
    print("inside the dead:", {name: len(lost) for name, lost in inside.items()})
    assert back - envoy.died < ENVOY_AWAY_MAX_S
    excused = {id(visit) for lost in (turned_away, *inside.values()) for visit in lost}
    unexplained = [visit for visit in crowd.failed if id(visit) not in excused]
    assert unexplained == [], [_story(visit, deaths) for visit in unexplained]
    assert inside["control plane"] == []
    assert inside["gateway host"] == []
