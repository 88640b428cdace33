"""Every part is restarted, one after the other, while visitors come and stay. Nobody who is new fails, nobody
who is quick is cut, and whoever stays longer ends with the drain deadline.

DRTP_ROLLING=whole is the form of the promise: 500 connections at a time, half of them shorter than 10 s, and 100 new
visitors a second.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from scenario.bed import Bed, Serving, eventually
from scenario.load import Crowd, Fate, Stream, Visit, http, local_service, tcp, visitors

pytestmark = pytest.mark.alone

WHOLE = os.environ.get("DRTP_ROLLING") == "whole"

DRAIN_S = 14.0 if WHOLE else 5.0
"""Longer than the stay of whoever is quick, and who may come as late as gateways are told."""
QUICK_S = (1.0, 9.0) if WHOLE else (0.5, 2.5)
NEW_PER_S = 100.0 if WHOLE else 30.0
LONG = 250 if WHOLE else 50
EARLY_S = 0.3
"""An end this much before the deadline counts as with it: clocks are read in different processes."""
LATE_S = 3.0
"""A POP looks five times a second whether it is over, Envoy counts whole seconds; and the machine is busy."""


def crowd_of(echo: Serving, web: Serving, gateway: tuple[str, int]) -> tuple[Stream, ...]:
    """Half of the newcomers by TCP, who stay a little or longer, half by HTTP; and those who stay for good."""
    share = NEW_PER_S / 4
    return (
        http(gateway, web.host, per_s=2 * share),
        tcp(echo.endpoint, "quick", per_s=share, stay_s=QUICK_S[0], talk_every_s=0.4),
        tcp(echo.endpoint, "slower", per_s=share, stay_s=QUICK_S[1], talk_every_s=1.0),
        tcp(echo.endpoint, "long", staying=LONG, again=True, talk_every_s=1.0),
    )


@dataclass
class Restart:
    """One part's restart: when it was asked for, and when the last visitor of the former process can have gone."""

    part: str
    asked: float
    over: float
    ends_in: frozenset[Fate]

    def took(self, visit: Visit) -> bool:
        """This visitor's end belongs to it."""
        return self.asked < visit.ended <= self.over + LATE_S


@dataclass
class Story:
    """What was restarted, in order."""

    restarts: list[Restart] = field(default_factory=list[Restart])

    @contextmanager
    def of(self, part: str, *ends_in: Fate) -> Generator[None]:
        asked = time.monotonic()
        yield
        self.restarts.append(Restart(part, asked, time.monotonic(), frozenset(ends_in)))
        print(f"{part}: {self.restarts[-1].over - asked:.1f} s")

    def judge(self, crowd: Crowd) -> None:
        """Print what visitors saw, then say what must not have happened."""
        for name in ("http", "quick", "slower", "long"):
            print(f"{name}: {crowd.of(name)}")
        cut = crowd.of("long").failed
        for restart in self.restarts:
            mine = [visit.ended - restart.asked for visit in cut if restart.took(visit)]
            if mine:
                print(f"{restart.part}: {len(mine)} long ones ended {min(mine):.1f} to {max(mine):.1f} s after that")
        assert crowd.not_set_up == []
        assert [visit for visit in crowd.failed if visit.stream != "long"] == []
        for visit in cut:
            of = [restart for restart in self.restarts if restart.took(visit)]
            assert len(of) == 1, (visit, self.restarts)
            assert visit.fate in of[0].ends_in, (visit, of[0])
            assert visit.ended >= of[0].asked + DRAIN_S - EARLY_S, (visit, of[0])


@pytest.mark.timeout(400 if WHOLE else 180)
def test_r13_a_rolling_restart_of_every_part_fails_no_set_up_and_breaks_no_short_connection(
    new_bed: Callable[..., Bed], tmp_path: Path
) -> None:
    bed = new_bed("--drain", str(DRAIN_S))
    drain = ("--drain", str(DRAIN_S))
    story = Story()
    with local_service() as port:
        targets = {"echo": f"tcp://localhost:{port}", "web": f"localhost:{port}"}
        serving = {name: bed.serve(target, "--name", name, *drain) for name, target in targets.items()}
        eventually(lambda: all(len(bed.endpoints(name)) == 2 for name in targets), 60)
        before = {name: bed.endpoints(name) for name in targets}
        with visitors(*crowd_of(serving["echo"], serving["web"], bed.http)) as load:
            load.run_on(2.0)
            with story.of("controlplane"):
                restarted(bed, "controlplane")
            # Nobody waits for the control plane: POPs and gateways settle the rest among themselves.
            for pop in sorted(bed.ready["pops"], key=lambda pop: str(pop["name"])):
                with story.of(pop["name"], Fate.RESET):
                    restarted(bed, pop["name"])
            eventually(lambda: {name: bed.endpoints(name) for name in targets} == before, 60)
            with story.of("gateway"):
                restarted(bed, "gateway")
            former = bed.part("envoy")
            # Envoy ends like any process: the kernel closes what it had open.
            with story.of("envoy", Fate.RESET, Fate.CLEAN_END):
                restarted(bed, "envoy")
                eventually(lambda: is_gone(former), DRAIN_S + 30)
            for name, target in targets.items():
                # As orchestrators do it: the next one is ready before this one is told to stop.
                bed.serve(target, "--name", name, "--state-dir", str(tmp_path / f"next-{name}"), *drain)
                with story.of(f"agent of {name}", Fate.RESET):
                    assert serving[name].program.stop(signal.SIGTERM, DRAIN_S + 20) == 0
            with story.of("hello"):
                restarted(bed, "hello")
            load.run_on(2.0)
            page = bed.curl(bed.ready["hello"], "--write-out", " %{http_code}")
            assert page.stdout.endswith(b" 200"), page
        story.judge(load.crowd())
    cut_by = {
        restart.part for visit in load.crowd().of("long").failed for restart in story.restarts if restart.took(visit)
    }
    assert {"envoy", "agent of echo"} <= cut_by, "nobody stayed longer than a drain"
    assert any(pop["name"] in cut_by for pop in bed.ready["pops"])


def restarted(bed: Bed, part: str) -> None:
    """Restarts one part, and sees that it is another process and that the command has said so."""
    names = {pop["name"]: f"pop-{number}" for number, pop in enumerate(bed.ready["pops"], 1)}
    held = None if part == "hello" else bed.part(part)
    (said,) = bed.restart(part)
    assert (said["event"], said["part"]) == ("restarted", names.get(part, part))
    if held is not None:
        now = bed.part(part)
        assert (now.pid, now.is_running()) == (said["pid"], True) and now != held


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_command_names_what_is_wrong(bed: Bed, tmp_path: Path) -> None:
    def failing(*argv: str) -> tuple[int, str]:
        from scenario.bed import BIN, Program

        program = Program([BIN / "drtp", "restart", *argv], bed.env)
        status: Any = program.process.wait(30)
        return status, "\n".join(eventually(lambda: program.err.seen))

    status, words = failing("teapot", "--data-dir", str(bed.data))
    assert status == 1 and "DRTP-7040" in words and "controlplane" in words
    status, words = failing("pop", "--data-dir", str(tmp_path))
    assert status == 1 and "DRTP-7041" in words
