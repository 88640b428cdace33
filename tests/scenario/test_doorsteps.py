"""Strangers at each step of enrolment, sign-in and token routes: those who belong here do not notice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from drtp.client.context import load_context
from drtp.client.joining import parse_join
from scenario.bed import Bed, eventually
from scenario.doorsteps import API_ROUTES, EDGE_ROUTES, Crowding, doorsteps
from scenario.honest import honest_calls, window_of

pytestmark = pytest.mark.alone

STRANGERS = 500
"""At each door. `python -m bench doorsteps` sends 2,000, and holds the product to 1.2 times."""
WINDOW_S = 4.0
RATIO_MAX, NOISE_S = 3.0, 0.5
"""In a test, on a machine that others use; a door that waits for strangers costs seconds."""
MEMORY_RATIO, MEMORY_BYTES_MORE = 1.1, 12 << 20


def test_strangers_at_every_step_of_identitys_routes_keep_nobody_waiting(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed()
    bed.datumctl("create", "service", "default/doorsteps", "--protocol", "TCP", "--local", "localhost:1")
    said = json.loads(bed.datumctl("credentials", "default/doorsteps", "--output", "json").stdout)
    join = parse_join(said["secret"])
    calls = asyncio.run(honest_calls(bed, join))
    api = urlsplit(load_context(Path(bed.ready["context"])).api)
    crowds = (
        Crowding((join.edge.host, join.edge.port), EDGE_ROUTES, STRANGERS),
        Crowding((str(api.hostname), api.port or 443), API_ROUTES, STRANGERS),
    )
    controlplane = bed.part("controlplane")
    asyncio.run(window_of(calls, WINDOW_S))  # the first of all load what later ones find loaded
    with doorsteps(*crowds) as strangers:
        strangers.arrived()
    calm = asyncio.run(window_of(calls, WINDOW_S))
    before = controlplane.memory_full_info().uss
    with doorsteps(*crowds) as strangers:
        fates = strangers.arrived()
        assert fates["here"] + fates["turned away"] + fates["refused"] >= 2 * STRANGERS
        crowded = asyncio.run(window_of(calls, WINDOW_S))
    for name, seconds in crowded.items():
        assert min(seconds) >= 0, f"{name}: {sum(one < 0 for one in seconds)} of {len(seconds)} failed"
        assert max(seconds) <= max(calm[name]) * RATIO_MAX + NOISE_S, name
    room = before * MEMORY_RATIO + MEMORY_BYTES_MORE
    assert eventually(lambda: controlplane.memory_full_info().uss <= room)
