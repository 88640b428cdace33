"""Percentiles and a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def percentile(values: Sequence[float], part: float) -> float:
    """The nearest-rank percentile; `part` between 0 and 1. Raises ValueError where there are no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def table(title: str, rows: Mapping[str, Sequence[float]], unit: str) -> str:
    """A Markdown table: count, median, p95, p99 and maximum of each row."""
    lines = [f"### {title}", "", f"| {unit} | n | p50 | p95 | p99 | max |", "|---|---|---|---|---|---|"]
    for name, values in rows.items():
        cells = [percentile(values, part) for part in (0.5, 0.95, 0.99)]
        figures = " | ".join(f"{cell:.3g}" for cell in (*cells, max(values)))
        lines.append(f"| {name} | {len(values)} | {figures} |")
    return "\n".join((*lines, ""))


class Missed(Exception):
    """A limit that a scenario holds the product to was not held; the words are its tables."""
