"""When a rule speaks: people's words compiled into minutes of a week and a table of offsets, and read from there.

The time zone's database is read where policies are compiled, once. Enforcement points, in both languages, read the
compiled form alone, so that they cannot disagree about a zone. A moment for which the table has no offset is unknown.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from drtp.api.policies import Schedule, Weekday, WeeklyWindow
from drtp.api.snapshots import AccessSchedule

DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES
_MONDAY_OF_EPOCH = 3 * DAY_MINUTES
"""1 January 1970 was a Thursday: so many minutes after a Monday's beginning."""

_FIRST = datetime(2025, 1, 1, tzinfo=UTC)
_END = datetime(2046, 1, 1, tzinfo=UTC)
"""What a table of offsets covers: about forty changes of a zone with daylight saving time, some 600 bytes."""

_SECONDS_MAX = 1 << 53
_DAYS = tuple(Weekday)


def compiled(schedule: Schedule) -> AccessSchedule:
    """The form that enforcement points read. Raises: ValueError for a time zone that nobody knows."""
    windows = tuple(sorted({part for window in schedule.weekly for part in _parts(window)}))
    offsets = _offsets(schedule.time_zone) if windows else ()
    return AccessSchedule(
        not_before=_seconds(schedule.not_before),
        not_after=_seconds(schedule.not_after),
        windows=windows,
        offsets=offsets,
        offsets_end=int(_END.timestamp()) if windows else 0,
    )


def _seconds(moment: datetime | None) -> int | None:
    """Unix seconds; a moment without a zone is UTC's."""
    if moment is None:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _parts(window: WeeklyWindow) -> Iterator[tuple[int, int]]:
    """A window's minutes of the week, in two parts where it passes the end of Sunday."""
    start, end = _minutes(window.start), _minutes(window.end)
    length = end - start if end > start else end - start + DAY_MINUTES
    for day in window.days or _DAYS:
        begin = _DAYS.index(day) * DAY_MINUTES + start
        yield begin, min(begin + length, WEEK_MINUTES)
        if begin + length > WEEK_MINUTES:
            yield 0, begin + length - WEEK_MINUTES


def _minutes(time_of_day: str) -> int:
    return int(time_of_day[:2]) * 60 + int(time_of_day[3:])


@lru_cache(maxsize=256)  # by day over twenty years: a few milliseconds
def _offsets(time_zone: str) -> tuple[tuple[int, int], ...]:
    """Every change of a zone's offset. Raises: ValueError."""
    try:
        zone = ZoneInfo(time_zone)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"nobody knows the time zone {time_zone!r}") from error
    found = [(int(_FIRST.timestamp()), _offset(_FIRST, zone))]
    at = _FIRST
    while at < _END:
        following = at + timedelta(days=1)
        if _offset(following, zone) != found[-1][1]:
            found.append((_change(at, following, zone), _offset(following, zone)))
        at = following
    return tuple(found)


def _offset(at: datetime, zone: ZoneInfo) -> int:
    return int((at.astimezone(zone).utcoffset() or timedelta()).total_seconds())


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> int:
    """The first second with the later offset."""
    low, high, was = int(before.timestamp()), int(after.timestamp()), _offset(before, zone)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(datetime.fromtimestamp(middle, UTC), zone) == was:
            low = middle
        else:
            high = middle
    return high


# ---- reading it ------------------------------------------------------------------------------------------------------


def is_readable(schedule: AccessSchedule) -> bool:
    """Whether it means something: windows inside the week, offsets in order and within a day."""
    moments = [one for one in (schedule.not_before, schedule.not_after, schedule.offsets_end) if one is not None]
    since = [one for one, _ in schedule.offsets]
    return (
        all(abs(one) <= _SECONDS_MAX for one in (*moments, *since))
        and all(0 <= begin < end <= WEEK_MINUTES for begin, end in schedule.windows)
        and all(earlier < later for earlier, later in itertools.pairwise(since))
        and all(abs(seconds) < DAY_MINUTES * 60 for _, seconds in schedule.offsets)
    )


def speaks(schedule: AccessSchedule, now: int) -> bool | None:
    """Whether it speaks at `now`, in Unix seconds. None: nobody knows what the zone's clocks show then."""
    if schedule.not_before is not None and now < schedule.not_before:
        return False
    if schedule.not_after is not None and now >= schedule.not_after:
        return False
    if not schedule.windows:
        return True
    offset = _offset_at(schedule, now)
    if offset is None:
        return None
    minute = _minute_of_week(now + offset)
    return any(begin <= minute < end for begin, end in schedule.windows)


def edge(schedule: AccessSchedule, now: int) -> int | None:
    """The next moment after `now` at which the answer may be another. None: it never is."""
    moments = [one for one in (schedule.not_before, schedule.not_after) if one is not None]
    if schedule.windows:
        moments += [schedule.offsets_end, *(since for since, _ in schedule.offsets)]
        offset = _offset_at(schedule, now)
        if offset is not None:
            minute = _minute_of_week(now + offset)
            begun = now - (now + offset) % 60
            bounds = {bound for window in schedule.windows for bound in window}
            moments += [begun + 60 * ((bound - minute - 1) % WEEK_MINUTES + 1) for bound in bounds]
    return min((one for one in moments if one > now), default=None)


def _offset_at(schedule: AccessSchedule, now: int) -> int | None:
    if now >= schedule.offsets_end:
        return None
    return next((seconds for since, seconds in reversed(schedule.offsets) if since <= now), None)


def _minute_of_week(local: int) -> int:
    return (local // 60 + _MONDAY_OF_EPOCH) % WEEK_MINUTES
