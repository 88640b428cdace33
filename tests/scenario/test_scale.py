"""The fortieth service costs what the first did, and those that go leave nothing behind.

`python -m bench scale` and `python -m bench soak` hold the product to the figures themselves.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import psutil
import pytest

from scenario.bed import Bed, eventually
from scenario.fleet import Fleet, answered
from scenario.load import local_service

pytestmark = pytest.mark.alone

SERVICES = 40
EDGE = 10
"""Services at either end whose medians are compared."""
RATIO_MAX = 2.5
"""The bench wants 1.5 of 200 services; here a busy machine has few samples, and O(n) work shows all the same."""
SLACK = 4
"""Descriptors that a process may have more: a file being written, a connection on its way out."""


def descriptors(bed: Bed, fleet: Fleet) -> dict[str, int]:
    """How many each process has."""
    assert fleet.program is not None
    parts = bed.parts() | {"agent": psutil.Process(fleet.program.pid)}
    return {name: process.num_fds() for name, process in parts.items()}


@pytest.mark.timeout(240)
def test_services_come_at_an_even_cost_and_leave_no_descriptor_behind(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed()
    with local_service() as port:
        fleet = Fleet(bed, port)
        fleet.add("stays")
        before = descriptors(bed, fleet)
        names = [f"passing-{number:02}" for number in range(SERVICES)]
        seconds = [fleet.add(name) for name in names]
        first, last = statistics.median(seconds[:EDGE]), statistics.median(seconds[-EDGE:])
        print(f"created to first answer: {first * 1e3:.0f} ms, then {last * 1e3:.0f} ms")
        assert last <= RATIO_MAX * first
        grown = descriptors(bed, fleet)
        assert grown["envoy"] >= before["envoy"] + SERVICES, "what is counted here holds a descriptor for each"
        for name in names:
            fleet.leave(name)
        bed.kubectl("delete", "drtpservices", "-n", "default", *names)
        eventually(lambda: bed.connections(names[0]) == [], 60, 0.2)
        eventually(lambda: all(now <= before[name] + SLACK for name, now in descriptors(bed, fleet).items()), 60, 0.5)
        answered(fleet.watched.address["stays"])
