"""Wasted places: counted, made good by whole requests, and forgotten."""

from __future__ import annotations

import pytest

from drtp.kit import wasters
from drtp.kit.clock import FakeClock
from drtp.kit.wasters import REMEMBERED_S, WASTED_MAX, Wasters


def _wasting(times: int, clock: FakeClock | None = None) -> Wasters:
    made = Wasters(clock or FakeClock())
    for _ in range(times):
        made.wasted("a")
    return made


def test_one_place_may_be_wasted_and_the_next_is_held_against_an_address() -> None:
    assert not _wasting(WASTED_MAX - 1).is_one("a")
    assert _wasting(WASTED_MAX).is_one("a")
    assert not _wasting(WASTED_MAX).is_one("b")


def test_a_whole_request_makes_one_place_good_however_many_were_wasted() -> None:
    """Many people are behind one address: a few who are cut short do not shut it."""
    made = _wasting(100)
    made.made_good("a")
    assert not made.is_one("a")
    made.wasted("a")
    assert made.is_one("a")
    for _ in range(WASTED_MAX):
        made.made_good("a")
    made.wasted("a")
    assert not made.is_one("a")


async def test_it_is_forgotten_some_time_after_the_last_one() -> None:
    clock = FakeClock()
    made = _wasting(WASTED_MAX, clock)
    await clock.advance(REMEMBERED_S - 1)
    assert made.is_one("a")
    made.wasted("a")
    await clock.advance(REMEMBERED_S - 1)
    assert made.is_one("a")
    await clock.advance(1)
    assert not made.is_one("a")
    made.wasted("a")
    assert not made.is_one("a")


def test_a_crowd_of_addresses_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasters, "ADDRESSES_MAX", 3)
    made = _wasting(WASTED_MAX)
    for number in range(3):
        made.wasted(f"crowd-{number}")
    assert not made.is_one("a")
