"""Schedules: people's words in a zone with daylight saving time, as minutes and offsets."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from drtp.api.policies import Schedule, Weekday, WeeklyWindow
from drtp.rules import schedules

BERLIN = "Europe/Berlin"
OFFICE = Schedule(
    time_zone=BERLIN,
    weekly=(WeeklyWindow(days=(Weekday.MONDAY, Weekday.FRIDAY), start="08:00", end="18:00"),),
)


def at(text: str, zone: str = BERLIN) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


@pytest.mark.parametrize(
    ("moment", "speaks"),
    [
        ("2026-01-19T07:59", False),
        ("2026-01-19T08:00", True),
        ("2026-07-13T08:00", True),
        ("2026-07-13T17:59:59", True),
        ("2026-07-13T18:00", False),
        ("2026-07-14T12:00", False),
    ],
)
def test_office_hours_follow_the_zones_clocks(moment: str, speaks: bool) -> None:
    assert schedules.speaks(schedules.compiled(OFFICE), at(moment)) is speaks


def test_a_window_that_passes_midnight_belongs_to_the_day_it_begins_on() -> None:
    night = Schedule(weekly=(WeeklyWindow(days=(Weekday.SUNDAY,), start="22:00", end="06:00"),))
    compiled = schedules.compiled(night)
    assert schedules.speaks(compiled, at("2026-11-29T23:00", "UTC"))  # a Sunday
    assert schedules.speaks(compiled, at("2026-11-30T05:59", "UTC"))
    assert not schedules.speaks(compiled, at("2026-11-30T06:00", "UTC"))
    assert not schedules.speaks(compiled, at("2026-11-29T05:00", "UTC"))


def test_the_next_edge_is_when_the_office_closes() -> None:
    assert schedules.edge(schedules.compiled(OFFICE), at("2026-07-13T12:34:56")) == at("2026-07-13T18:00")


def test_offsets_are_the_zones_own_to_the_second() -> None:
    compiled = schedules.compiled(OFFICE)
    for since, seconds in compiled.offsets[1:]:
        for moment in (since - 1, since):
            shown = datetime.fromtimestamp(moment, ZoneInfo(BERLIN)).utcoffset()
            assert shown is not None
            assert (moment == since) == (shown.total_seconds() == seconds)


def test_moments_without_windows_need_no_zone() -> None:
    until = Schedule(time_zone="Nowhere/Atall", not_after=datetime(2026, 12, 1, tzinfo=UTC))
    assert schedules.speaks(schedules.compiled(until), at("2026-11-30T12:00"))
    assert not schedules.speaks(schedules.compiled(until), at("2026-12-01T02:00"))


def test_a_zone_that_nobody_knows_cannot_be_compiled() -> None:
    with pytest.raises(ValueError, match="Nowhere/Atall"):
        schedules.compiled(Schedule(time_zone="Nowhere/Atall", weekly=(WeeklyWindow(),)))
