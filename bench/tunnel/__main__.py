"""`python -m bench.tunnel [ROW …] [--pairs 8] [--seconds 5] [--against rathole] [--json FILE]`.

Each round starts fresh processes of both sides in turn (A B B A), checks every payload, and prints ratios with their
intervals: DRTP encrypted with mutual TLS 1.3 by the peer. A row is named by a part of its name.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from bench.tunnel.far import NotPossible, laid
from bench.tunnel.load import Load, built
from bench.tunnel.pairs import Figures, measured, middle, ratio
from bench.tunnel.peers import found
from bench.tunnel.rows import ROWS, Row
from bench.tunnel.ways import Opens, between


def _once(load: Load, opens: Opens, row: Row, seconds: float) -> Figures:
    with tempfile.TemporaryDirectory(prefix="drtp-bench-") as scratch, laid(row.path):
        home = Path(scratch)
        home.chmod(0o700)
        between.set(row.path)
        with load.service() as (service, _pid), opens(service, home) as way:
            return row.run(load, way, seconds)


def _lines(row: Row, pairs: list[tuple[Figures, Figures]], against: str) -> list[str]:
    """Table rows of one scenario, one for each figure."""
    lines: list[str] = []
    for figure in pairs[0][0]:
        by = ratio(pairs, figure)
        mine, other = middle([m for m, _ in pairs], figure), middle([o for _, o in pairs], figure)
        goal = row.goals.get(figure)
        reached = ""
        if goal and by:
            bound, more = goal
            reached = f"{'≥' if more else '≤'}{bound:.2f} {'yes' if (by.median >= bound) == more else 'NO'}"
        elif figure in row.most:
            reached = (
                f"≤{row.most[figure]:.2f} itself {'yes' if mine is not None and mine <= row.most[figure] else 'NO'}"
            )
        cells = (
            f"{row.name} ({against})" if row.theirs else row.name,
            figure,
            f"{mine:.4g}",
            "–" if other is None else f"{other:.4g}",
            str(by or "–"),
            reached,
        )
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines), file=sys.stderr, flush=True)
    return lines


def main() -> None:
    """Measure and print a Markdown table on stdout; progress goes to stderr."""
    known, missing = found()
    parser = argparse.ArgumentParser(prog="python -m bench.tunnel", description=__doc__)
    parser.add_argument("rows", nargs="*", help="parts of row names; default: all")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of runs for each row (8)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run (5)")
    names = sorted({name for name, _ in known})
    parser.add_argument("--against", default="rathole", help=f"one of {', '.join(names)}")
    parser.add_argument("--json", type=Path, help="write every figure of every run there")
    asked = parser.parse_args()
    if missing:
        print(f"skipped, for they are not here: {', '.join(missing)}", file=sys.stderr)
    chosen = [row for row in ROWS if not asked.rows or any(word in row.name for word in asked.rows)]
    if asked.against not in names and not all(row.theirs for row in chosen):
        parser.error(f"{asked.against} is not on this machine; here are {', '.join(names)}")
    load = Load(built())
    every: dict[str, list[tuple[Figures, Figures]]] = {}
    lines = [
        f"| scenario | figure | drtp | {asked.against} | ratio (95 %) | must |",
        "|---|---|---|---|---|---|",
    ]
    for row in chosen:
        against = row.theirs or asked.against
        if (against, row.carries) not in known:
            print(f"skipped, for {against} carries no {row.carries.name.lower()}: {row.name}", file=sys.stderr)
            continue
        ours, theirs = (
            functools.partial(_once, load, known[name, row.carries], row, asked.seconds) for name in (row.ours, against)
        )
        try:
            every[row.name] = measured(ours, theirs, asked.pairs)
        except NotPossible as reason:
            print(f"skipped, for this machine gives no {reason}: {row.name}", file=sys.stderr)
            continue
        lines += _lines(row, every[row.name], against)
    print("\n".join(lines))
    if asked.json:
        asked.json.write_text(json.dumps(every, indent=1))


main()
