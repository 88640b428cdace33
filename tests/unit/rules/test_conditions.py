"""Conditions: the transition time moves with the status only, and Unknown unsays nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from drtp.api.reasons import Aspect, Reason
from drtp.rules.conditions import merge, no, unknown, yes

THEN = datetime(2030, 1, 1, tzinfo=UTC)
NOW = THEN + timedelta(hours=1)


def test_the_transition_time_stays_while_the_status_does() -> None:
    before = merge((), [yes(Aspect.READY, Reason.READY)], 1, THEN)
    (after,) = merge(before, [yes(Aspect.READY, Reason.DEGRADED, "one of two")], 2, NOW)
    assert (after.last_transition_time, after.reason, after.observed_generation) == (THEN, "Degraded", 2)


def test_the_transition_time_moves_with_the_status() -> None:
    before = merge((), [yes(Aspect.READY, Reason.READY)], 1, THEN)
    (after,) = merge(before, [no(Aspect.READY, Reason.LEASE_EXPIRED)], 1, NOW)
    assert after.last_transition_time == NOW


def test_unknown_keeps_what_was_concluded() -> None:
    before = merge((), [no(Aspect.READY, Reason.LEASE_EXPIRED, "why")], 1, THEN)
    assert merge(before, [unknown(Aspect.READY, Reason.PENDING)], 2, NOW) == before


def test_unknown_is_said_where_nothing_was() -> None:
    (found,) = merge((), [unknown(Aspect.READY, Reason.PENDING)], 1, THEN)
    assert found.status.value == "Unknown"
