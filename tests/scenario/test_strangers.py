"""Thousands of strangers at every door, and nobody who belongs here notices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import pytest

from scenario.bed import Bed, Serving
from scenario.load import Load, http, local_service, tcp, visitors
from scenario.strangers import Party, strangers

pytestmark = pytest.mark.alone

AT_EACH_DOOR = 2_000
WINDOW_S = 2.0
WINDOWS = 3
RATIO_MAX = 3.0
"""In a test, on a machine that others use. `python -m bench strangers` holds the product to 1.2."""
NOISE_S = 0.5
"""What a machine that does other things as well may add; a door that waits for strangers costs seconds."""
MEMORY_RATIO, MEMORY_BYTES_MORE = 1.05, 6 << 20
"""What is left of a crowd: a few per cent, and what one page more of an allocator takes."""


@dataclass(frozen=True)
class Door:
    """A listening socket of the product."""

    name: str
    place: tuple[str, int]

    @property
    def greeting(self) -> str:
        return "http" if self.name.endswith("http") else "tls"


def doors(bed: Bed) -> list[Door]:
    """Whatever listens, found by looking and not from a list, so that none can be forgotten."""
    found: list[Door] = []
    public = {bed.http[1]: "envoy http", bed.https[1]: "envoy https"}
    for process in product(bed):
        for socket in process.net_connections("inet"):
            if socket.status == psutil.CONN_LISTEN and "hello_page" not in " ".join(process.cmdline()):
                address, port = socket.laddr
                if address != "::1":
                    name = public.get(port) if "envoy" in process.name() else None
                    found.append(Door(name or f"{role(process)} {port}", (address, port)))
    return found


def product(bed: Bed) -> list[psutil.Process]:
    """Its processes, without the supervisor and the commands of tests."""
    return [one for one in bed.processes() if role(one) != ""]


def role(process: psutil.Process) -> str:
    """What a process is; "" if it is none of the product's parts."""
    words = process.cmdline()
    if "envoy" in process.name():
        return "envoy"
    names = ("controlplane", "pop", "gateway", "serve")
    return next((name for name in names if name in words), "")


def memory(bed: Bed) -> dict[str, int]:
    """Bytes that each process has for itself."""
    return {f"{role(one)} {one.pid}": one.memory_full_info().uss for one in product(bed)}


def p99_s(load: Load) -> float:
    """The median of some windows' p99, so that one hiccup of the machine decides nothing."""
    seen: list[float] = []
    for _ in range(WINDOWS):
        began = time.monotonic()
        load.run_on(WINDOW_S)
        crowd = load.so_far().within(began, time.monotonic() - 0.5)
        assert crowd.failed == [], crowd
        seen.append(crowd.setup_s(0.99))
    return statistics.median(seen)


@dataclass(frozen=True)
class Seen:
    """What a crowd of strangers did. Set-up times are p99, memory is by process: before the first crowd, before the
    second, with it, and after it.
    """

    before_s: float
    during_s: float
    fates: dict[str, int]
    memory: tuple[dict[str, int], ...]

    def __str__(self) -> str:
        sizes = {name: " ".join(f"{one[name] / 2**20:.0f}" for one in self.memory) for name in self.memory[0]}
        ratio = self.during_s / self.before_s
        return (
            f"p99 {self.before_s * 1e3:.1f} ms before, {self.during_s * 1e3:.1f} ms with strangers, {ratio:.2f} times "
            f"as much; strangers {self.fates}; MiB cold, warm, crowded, after: {sizes}"
        )


def crowd_of_strangers(bed: Bed, web: Serving, database: Serving) -> Seen:
    """Two crowds at every door: one that warms the allocators up, one that is measured. Nobody else may fail."""
    at = doors(bed)
    assert len(at) >= 13, at  # API, edges, 2 agents' doors, 2 health doors, 4 endpoints, 3 of the gateway
    parties = [Party(door.place, AT_EACH_DOOR, door.greeting) for door in at]
    with visitors(tcp(database.endpoint, per_s=50), http(bed.http, web.host, per_s=50)) as load:
        load.run_on(2.0)
        cold = memory(bed)
        with strangers(*parties) as crowd:
            crowd.arrived()
        warm = _settled(bed, load)
        before_s = p99_s(load)
        with strangers(*parties) as crowd:
            fates = dict(crowd.arrived())
            during_s = p99_s(load)
            crowded = memory(bed)
        after = _settled(bed, load)
        assert load.crowd().failed == []
    assert fates["here"] > 0
    return Seen(before_s, during_s, fates, (cold, warm, crowded, after))


def _settled(bed: Bed, load: Load) -> dict[str, int]:
    """Memory once the strangers' connections are gone, and what they held has been given back."""
    load.run_on(8.0)
    return memory(bed)


@pytest.mark.timeout(240)
def test_strangers_at_every_door_are_not_noticed(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed()
    with local_service() as port:
        web = bed.serve(f"http://localhost:{port}", "--name", "web")
        database = bed.serve(f"tcp://localhost:{port}", "--name", "db", "--allow", "127.0.0.1/32")
        seen = crowd_of_strangers(bed, web, database)
        print(seen)
        assert seen.during_s <= seen.before_s * RATIO_MAX + NOISE_S
        _cold, warm, _crowded, after = seen.memory
        assert warm.keys() == after.keys(), "a process has died"
        assert all(after[name] <= warm[name] * MEMORY_RATIO + MEMORY_BYTES_MORE for name in warm), seen
        for serving in (web, database):
            assert not any("tunnel down" in line for line in serving.program.err.seen), serving.program.story()
