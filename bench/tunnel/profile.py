"""Where the relay's time goes: `python -m bench.tunnel.profile ROW [--seconds 5]`, with Linux' `perf` on PATH.

Both relay processes are sampled by their CPU clock while a row of `bench.tunnel` runs. Each sample counts once, at the
outermost name of the groups below that is in its call chain; the groups are printed as shares of each process.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from bench.tunnel.load import Load, built
from bench.tunnel.ours import drtp
from bench.tunnel.rows import ROWS

SAMPLES_PER_S = 999
STARTS_S = 0.5
"""Until perf has attached itself."""

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AES-GCM", ("aes_gcm", "aead_aes", "gcm128", "gcm_g")),
    ("copies from and to the kernel", ("_copy_from_iter", "_copy_to_iter", "copyin", "copyout")),
    ("copies in the core", ("memmove", "memcpy", "memset")),
    ("kernel: send, and what it delivers", ("__x64_sys_sendto", "__arm64_sys_sendto", "__sys_sendto")),
    ("kernel: receive", ("__x64_sys_recvfrom", "__arm64_sys_recvfrom", "__sys_recvfrom")),
    ("kernel: poll and sleep", ("sys_epoll_wait", "sys_epoll_pwait", "do_epoll_wait")),
    ("kernel: connect, accept, options, close", ("sys_connect", "sys_accept", "sockopt", "sys_close", "sys_epoll_ctl")),
    ("allocator", ("malloc", "_int_free", "cfree", "realloc")),
    ("the core itself", ("drtp_core", "rustls", "mio::")),
)
REST = "the rest"


def _chains(recorded: Path) -> Iterator[list[str]]:
    """Symbols of each sample, innermost first."""
    argv = ["perf", "script", "-i", str(recorded), "-F", "ip,sym"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True)
    chain: list[str] = []
    for line in said.stdout.splitlines():
        if line.strip():
            chain.append(line.split(maxsplit=1)[-1])
        elif chain:
            yield chain
            chain = []
    if chain:
        yield chain


def _group(chain: list[str]) -> str:
    for name, marks in GROUPS:
        if any(mark in symbol for symbol in chain for mark in marks):
            return name
    return REST


def _shares(recorded: Path) -> Counter[str]:
    return Counter(_group(chain) for chain in _chains(recorded))


def main() -> None:
    """Print a Markdown table: group, share at the POP, share at the agent."""
    parser = argparse.ArgumentParser(prog="python -m bench.tunnel.profile", description=__doc__)
    parser.add_argument("row", help="a part of a row's name")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the run (5)")
    asked = parser.parse_args()
    row = next((row for row in ROWS if asked.row in row.name), None)
    if row is None:
        parser.error(f"no row is called so; there are {', '.join(row.name for row in ROWS)}")
    load = Load(built())
    with tempfile.TemporaryDirectory(prefix="drtp-bench-") as scratch:
        home = Path(scratch)
        home.chmod(0o700)
        with load.service() as (service, _pid), drtp(service, home) as way:
            files = [home / f"{number}.perf" for number in range(len(way.pids))]
            record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_PER_S), "-g", "-o"]
            watching = [
                subprocess.Popen([*record, str(file), "-p", str(pid)], stderr=subprocess.DEVNULL)
                for file, pid in zip(files, way.pids, strict=True)
            ]
            time.sleep(STARTS_S)
            row.run(load, way, asked.seconds)
            for watcher in watching:
                watcher.send_signal(signal.SIGINT)
                watcher.wait(20)
        pop, agent = (_shares(file) for file in files)
    print(f"| {row.name} | POP | agent |\n|---|---|---|")
    for name in (*(name for name, _ in GROUPS), REST):
        print(f"| {name} | {pop[name] / pop.total():.0%} | {agent[name] / agent.total():.0%} |")


if __name__ == "__main__":
    main()
