"""Wasted places: held against an address, made up for by whole requests, and forgotten."""

from __future__ import annotations

import pytest

from drtp.kit import wasters
from drtp.kit.clock import FakeClock
from drtp.kit.wasters import CREDIT_MAX, REMEMBERED_S, Wasters


def test_a_wasted_place_is_held_against_its_network_alone() -> None:
    made = Wasters(FakeClock())
    assert not made.is_one("a")
    made.wasted("a")
    assert made.is_one("a")
    assert not made.is_one("b")


def test_a_whole_request_makes_one_place_good_however_many_were_wasted() -> None:
    made = Wasters(FakeClock())
    for _ in range(100):
        made.wasted("a")
    made.asked("a")
    assert not made.is_one("a")
    made.wasted("a")
    assert made.is_one("a")


def test_requests_are_credit_up_to_a_bound() -> None:
    """Many people are behind one address: a few of them who are cut short do not shut it."""
    made = Wasters(FakeClock())
    for _ in range(100):
        made.asked("a")
    for _ in range(CREDIT_MAX):
        made.wasted("a")
    assert not made.is_one("a")
    made.wasted("a")
    assert made.is_one("a")


async def test_it_is_forgotten_some_time_after_the_last_one() -> None:
    clock = FakeClock()
    made = Wasters(clock)
    made.wasted("a")
    await clock.advance(REMEMBERED_S - 1)
    made.wasted("a")
    await clock.advance(REMEMBERED_S - 1)
    assert made.is_one("a")
    await clock.advance(1)
    assert not made.is_one("a")


def test_a_crowd_of_networks_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasters, "NETWORKS_MAX", 3)
    made = Wasters(FakeClock())
    made.wasted("a")
    for number in range(3):
        made.wasted(f"crowd-{number}")
    assert not made.is_one("a")
    assert made.is_one("crowd-0")
