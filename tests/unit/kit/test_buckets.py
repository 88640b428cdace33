"""Token buckets: what is drained stays drained, and no address makes itself many."""

from __future__ import annotations

import pytest

from drtp.kit import buckets
from drtp.kit.buckets import WIDER, AddressBuckets, Buckets
from drtp.kit.clock import FakeClock
from drtp.kit.networks import networks_of


async def test_a_burst_is_given_at_once_and_the_rest_at_a_pace() -> None:
    clock = FakeClock()
    paced = Buckets(clock, burst=3, per_s=0.5)
    assert [paced.take("a") for _ in range(4)] == [True, True, True, False]
    assert paced.take("b")
    await clock.advance(2)
    assert [paced.take("a") for _ in range(2)] == [True, False]


async def test_a_drained_bucket_is_not_forgotten_for_a_crowd_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "KNOWN_MAX", 50)
    paced = Buckets(FakeClock(), burst=2, per_s=0.1)
    assert [paced.take("drained") for _ in range(3)] == [True, True, False]
    for number in range(500):
        paced.take(f"crowd-{number}")
    assert not paced.take("drained")


async def test_a_crowd_of_names_gets_no_more_than_the_buckets_that_newcomers_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(buckets, "KNOWN_MAX", 50)
    monkeypatch.setattr(buckets, "SHARED", 4)
    paced = Buckets(FakeClock(), burst=2, per_s=0.1)
    assert sum(paced.take(f"crowd-{number}") for number in range(2000)) == 50 + 4 * 2


async def test_full_buckets_make_room_for_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "KNOWN_MAX", 50)
    clock = FakeClock()
    paced = Buckets(clock, burst=2, per_s=1)
    for number in range(50):
        paced.take(f"earlier-{number}")
    await clock.advance(2)
    assert all(paced.take(f"later-{number}") and paced.take(f"later-{number}") for number in range(50))
    assert len(paced._levels) == 50


async def test_whoever_goes_from_one_64_to_the_next_is_one_48() -> None:
    paced = AddressBuckets(FakeClock(), burst=5, per_s=0.1)
    taken = sum(paced.take(f"2001:db8:1:{number:x}::1") for number in range(1000))
    assert taken == 5 * WIDER
    assert paced.take("2001:db8:2::1")
    assert paced.take("192.0.2.1")


def test_what_counts_as_one() -> None:
    assert networks_of("192.0.2.1") == ("192.0.2.1",)
    assert networks_of("::ffff:192.0.2.1") == ("192.0.2.1",)
    assert networks_of("2001:db8:1:2::3%eth0") == ("2001:db8:1:2::/64", "2001:db8:1::/48")
