"""`python -m bench [SCENARIO …] [--count N] [--minutes M]`: scenarios on a fresh DRTP, or on one of their own.

SCENARIO: start, change, enrolment, doorsteps, strangers, failover, connect, policies, renewals, revocation, scale,
soak.
Prints their tables. Ends with 1 where a scenario misses a limit that it holds the product to.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from bench import (
    change,
    connect,
    doorsteps,
    enrolment,
    failover,
    policies,
    renewals,
    revocation,
    scale,
    soak,
    start,
    strangers,
)
from bench.figures import Missed
from scenario.bed import Bed

SCENARIOS: dict[str, Callable[[Bed, int], str]] = {
    "start": start.run,
    "change": change.run,
    "enrolment": enrolment.run,
    "doorsteps": doorsteps.run,
    "strangers": strangers.run,
    "failover": failover.run,
    "connect": connect.run,
    "policies": policies.run,
    "renewals": renewals.run,
    "revocation": revocation.run,
    "scale": scale.run,
    "soak": soak.run,
}
OWN_BED = ("doorsteps", "enrolment", "policies", "renewals", "scale", "soak")
"""What they measure must not have a past."""
ENVIRONMENTS = {"renewals": renewals.ENVIRONMENT}


def main() -> int:
    """Run the scenarios asked for and print what they return."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[[], *SCENARIOS], help="default: all but soak")
    parser.add_argument("--count", type=int, default=100, help="rounds of each scenario (100)")
    parser.add_argument("--minutes", type=int, default=30, help="of the soak (30)")
    parser.add_argument("--seconds", type=int, default=30, help="of each run of pgbench in connect (30)")
    chosen = parser.parse_args()
    amounts = {"soak": chosen.minutes, "connect": chosen.seconds}
    names: list[str] = chosen.scenario or [name for name in SCENARIOS if name != "soak"]
    shared = [name for name in names if name not in OWN_BED]
    missed = 0
    for group in filter(None, (shared, *([name] for name in names if name in OWN_BED))):
        with tempfile.TemporaryDirectory(prefix="drtp-bench-") as directory:
            bed = Bed(Path(directory), environment=ENVIRONMENTS.get(group[0], {}))
            try:
                bed.start()
                for name in group:
                    missed += _told(name, bed, amounts.get(name, chosen.count))
            finally:
                bed.close()
    return 1 if missed else 0


def _told(name: str, bed: Bed, amount: int) -> int:
    """Run one and print its words; 1 if it missed a limit."""
    try:
        print(SCENARIOS[name](bed, amount), flush=True)
    except Missed as words:
        print(words, flush=True)
        return 1
    return 0


sys.exit(main())
