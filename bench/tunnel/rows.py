"""The scenarios: what visitors do, and what of it must be how much better."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psutil

from bench.figures import percentile
from bench.tunnel import far
from bench.tunnel.burst import bursts
from bench.tunnel.load import Load
from bench.tunnel.pairs import Figures
from bench.tunnel.ways import Carries, Way

GB = 1e9
SETTLE_S = 0.5
"""After idle visitors came: buffers of their arrival are given back."""


@dataclass(frozen=True)
class Row:
    """`goals`: figure -> (bound on ours by theirs, whether more is better). `path`: between the ends of the tunnel.

    `ours`, `theirs`: who is measured, where it is not DRTP and the peer that is asked for. `most`: figure -> what ours
    may be at most, whatever theirs is.
    """

    name: str
    run: Callable[[Load, Way, float], Figures]
    goals: Mapping[str, tuple[float, bool]] = field(default_factory=dict[str, tuple[float, bool]])
    carries: Carries = Carries.STREAM
    path: far.Path = far.NEAR
    ours: str = "drtp"
    theirs: str = ""
    most: Mapping[str, float] = field(default_factory=dict[str, float])


def _cpu_s(way: Way) -> float:
    total = 0.0
    for pid in way.pids:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _resident_kb(way: Way) -> float:
    return sum(psutil.Process(pid).memory_full_info().uss for pid in way.pids) / 1024


def bulk(flows: int, direction: str = "down") -> Callable[[Load, Way, float], Figures]:
    """Gbit/s, and CPU seconds of the relay for a GB."""

    def run(load: Load, way: Way, seconds: float) -> Figures:
        before = _cpu_s(way)
        said = load.visit("bulk", way.endpoint, {"flows": flows, "seconds": seconds, "direction": direction})
        # The load's first tenth is not in its bytes.
        return {"gbit_s": said["gbit_s"], "cpu_s_per_gb": (_cpu_s(way) - before) / (said["bytes"] * 1.1 / GB)}

    return run


def requests(connections: int, **beside: int) -> Callable[[Load, Way, float], Figures]:
    """Requests a second, their p50 and p99, CPU of the relay for each; `beside`: bulk flows, stalled readers."""

    def run(load: Load, way: Way, seconds: float) -> Figures:
        before = _cpu_s(way)
        said = load.visit("requests", way.endpoint, {"connections": connections, "seconds": seconds, **beside})
        figures = {
            "per_s": said["per_s"],
            "p50_us": said["latency"]["p50_us"],
            "p99_us": said["latency"]["p99_us"],
            "cpu_us_each": (_cpu_s(way) - before) * 1e6 / (said["count"] * 1.1),
        }
        return figures | ({"bulk_gbit_s": said["bulk_gbit_s"]} if "bulk" in beside else {})

    return run


def connects(load: Load, way: Way, seconds: float) -> Figures:
    """New visitors a second."""
    before = _cpu_s(way)
    said = load.visit("connects", way.endpoint, {"seconds": seconds})
    cpu_us = (_cpu_s(way) - before) * 1e6 / said["count"]
    return {"per_s": said["per_s"], "p99_us": said["latency"]["p99_us"], "cpu_us_each": cpu_us}


def idle(load: Load, way: Way, _seconds: float) -> Figures:
    """User memory of both ends for one visitor who stays."""
    count = 1000
    with load.staying(way.endpoint, 50):
        before = _resident_kb(way)
        with load.staying(way.endpoint, count):
            time.sleep(SETTLE_S)
            return {"kb_each": max(0.01, (_resident_kb(way) - before) / count)}


def stalled(load: Load, way: Way, seconds: float) -> Figures:
    """Requests of 50 visitors beside 100 who download and never read, by the same without them."""
    alone = requests(50)(load, way, seconds)
    beside = requests(50, stalled=100)(load, way, seconds)
    return {"per_s": beside["per_s"], "of_unloaded": beside["per_s"] / alone["per_s"], "p99_us": beside["p99_us"]}


def datagrams(size: int, flows: int = 4, window: int = 16, segments: int = 64) -> Callable[[Load, Way, float], Figures]:
    """Datagrams of `size` bytes a second that came back whole, those that did not, and CPU of the relay for each.

    Each flow keeps `window` of them on the way; of all flows together they fit a socket buffer of the usual size, or
    peers that ask for no larger one would lose some. `segments`: how many a visitor hands to its kernel at once; 1 is
    who sends one by one.
    """

    def run(load: Load, way: Way, seconds: float) -> Figures:
        before = _cpu_s(way)
        shape = {"bytes": size, "flows": flows, "window": window, "segments": segments}
        said = load.visit("datagrams", way.endpoint, {**shape, "seconds": seconds})
        return {
            "per_s": said["per_s"],
            "loss": said["loss"],
            "cpu_us_each": (_cpu_s(way) - before) * 1e6 / said["all"],
        }

    return run


ROUND_TRIP_S = 0.04
_UNIX, _TLS = "whole path, Unix hop", "whole path, mutual-TLS hop"


def first_bytes(visitors: int, round_trip_s: float) -> Callable[[Load, Way, float], Figures]:
    """From dialling to the first byte of a verified answer, of visitors who come at once, in round trips."""

    def run(_load: Load, way: Way, seconds: float) -> Figures:
        before = _cpu_s(way)
        times = bursts(way.endpoint, visitors, seconds)
        return {
            "round_trips_p50": percentile(times, 0.5) / round_trip_s,
            "round_trips_p99": percentile(times, 0.99) / round_trip_s,
            "cpu_us_each": (_cpu_s(way) - before) * 1e6 / len(times),
        }

    return run


ROWS: tuple[Row, ...] = (
    Row("bulk, 1 flow down", bulk(1), {"gbit_s": (1.6, True), "cpu_s_per_gb": (0.6, False)}),
    Row("bulk, 1 flow up", bulk(1, "up"), {"gbit_s": (1.6, True), "cpu_s_per_gb": (0.6, False)}),
    Row("bulk, 8 flows down", bulk(8), {"gbit_s": (1.2, True), "cpu_s_per_gb": (0.6, False)}),
    Row("requests, 1 connection", requests(1), {"per_s": (1.0, True), "p99_us": (1.1, False)}),
    Row("requests, 50 connections", requests(50), {"per_s": (1.6, True), "cpu_us_each": (0.55, False)}),
    Row(
        "requests, 1000 connections",
        requests(1000),
        {"per_s": (1.8, True), "cpu_us_each": (0.45, False), "p99_us": (0.3, False)},
    ),
    Row("new connections", connects, {"per_s": (1.7, True)}),
    Row("idle visitor", idle, {"kb_each": (1 / 30, False)}),
    Row(
        "10 small beside bulk",
        requests(10, bulk=1),
        {"per_s": (1.1, True), "p99_us": (0.5, False), "bulk_gbit_s": (0.9, True)},
    ),
    Row("50 beside 100 stalled readers", stalled),
    Row(
        "first byte at 40 ms, burst of 200",
        first_bytes(200, ROUND_TRIP_S),
        path=far.Path(ROUND_TRIP_S),
        most={"round_trips_p50": 1.3},
    ),
    Row(
        "1 % loss at 40 ms, 50 streams",
        requests(50),
        {"p99_us": (1.3, False)},
        path=far.Path(ROUND_TRIP_S, loss=0.01),
    ),
    Row(
        "1 % loss at 40 ms, 50 streams, QUIC by TCP lane",
        requests(50),
        {"p99_us": (1 / 1.3, False)},
        path=far.Path(ROUND_TRIP_S, loss=0.01),
        ours="drtp by QUIC",
        theirs="drtp",
    ),
    Row("whole path, 50 connections", requests(50), {"per_s": (0.7, True)}, ours=_UNIX, theirs="Envoy alone"),
    Row("whole path by TLS, 50 connections", requests(50), {"per_s": (0.7, True)}, ours=_TLS, theirs="Envoy alone"),
    Row("new visitors, Unix by TLS hop", connects, {"per_s": (2.0, True)}, ours=_UNIX, theirs=_TLS),
    Row("UDP, 64 B", datagrams(64), {"per_s": (2.0, True)}, Carries.DATAGRAMS),
    Row("UDP, 1200 B", datagrams(1200), {"per_s": (3.0, True)}, Carries.DATAGRAMS),
    Row("UDP, 64 B of 64 visitors", datagrams(64, flows=64, window=1), {"per_s": (2.0, True)}, Carries.DATAGRAMS),
    Row("UDP, 64 B sent one by one", datagrams(64, segments=1), {"per_s": (2.0, True)}, Carries.DATAGRAMS),
    Row("UDP, 1200 B sent one by one", datagrams(1200, segments=1), {"per_s": (3.0, True)}, Carries.DATAGRAMS),
)
