"""Figures: said when they have moved, written seldom, and never lost by silence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from drtp.api.drtp import (
    ClientStatus,
    DRTPConnectionStatus,
    LocalServiceStatus,
    LocalState,
    ProgrammingStatus,
    Role,
    ServerStatus,
)
from drtp.api.meta import LocalRef
from drtp.rules.measures import EVERY, MILLIS_MAX, STEP_LOSS, refreshed, settled

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def status(round_trip: int | None, *, connected: bool = True, failures: int | None = 0) -> DRTPConnectionStatus:
    server = ServerStatus(
        role=Role.PRIMARY,
        server_ref=LocalRef(name="nyc"),
        programming_status=ProgrammingStatus.PROGRAMMED,
        client_status=ClientStatus.CONNECTED if connected else ClientStatus.DISCONNECTED,
        round_trip_millis=round_trip,
    )
    local = LocalServiceStatus(state=LocalState.REACHABLE, connect_millis=1, failures=failures)
    return DRTPConnectionStatus(servers=(server,), local=local)


def test_a_figure_is_said_again_when_it_moved_by_a_fifth_and_a_step() -> None:
    assert settled(None, 12.345) == 12.35
    assert settled(100.0, 119.0) == 100.0
    assert settled(100.0, 120.0) == 120.0
    assert settled(1.0, 1.9) == 1.0
    assert settled(0.0, 0.009, STEP_LOSS) == 0.0
    assert settled(0.0, 0.0123, STEP_LOSS) == 0.012
    assert settled(5.0, 0.0) == 0.0
    assert settled(5.0, None) is None


def test_what_a_stopped_process_measured_fits_a_report() -> None:
    assert settled(None, 1e12) == MILLIS_MAX


def test_a_figure_that_appears_is_written_at_once() -> None:
    before = refreshed(DRTPConnectionStatus(), status(None), NOW).status
    later = refreshed(before, status(40), NOW + timedelta(seconds=1))
    assert later.status.servers[0].round_trip_millis == 40
    assert later.status.measured_time == NOW + timedelta(seconds=1)


def test_a_moved_figure_waits_for_its_turn() -> None:
    before = refreshed(DRTPConnectionStatus(), status(40), NOW).status
    early = refreshed(before, status(80), NOW + timedelta(seconds=20))
    assert (early.status, early.look_again_s) == (before, 40)
    due = refreshed(before, status(80), NOW + EVERY)
    assert due.status.servers[0].round_trip_millis == 80


def test_a_figure_that_moves_a_little_is_never_written() -> None:
    before = refreshed(DRTPConnectionStatus(), status(40), NOW).status
    assert refreshed(before, status(47), NOW + timedelta(hours=1)) == (before, None)


def test_a_transition_takes_the_figures_along() -> None:
    before = refreshed(DRTPConnectionStatus(), status(40), NOW).status
    after = refreshed(before, status(47, connected=False), NOW + timedelta(seconds=1)).status
    assert after.servers[0].round_trip_millis == 47


steps = st.lists(
    st.tuples(st.floats(0.1, 30), st.none() | st.integers(0, 2000), st.none() | st.integers(0, 100)), max_size=60
)


@given(steps)
def test_figures_alone_cost_a_write_a_minute_beside_their_first_appearance(
    course: list[tuple[float, int | None, int | None]],
) -> None:
    held, now, writes = refreshed(DRTPConnectionStatus(), status(50), NOW).status, NOW, list[datetime]()
    for seconds, round_trip, failures in course:
        now += timedelta(seconds=seconds)
        # The controller leaves what was known where nothing is said.
        known = held.local.failures if held.local else None
        fresh = status(
            held.servers[0].round_trip_millis if round_trip is None else round_trip,
            failures=known if failures is None else failures,
        )
        found = refreshed(held, fresh, now)
        if found.status != held:
            writes.append(now)
        held = found.status
    assert all(then - before >= EVERY - timedelta(seconds=1) for before, then in pairwise(writes))


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 3600))
def test_the_same_figures_are_never_written_twice(first: int, second: int, seconds: int) -> None:
    held = refreshed(DRTPConnectionStatus(), status(first), NOW).status
    later = refreshed(held, status(second), NOW + timedelta(seconds=seconds)).status
    again = refreshed(later, msgspec.structs.replace(status(second)), NOW + timedelta(seconds=seconds + 3600))
    assert refreshed(again.status, status(second), NOW + timedelta(days=1)).status == again.status
