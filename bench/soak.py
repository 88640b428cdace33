"""Half an hour of everything at once: are memory and descriptors flat, and does no visitor fail?

Short and long visitors over TCP and HTTP, visitors who reset, a service added and another deleted every few seconds, an
allowlist that changes, and now and then a POP that is killed. Deleted services come back under their names and
ports: what was let go is kept for its owner for a day, by design, and would be the only thing that grows.

What is bounded is filled first, so that filling is not taken for a leak: the control plane's log of changes.

Flat: warm-up takes half as long again and is not judged, for pools, caches and tables fill meanwhile; of what follows
the median of the last fifth is at most 2 % above the median of the first. Medians, as a collector's rhythm and a POP's
restart are in every fifth alike; upwards, because what falls has not leaked. Envoy is judged by what it has allocated:
its allocator's caches of freed memory fill for hours, up to a bound. Descriptors are counted when a round's visitors
have gone, and may be two more than at the end of the warm-up. Failed: any visitor who was not served whole, but for
those whom a POP held when it was killed; how those were told is printed.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import psutil

from bench.figures import Missed
from bench.processes import MB, allocated_by_envoy, look, parts
from scenario.bed import Bed, eventually, free_port, killed
from scenario.fleet import SERVICES, Api, Fleet
from scenario.load import Crowd, Fate, Visit, http, local_service, tcp, visitors

PACE_S = 0.25
"""Between two looks at what is due."""
WARM_UP = 0.5
"""For so long beforehand, as a share of the time that is judged."""
ROUNDS, KILLS = 12, 18
"""Load generators, one after the other, and kills of a POP."""
REST_S, REST_LOOKS = 8.0, 5
"""After a round: Envoy keeps idle connections to services for four seconds."""
SAMPLE_S, CHURN_S, ALLOW_S = 5.0, 6.0, 15.0
SHORT_PER_S, LONG_PER_S, LONG_STAY_S, STAYING, RESETS_PER_S = 10.0, 1.0, 20.0, 50, 5.0
FILL_CHANGES, FILLER_BYTES = 4_000, 400
"""More than the control plane's log of changes holds, of the usual size once they are objects."""
CHURNED = 8
"""Services that come and go."""
CUT_S = 1.5
"""Whom a killed POP held hears of it within this."""
GROWTH_MAX = 0.02
SAMPLES_MIN = 10
DESCRIPTORS_MAX = 2

_Number = TypeVar("_Number", int, float)

ALLOCATED = "envoy, allocated"
"""Of the process `envoy`, which is judged by it."""

ECHO, WEB = "soak-echo", "soak-web"


@dataclass
class Series:
    """One process over time: moments and bytes written, and its descriptors whenever nobody visited."""

    at: list[float] = field(default_factory=list[float])
    written: list[float] = field(default_factory=list[float])
    descriptors: list[int] = field(default_factory=list[int])


@dataclass
class Chore:
    """What is due at a moment, and again and again."""

    at: float
    every: float
    do: Callable[[], None]


class Kill(NamedTuple):
    """From the signal to the instant at which nothing of the process was left."""

    begun: float
    done: float

    def cut(self, visit: Visit) -> bool:
        """Whether it ended this visit: whoever was there. A hang or a wrong byte has no such excuse."""
        there = visit.at <= self.done and self.begun <= visit.ended <= self.done + CUT_S
        return there and visit.fate in {Fate.RESET, Fate.CLEAN_END, Fate.BAD_STATUS}


class Resets:
    """Visitors who are served once and then reset, at an even pace."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.visits: list[Visit] = []
        self._place = place
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._come, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more of them."""
        self._over.set()
        self._thread.join(30)

    def _come(self) -> None:
        begin = time.monotonic()
        for number in itertools.count(1):
            self.visits.append(self._one())
            if self._over.wait(max(0.0, begin + number / RESETS_PER_S - time.monotonic())):
                return

    def _one(self) -> Visit:
        at, fate, note = time.monotonic(), Fate.SERVED, ""
        try:
            with socket.create_connection(self._place, timeout=8) as visitor:
                visitor.sendall(b"for a moment")
                if visitor.recv(12, socket.MSG_WAITALL) != b"for a moment":
                    fate = Fate.CLEAN_END
                visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except TimeoutError:
            fate = Fate.HANG
        except OSError as error:
            fate, note = Fate.RESET, str(error)
        return Visit("resets", at, time.monotonic(), fate, None, note)


class Soak:
    """The whole run."""

    def __init__(self, bed: Bed, seconds: float) -> None:
        self._bed = bed
        self._seconds = seconds
        self._api = Api(bed)
        self.series: dict[str, Series] = {}
        self.kills: list[Kill] = []
        self.visits: list[Visit] = []
        self.added_s: list[float] = []

    def run(self) -> None:
        """Until the time is over."""
        with local_service() as port:
            web = self._bed.serve(f"localhost:{port}", "--name", WEB)
            fleet = Fleet(self._bed, port)
            fleet.add(ECHO)
            assert fleet.program is not None
            self._agents = {"agent of one": web.program.pid, "agent of a file": fleet.program.pid}
            eventually(lambda: all(len(self._bed.endpoints(name)) == 2 for name in (ECHO, WEB)), 60, 0.5)
            self._victim = self._bed.primary(ECHO)
            self._fill()
            echo = fleet.watched.address[ECHO]
            resets = Resets(echo)
            streams = (
                tcp(echo, "short", per_s=SHORT_PER_S),
                tcp(echo, "long", per_s=LONG_PER_S, stay_s=LONG_STAY_S),
                tcp(echo, "staying", staying=STAYING),
                http(self._bed.http, web.host, "http", per_s=SHORT_PER_S),
            )
            chores = self._chores(fleet)
            end = time.monotonic() + self._seconds
            while (left := end - time.monotonic()) > 0:
                with visitors(*streams) as load:
                    over = time.monotonic() + min(self._seconds / ROUNDS, left)
                    while time.monotonic() < over:
                        time.sleep(PACE_S)
                        next(chores)
                self.visits += load.crowd().visits
                self._rest()
                print(f"{load.crowd()}\n{self.table()}", file=sys.stderr, flush=True)
            resets.stop()
            self.visits += resets.visits
            web.stop()
            fleet.program.stop()

    def table(self) -> str:
        """What the samples say so far."""
        head = "| process | written MB | change | MB an hour | furthest off | descriptors at rest | more |"
        rows = [_row(name, one) for name, one in self.series.items() if len(one.at) >= SAMPLES_MIN]
        return "\n".join((head, "|---|---|---|---|---|---|---|", *rows))

    def _fill(self) -> None:
        """Change an object that concerns nobody until the log of changes is full of it."""
        secrets = "/api/v1/namespaces/default/secrets"
        filler = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "soak-filler"}, "type": "Opaque"}
        self._api.call("POST", secrets, filler)
        for number in range(FILL_CHANGES):
            data = {"stringData": {"filler": f"{number:06}" + "x" * FILLER_BYTES}}
            self._api.call("PATCH", f"{secrets}/soak-filler", data, "merge-patch+json")
        self._api.call("DELETE", f"{secrets}/soak-filler")

    def _chores(self, fleet: Fleet) -> Iterator[None]:
        """Each does what is due by now, and yields."""
        churn, allow = _each(self._churn(fleet)), _each(self._allow())
        now = time.monotonic()
        due = [
            Chore(now, SAMPLE_S, self._sample),
            Chore(now + 1.0, CHURN_S, churn),
            Chore(now + 2.0, ALLOW_S, allow),
            Chore(now + self._seconds / KILLS / 2, self._seconds / KILLS, self._kill),
        ]
        while True:
            for chore in due:
                if time.monotonic() >= chore.at:
                    chore.do()
                    chore.at = max(chore.at + chore.every, time.monotonic())
            yield

    def _sample(self) -> None:
        now = time.monotonic()
        for name, process in parts(self._bed, self._agents).items():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                part = look(process)
                one = self.series.setdefault(name, Series())
                one.at.append(now)
                one.written.append(part.written)
        envoy = self.series.setdefault(ALLOCATED, Series())
        envoy.at.append(now)
        envoy.written.append(allocated_by_envoy(self._bed))

    def _rest(self) -> None:
        """The fewest descriptors of each process when nobody has visited for a while, and a killed POP is back."""
        time.sleep(REST_S)
        fewest: dict[str, int] = {}
        for _ in range(REST_LOOKS):
            for name, process in parts(self._bed, self._agents).items():
                with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                    now = look(process).descriptors
                    fewest[name] = min(now, fewest.get(name, now))
            time.sleep(PACE_S)
        for name, number in fewest.items():
            self.series[name].descriptors.append(number)

    def _churn(self, fleet: Fleet) -> Generator[None]:
        """A service comes, with a port of its own; the one before is left by its agent and deleted."""
        ports = {f"soak-churn-{number}": free_port() for number in range(CHURNED)}
        before = ""
        for name in itertools.cycle(ports):
            self.added_s.append(fleet.add(name, port=ports[name]))
            if before:
                fleet.leave(before)
                self._api.call("DELETE", f"{SERVICES.format(namespace='default')}/{before}")
            before = name
            yield

    def _allow(self) -> Generator[None]:
        """Who may visit changes, for nobody who does."""
        path = f"{SERVICES.format(namespace='default')}/{ECHO}"
        for number in itertools.count():
            allowed = ["127.0.0.0/8", f"10.{number % 250}.0.0/16"]
            self._api.call("PATCH", path, {"spec": {"edgeAllowlist": allowed}}, "merge-patch+json")
            yield

    def _kill(self) -> None:
        begun = time.monotonic()
        self.kills.append(Kill(begun, killed(self._bed.part(self._victim))))


def _each(steps: Generator[None]) -> Callable[[], None]:
    return lambda: next(steps)


def run(bed: Bed, minutes: int) -> str:
    """So many minutes. Raises: Missed with the tables where something grew or somebody failed."""
    soak = Soak(bed, minutes * 60.0 * (1 + WARM_UP))
    soak.run()
    lost = Crowd(soak.visits).failed
    failed = [visit for visit in lost if not any(kill.cut(visit) for kill in soak.kills)]
    cut = Crowd([visit for visit in lost if visit not in failed])
    grown = [name for name, one in soak.series.items() if not _flat(name, one)]
    words = [
        f"### {minutes} minutes of mixed load, after {minutes * WARM_UP:.0f} of warm-up",
        "",
        soak.table(),
        "",
        f"{len(soak.visits)} visitors: {Crowd(soak.visits).fates}.",
        f"{len(soak.kills)} kills of a POP cut {len(cut.visits)} of those it held, {cut.fates}.",
        f"{len(failed)} failed otherwise.",
        f"{len(soak.added_s)} services added, to the first answer p50 {statistics.median(soak.added_s) * 1e3:.0f} ms.",
        *(f"failed: {_near(soak.kills, visit)}" for visit in sorted(failed, key=lambda one: one.fate.value)[:20]),
        f"memory and descriptors are {'not flat: ' + ', '.join(grown) if grown else 'flat'}.",
        "",
    ]
    if grown or failed:
        raise Missed("\n".join(words))
    return "\n".join(words)


def _near(kills: Sequence[Kill], visit: Visit) -> str:
    """A visit in words, with the kill that is nearest to its end."""
    kill = min(kills, key=lambda one: abs(one.done - visit.ended), default=None)
    after = f", {visit.ended - kill.begun:+.2f} s from a kill" if kill else ""
    stayed = f"{visit.ended - visit.at:.2f} s, set up {visit.setup_s}"
    return f"{visit.stream}: {visit.fate.value} after {stayed}{after} {visit.note}"


def _judged(values: Sequence[_Number]) -> Sequence[_Number]:
    """Without the warm-up."""
    return values[round(len(values) * WARM_UP / (1 + WARM_UP)) :]


def _change(name: str, one: Series) -> float:
    """How much the last fifth is above the first, as a share of it: by the median, or by what is always allocated."""
    level = _low if name == ALLOCATED else statistics.median
    values = _judged(one.written)
    size = max(1, len(values) // 5)
    first = level(values[:size])
    return level(values[-size:]) / first - 1 if first else 0.0


def _low(values: Sequence[float]) -> float:
    """The lowest tenth: what is there whoever comes and goes."""
    return sorted(values)[len(values) // 10]


def _more_descriptors(one: Series) -> int:
    """At the end, beside the end of the warm-up."""
    counts = _judged(one.descriptors)
    return counts[-1] - counts[0] if counts else 0


def _flat(name: str, one: Series) -> bool:
    return (name == "envoy" or _change(name, one) <= GROWTH_MAX) and _more_descriptors(one) <= DESCRIPTORS_MAX


def _row(name: str, one: Series) -> str:
    at, written = _judged(one.at), _judged(one.written)
    slope = statistics.linear_regression(at, written).slope * 3600 / MB
    middle = statistics.median(written)
    furthest = max(abs(value - middle) for value in written) / middle
    return (
        f"| {name} | {middle / MB:.1f} | {_change(name, one):+.1%} | {slope:+.1f} | {furthest:.1%} | "
        f"{' '.join(str(number) for number in one.descriptors)} | {_more_descriptors(one):+d} |"
    )
