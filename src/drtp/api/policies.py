"""The parts of a DRTPAccessPolicy: where, who, when and carried by which POP, in the words that people write."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated

from msgspec import Meta

from drtp.api.fields import LIST_SET, DnsLabel
from drtp.api.meta import Model

Country = Annotated[str, Meta(min_length=2, max_length=2, pattern=r"^[A-Z]{2}$")]
"""ISO 3166-1 alpha-2."""

Region = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""The operator's own word for a part of the world."""

Organization = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")]
"""As the namespaces' label says it."""

Principal = Annotated[
    str, Meta(max_length=320, pattern=r"^(user:[^\s]+|app:[-a-z0-9]+/[-a-z0-9.]+|org:[A-Za-z0-9][-A-Za-z0-9_.]*)$")
]
"""`user:<name>`, `app:<namespace>/<name>` or `org:<name>`."""

TimeOfDay = Annotated[str, Meta(min_length=5, max_length=5, pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")]


class PolicyMode(Enum):
    """Whether a policy refuses, or only counts what it would refuse."""

    ENFORCE = "Enforce"
    DRY_RUN = "DryRun"


class Encryption(Enum):
    """Between whom a visitor's bytes are encrypted, at least."""

    PER_HOP = "PerHop"
    END_TO_END = "EndToEnd"


class Weekday(Enum):
    """A day in the schedule's own time zone."""

    MONDAY = "Mon"
    TUESDAY = "Tue"
    WEDNESDAY = "Wed"
    THURSDAY = "Thu"
    FRIDAY = "Fri"
    SATURDAY = "Sat"
    SUNDAY = "Sun"


class WeeklyWindow(Model, frozen=True):
    """From `start` until `end` is reached, on each of `days`. An `end` that is not later is on the next day."""

    days: Annotated[
        tuple[Weekday, ...],
        Meta(max_length=7, description="Days it begins on; every day where empty.", extra_json_schema=LIST_SET),
    ] = ()
    start: Annotated[TimeOfDay, Meta(description="Such as 08:00.")] = "00:00"
    end: Annotated[TimeOfDay, Meta(description="Such as 18:00; the minute itself is outside.")] = "24:00"


class Schedule(Model, frozen=True):
    """All parts must hold: between the two moments, and in one of the week's windows where any is given."""

    time_zone: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=63,
            pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$",
            description="Of the weekly windows, as in the IANA database.",
        ),
    ] = "UTC"
    not_before: Annotated[datetime | None, Meta(description="The first moment.")] = None
    not_after: Annotated[datetime | None, Meta(description="The first moment that is too late.")] = None
    weekly: Annotated[
        tuple[WeeklyWindow, ...], Meta(max_length=16, description="Windows of the week; always where empty.")
    ] = ()


class Through(Model, frozen=True):
    """Which POPs carry the bytes. Every part that is given must hold, any value of a part will do."""

    pops: Annotated[tuple[DnsLabel, ...], Meta(max_length=64, extra_json_schema=LIST_SET)] = ()
    regions: Annotated[tuple[Region, ...], Meta(max_length=64, extra_json_schema=LIST_SET)] = ()
    countries: Annotated[tuple[Country, ...], Meta(max_length=256, extra_json_schema=LIST_SET)] = ()


Cap = Annotated[int, Meta(ge=1, le=1_000_000)]

ByteRate = Annotated[int, Meta(ge=1_000, le=1_000_000_000_000, extra_json_schema={"format": "int64"})]
"""Less than the lowest would let nothing through in the time that anybody waits."""


class PolicyLimits(Model, frozen=True):
    """Caps on what visitors of one connection may do at one tunnel server."""

    connections: Annotated[Cap | None, Meta(description="Visitors' connections at once.")] = None
    connections_per_second: Annotated[Cap | None, Meta(description="New ones; a burst of two seconds' worth.")] = None
    bytes_per_second: Annotated[
        ByteRate | None,
        Meta(description="Of all its visitors and callers together, both ways; a burst of one second's worth."),
    ] = None
