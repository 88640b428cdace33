"""What is still so is said ever more rarely."""

from __future__ import annotations

from itertools import pairwise

from drtp.kit.clock import FakeClock
from drtp.kit.repeats import MAX_S, Repeats


async def said(repeats: Repeats, clock: FakeClock, seconds: int) -> list[int]:
    """At which seconds the same line would be said, tried each second."""
    found: list[int] = []
    for second in range(seconds):
        if repeats.is_news("down"):
            found.append(second)
        await clock.advance(1)
    return found


async def test_the_same_line_is_said_at_doubling_intervals_up_to_a_bound() -> None:
    clock = FakeClock()
    at = await said(Repeats(clock), clock, 4000)
    assert at[:4] == [0, 10, 30, 70]
    assert max(later - former for former, later in pairwise(at)) == MAX_S


def test_another_line_and_one_after_the_end_are_news() -> None:
    clock = FakeClock()
    repeats = Repeats(clock)
    assert [repeats.is_news(what) for what in ("a", "a", "b", "b", "a")] == [True, False, True, False, True]
    repeats.over()
    assert repeats.is_news("a")
