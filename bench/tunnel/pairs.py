"""Paired measurement: A B B A, so that a machine that warms up or slows down favours nobody."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 2000
Figures = dict[str, float]


@dataclass(frozen=True)
class Ratio:
    """Ours by theirs: the median of the pairs' ratios, with a 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}× ({self.low:.2f}–{self.high:.2f})"


def measured(ours: Callable[[], Figures], theirs: Callable[[], Figures], pairs: int) -> list[tuple[Figures, Figures]]:
    """`pairs` pairs, the first of every second pair being theirs."""
    found: list[tuple[Figures, Figures]] = []
    for number in range(pairs):
        if number % 2 == 0:
            mine = ours()
            found.append((mine, theirs()))
        else:
            other = theirs()
            found.append((ours(), other))
    return found


def ratio(pairs: Sequence[tuple[Figures, Figures]], figure: str) -> Ratio | None:
    """None where a side lacks the figure."""
    ratios = [mine[figure] / other[figure] for mine, other in pairs if figure in mine and other.get(figure)]
    if not ratios or any(not math.isfinite(one) for one in ratios):
        return None
    dice = random.Random(1)  # the same data give the same interval
    medians = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    low, high = medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]
    return Ratio(statistics.median(ratios), low, high)


def middle(pairs: Sequence[Figures], figure: str) -> float | None:
    """The median of one side's figure."""
    values = [figures[figure] for figures in pairs if figure in figures]
    return statistics.median(values) if values else None
