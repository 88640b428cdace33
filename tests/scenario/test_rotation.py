"""Root and intermediates are rotated twice under 200 visitors who stay and 50 a second who come, and under callers.
Nobody fails. And whoever was away finds the way: a context file from before, and an agent that is started again.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from scenario.bed import BIN, Bed, eventually
from scenario.load import http, local_service, tcp, visitors
from scenario.renewals import connected

pytestmark = pytest.mark.alone

STAYING = 200
NEW_PER_S = 50.0
WITHIN_S = 40.0
"""Of one rotation of the root: three steps that each wait for every edge, and a start of the control plane."""


def _ca(bed: Bed, *argv: str) -> dict[str, Any]:
    command = [str(BIN / "drtp"), "ca", *argv, "--data-dir", str(bed.data), "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, env=bed.env, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    state: dict[str, Any] = json.loads(done.stdout)
    return state


def _rotated(bed: Bed, number: int) -> bool:
    state = _ca(bed, "status")
    assert (state["phase"], state["active"]) == ("Standby", number), state
    return True


def _all_under(bed: Bed, number: int) -> bool:
    """Every edge here, by the files that it would start with."""
    pins = {root["number"]: root["pin"] for root in _ca(bed, "status")["roots"] if root["trusted"]}
    assert list(pins) == [number]
    bundles = {path.read_bytes() for path in bed.data.glob("**/identity/current/bundle.pem")}
    assert len(bundles) == 1
    return True


@pytest.mark.timeout(240)
def test_nobody_notices_that_root_and_intermediates_are_rotated_twice(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed()
    context = (bed.data / "context.json").read_bytes()
    with local_service() as port:
        served = bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        web = bed.serve(f"localhost:{port}", "--name", "web")
        panel = connected(bed, "default/echo")
        streams = (
            tcp(served.endpoint, "staying", staying=STAYING, talk_every_s=0.5),
            tcp(served.endpoint, "new", per_s=NEW_PER_S / 2),
            http(bed.http, web.host, per_s=NEW_PER_S / 2),
            tcp(panel, "connect, staying", staying=20, talk_every_s=0.5),
            tcp(panel, "connect, new", per_s=NEW_PER_S / 5),
        )
        with visitors(*streams) as load:
            load.run_on(2.0)
            began = time.monotonic()
            for number in (2, 3):
                _ca(bed, "rotate")
                load.run_on(3.0)
                _ca(bed, "rotate", "--root", "--hold", "0s")
                if number == 3:
                    # Somewhere in it the control plane is killed; the supervisor starts it again, and it goes on.
                    load.run_on(random.uniform(0.0, 3.0))
                    bed.part("controlplane").kill()
                eventually(lambda: _rotated(bed, number), WITHIN_S, 0.3)  # noqa: B023
            took = time.monotonic() - began
            load.run_on(3.0)
        eventually(lambda: _all_under(bed, 3), 10.0)
        crowd = load.crowd()
        print(f"{len(crowd.visits)} visits, {took:.1f} s for two rotations of both")
        assert len(crowd.of("staying").visits) == STAYING
        assert len(crowd.visits) > STAYING + NEW_PER_S * took * 0.8
        assert crowd.failed == []

        # A context from before knows the first root alone, which vouches for the second, and that for the third.
        old = bed.directory / "old-context.json"
        old.write_bytes(context)
        old.chmod(0o600)
        done = bed.datumctl("--context", str(old), "whoami")
        assert done.stdout.strip() == "local"
        assert old.read_bytes() != context
        # The agent is started again by this context, and is the same one.
        # kubectl's file follows the roots every ten seconds.
        before = eventually(lambda: [one["metadata"]["name"] for one in bed.connections("echo")], 25.0)
        served.stop()
        bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        assert [one["metadata"]["name"] for one in bed.connections("echo")] == before
