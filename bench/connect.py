"""PostgreSQL through `datumctl connect`, beside direct and beside ssh: `pgbench` with 20 clients, in turn A B B A.

Every way is there for the whole time, and one at a time is used. Nothing may fail: no transaction, no balance that does
not add up. `ssh -L` dials an sshd that reaches the service; with `-R` both ends dial out, as agent and connector do.
CPU is that of the relays: connector, both POPs and agent; or ssh and sshd. The load, PostgreSQL and the
relays share this machine, so the throughput says how much of it the relays leave.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.figures import Missed, percentile
from bench.tunnel.load import Address
from bench.tunnel.pairs import Figures, Ratio, middle, ratio
from bench.tunnel.ssh import programs, ssh_bastion, ssh_forward
from bench.tunnel.ways import Way
from scenario.bed import Bed, eventually
from scenario.database import PASSWORD, client, postgresql, query

CLIENTS, SCALE, PAIRS = 20, 20, 2
"""A branch for each client, or they would wait for each other's rows."""
SCRIPTS = ("tpcb-like", "select-only")
GOALS: Mapping[str, tuple[float, bool]] = {"tps": (1.5, True), "p99_ms": (0.5, False)}
"""Figure -> (bound on connect's by ssh's, whether more is better)."""
OURS, THEIRS, OUTBOUND, DIRECT = "connect", "ssh -L", "ssh -L and -R", "direct"


@dataclass
class Runs:
    """What each way came to, run by run, in the order of the turns."""

    script: str
    by_way: dict[str, list[Figures]]

    def beside(self, other: str, figure: str) -> Ratio | None:
        """Connect's by another way's, turn by turn; None where that is not here."""
        return ratio(list(zip(self.by_way[OURS], self.by_way.get(other, []), strict=False)), figure)


def run(bed: Bed, seconds: int) -> str:
    """Both scripts, each way `PAIRS` times for `seconds`. Raises: Missed where something failed."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgresql())
        _made(database)
        ways = {DIRECT: Way(("127.0.0.1", database)), OURS: stack.enter_context(_connect(bed, database))}
        missing = ""
        if both := programs():
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drtp-bench-")))
            for name, opens in ((THEIRS, ssh_forward), (OUTBOUND, ssh_bastion)):
                ways[name] = stack.enter_context(opens(*both, _serves)(("127.0.0.1", database), scratch))
        else:
            missing = "skipped, for they are not here: ssh and sshd (SSH=path, SSHD=path)\n"
        found = [_runs(script, ways, seconds) for script in SCRIPTS]
        _adds_up(database, sum(int(one["count"]) for way in found[0].by_way.values() for one in way))
    return "\n".join([*map(_table, found), missing])


def _made(port: int) -> None:
    made = client("pgbench", port, "-i", "-q", "-s", str(SCALE), "postgres")
    subprocess.run(made, env=os.environ | PASSWORD, check=True, capture_output=True)


@contextlib.contextmanager
def _connect(bed: Bed, database: int) -> Generator[Way]:
    """`datumctl serve` and `datumctl connect`, as users start them."""
    options = ("--name", "bench-connect", "--no-expose", "--output", "json")
    serving = bed.run("serve", f"tcp://localhost:{database}", *options)
    serving.event("ready")
    connector = bed.run("connect", "default/bench-connect", "--local", "0", "--output", "json")
    host, _, port = connector.event("ready")["local"].rpartition(":")
    at = (host, int(port))
    _serves(at)
    pops = tuple(process.pid for name, process in bed.parts().items() if name.startswith("pop-"))
    yield Way(at, (connector.pid, serving.pid, *pops))
    for program in (connector, serving):
        program.stop()


def _serves(at: Address) -> None:
    eventually(lambda: query(at[1], "select 1") == "1")


def _runs(script: str, ways: Mapping[str, Way], seconds: int) -> Runs:
    """A B B A, and direct before each turn."""
    runs = Runs(script, {name: [] for name in ways})
    relayed = [name for name in ways if name != DIRECT]
    for number in range(PAIRS):
        for name in (DIRECT, *(relayed if number % 2 == 0 else reversed(relayed))):
            runs.by_way[name].append(_once(script, ways[name], seconds))
    return runs


def _once(script: str, way: Way, seconds: int) -> Figures:
    """One run. Raises: Missed for a transaction that failed."""
    with tempfile.TemporaryDirectory(prefix="drtp-bench-") as name:
        shape = ("-n", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds), "-b", script)
        argv = client("pgbench", way.endpoint[1], *shape, "-l", "--log-prefix", f"{name}/log", "postgres")
        before, began = _cpu_s(way), time.monotonic()
        done = subprocess.run(
            argv, env=os.environ | PASSWORD, capture_output=True, text=True, timeout=seconds + 60, check=False
        )
        spent, wall = _cpu_s(way) - before, time.monotonic() - began
        if done.returncode != 0 or "number of failed transactions: 0 " not in done.stdout or "error" in done.stderr:
            raise Missed(f"{' '.join(argv)}\n{done.stdout}{done.stderr}")
        millis = [int(line.split()[2]) / 1e3 for file in Path(name).iterdir() for line in file.open()]
    return {
        "tps": len(millis) / seconds,
        "p50_ms": percentile(millis, 0.5),
        "p99_ms": percentile(millis, 0.99),
        "relay_cpu_us_each": spent * 1e6 / len(millis),
        "relay_cores": spent / wall,
        "count": len(millis),
    }


def _cpu_s(way: Way) -> float:
    """Of the relays and what they have started."""
    roots = [psutil.Process(pid) for pid in way.pids]
    each = [process for root in roots for process in (root, *root.children(recursive=True))]
    return sum(times.user + times.system for times in (process.cpu_times() for process in each))


def _adds_up(port: int, transactions: int) -> None:
    """What pgbench has counted is what the database holds. Raises: Missed."""
    tables = ("accounts", "tellers", "branches")
    sums = [query(port, f"select sum({table[0]}balance) from pgbench_{table}") for table in tables]
    history, count = query(port, "select sum(delta) || ' ' || count(*) from pgbench_history").split()
    if {*sums, history} != {history} or int(count) < transactions:
        raise Missed(f"balances {sums} and history {history}; {count} rows of {transactions} transactions")


FIGURES: Sequence[tuple[str, Callable[[float], str]]] = (
    ("tps", "{:.0f}".format),
    ("p50_ms", "{:.2f}".format),
    ("p99_ms", "{:.2f}".format),
    ("relay_cpu_us_each", "{:.0f}".format),
    ("relay_cores", "{:.2f}".format),
)


def _table(runs: Runs) -> str:
    names = list(runs.by_way)
    lines = [
        f"### pgbench -c {CLIENTS}, {runs.script}, 0 errors ({os.cpu_count()} cores)",
        "",
        f"| figure | {' | '.join(names)} | {OURS} by {THEIRS} | must | {OURS} by {OUTBOUND} |",
        f"|{'---|' * (len(names) + 4)}",
    ]
    for figure, shown in FIGURES:
        cells = [shown(middle(figures, figure) or 0.0) for figures in runs.by_way.values()]
        by, outbound = (runs.beside(other, figure) for other in (THEIRS, OUTBOUND))
        bound, more = GOALS.get(figure, (0.0, True))
        must = (
            f"{'≥' if more else '≤'}{bound} {'yes' if (by.median >= bound) == more else 'NO'}" if by and bound else ""
        )
        lines.append(f"| {figure} | {' | '.join(cells)} | {by or '–'} | {must} | {outbound or '–'} |")
    return "\n".join([*lines, ""])
