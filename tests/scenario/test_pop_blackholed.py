"""A POP's network swallows everything, under load: no error, no reset, only silence."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from scenario.bed import Bed, eventually
from scenario.load import Fate, hears_of_it, http, local_service, silent_visitor, tcp, visitors
from scenario.network import black_holed, own_network

pytestmark = pytest.mark.alone

NEW_PER_S = 100.0
"""Of each sort: 200 a second together."""
SILENT = 10
SLOW_S = 3.0
"""The POP may slow set-ups for so long: until the gateway host's own probe has found it."""
CONNECT_TIMEOUT_S = 0.5
"""What a set-up through the black hole costs before the other POP is tried."""
LANES_DEAD_S = {"mtls": 0.0, "unix": 3.5}
"""A gateway on the POP's own machine reaches it all the same, until it has found its agents' lanes dead."""
HEARD_WITHIN_S = 9.0
"""Keep-alive at the gateway gives a silent connection up after 6 s."""


@pytest.mark.timeout(240)
def test_r7_a_black_holed_pop_slows_set_ups_for_a_moment_fails_none_and_who_waits_hears_of_it(
    new_bed: Callable[..., Bed], hop: str
) -> None:
    """tailscale#16162: who waits at a dead path is reset, never left in silence."""
    with own_network(), local_service() as port:
        bed = new_bed("--hop", hop)
        echo = bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        web = bed.serve(f"localhost:{port}", "--name", "web")
        eventually(lambda: len(bed.endpoints("echo")) == 2 and len(bed.endpoints("web")) == 2, 60)
        before = bed.endpoints("echo"), bed.endpoints("web")
        victim = bed.part(bed.primary("echo"))
        edge_door: int = json.loads((bed.data / "ports.json").read_text())["edge"]
        silent = [silent_visitor(echo.endpoint) for _ in range(SILENT)]
        with visitors(tcp(echo.endpoint, per_s=NEW_PER_S), http(bed.http, web.host, per_s=NEW_PER_S)) as load:
            load.run_on(1.5)
            with black_holed(victim, unreachable=(edge_door,)):
                instant = time.monotonic()
                load.run_on(SLOW_S + 1.0)
                # What the kernel gives up is no reset to Envoy (decision 0014).
                heard = [hears_of_it(visitor, or_ends=hop == "mtls") - instant for visitor in silent]
                back = time.monotonic()
            load.run_on(1.0)
            eventually(lambda: (bed.endpoints("echo"), bed.endpoints("web")) == before, 60)
        crowd = load.crowd()
    later, after = crowd.after(instant), crowd.within(instant + SLOW_S, back)
    print(f"black-holed ({hop}): {later} · after {SLOW_S:.0f} s: {after} · silent ones heard after {max(heard):.1f} s")
    assert crowd.after(instant + LANES_DEAD_S[hop]).failed == []
    # Who asks a POP by its socket just as that POP resets them sees an end (decision 0050).
    cut = [visit for visit in later.failed if not (hop == "unix" and visit.asked_in_vain)]
    assert {visit.fate for visit in cut} <= {Fate.RESET, Fate.REFUSED, Fate.BAD_STATUS}, later.fates
    # The median stands on a busy machine.
    assert after.setup_s(0.5) < CONNECT_TIMEOUT_S, str(after)
    assert max(heard) < HEARD_WITHIN_S
