"""Placement: near, healthy, diverse, and as few moves as possible."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drtp.api.drtp import Location, Role
from drtp.rules.placement import (
    GAIN_MS,
    GAIN_SHARE,
    Candidate,
    Position,
    assign,
    distance_km,
    improve,
    place,
    position_of,
)

NEW_YORK = Position(40.71, -74.01)
LONDON = Position(51.51, -0.13)
TOKYO = Position(35.68, 139.69)


def candidate(name: str, domain: str = "", position: Position | None = None, **more: object) -> Candidate:
    made = Candidate(name, domain or name, accepts=True, keeps=True, position=position)
    return made._replace(**more)


candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from([f"s{index}" for index in range(8)]),
        failure_domain=st.sampled_from(["one", "two", "three"]),
        accepts=st.booleans(),
        keeps=st.booleans(),
        position=st.none() | st.builds(Position, st.floats(-90, 90), st.floats(-180, 180)),
        round_trip_ms=st.none() | st.floats(0, 500),
        load=st.floats(0, 10),
    ),
    unique_by=lambda one: one.name,
    max_size=8,
)
present = st.lists(st.sampled_from([f"s{index}" for index in range(8)]), unique=True, max_size=3)


def test_distance_is_the_great_circle() -> None:
    assert abs(distance_km(NEW_YORK, LONDON) - 5570) < 30
    assert distance_km(TOKYO, TOKYO) == 0


def test_the_nearest_comes_first_where_nothing_is_measured() -> None:
    servers = [candidate("tokyo", position=TOKYO), candidate("london", position=LONDON), candidate("unknown")]
    assert place(servers, NEW_YORK, 3).names == ("london", "tokyo", "unknown")


def test_a_measured_round_trip_beats_distance() -> None:
    servers = [candidate("near", position=NEW_YORK), candidate("far", position=TOKYO, round_trip_ms=180.0)]
    assert place(servers, NEW_YORK, 1).names == ("far",)


def test_coordinates_out_of_range_are_no_position() -> None:
    assert position_of(Location(latitude="91", longitude="0")) is None
    assert position_of(Location(latitude="north", longitude="0")) is None
    assert position_of(Location(latitude="-33.8", longitude="151.2")) == Position(-33.8, 151.2)


@given(candidates, st.integers(1, 3), present)
def test_never_two_servers_in_one_failure_domain(servers: list[Candidate], wanted: int, held: list[str]) -> None:
    """cloudflared#747, #1354: all connections in one site are one connection."""
    chosen = place(servers, None, wanted, held).names
    domains = [one.failure_domain for one in servers if one.name in chosen]
    assert len(domains) == len(set(domains)) == len(chosen) <= wanted


@given(candidates, st.integers(1, 3), present)
def test_a_choice_is_stable_once_made(servers: list[Candidate], wanted: int, held: list[str]) -> None:
    first = place(servers, NEW_YORK, wanted, held)
    steady = [one._replace(keeps=one.keeps or one.accepts) for one in servers]
    again = place(steady, LONDON, wanted, first.names)
    assert again.names[: len(first.names)] == first.names


@given(candidates, st.integers(1, 3), st.permutations(range(8)))
def test_the_order_of_servers_does_not_matter(servers: list[Candidate], wanted: int, order: list[int]) -> None:
    shuffled = [servers[index] for index in order if index < len(servers)]
    assert place(servers, LONDON, wanted) == place(shuffled, LONDON, wanted)


@given(candidates, st.integers(1, 3), present)
def test_only_servers_that_may_are_chosen(servers: list[Candidate], wanted: int, held: list[str]) -> None:
    chosen = place(servers, None, wanted, held).names
    good = {one.name for one in servers if one.accepts or (one.keeps and one.name in held)}
    assert set(chosen) <= good


def test_a_dead_server_stays_assigned_while_there_is_no_other() -> None:
    servers = [candidate("a", accepts=False, keeps=False), candidate("b")]
    found = place(servers, None, 2, ("a", "b"))
    assert (found.names, found.leaving, found.degraded) == (("b",), ("a",), True)
    assert [one.server_ref.name for one in assign(found, frozenset({"b"}))] == ["b", "a"]


def test_a_leaving_server_goes_once_the_others_carry() -> None:
    servers = [candidate("a", accepts=False, keeps=False), candidate("b"), candidate("c")]
    found = place(servers, None, 2, ("a", "b"))
    assert [one.server_ref.name for one in assign(found, frozenset({"b"}))] == ["b", "c", "a"]
    settled = assign(found, frozenset({"b", "c"}))
    assert [(one.role, one.server_ref.name) for one in settled] == [(Role.PRIMARY, "b"), (Role.SECONDARY, "c")]


def test_a_leaving_server_stays_while_it_has_visitors_and_is_said_to_leave() -> None:
    servers = [candidate("a", accepts=False, keeps=False), candidate("b"), candidate("c")]
    found = place(servers, None, 2, ("a", "b"))
    busy = assign(found, frozenset({"b", "c"}), frozenset({"a"}))
    assert [(one.role, one.server_ref.name) for one in busy] == [
        (Role.PRIMARY, "b"),
        (Role.SECONDARY, "c"),
        (Role.LEAVING, "a"),
    ]


def test_three_servers_and_one_that_leaves_have_room() -> None:
    servers = [candidate("a", accepts=False, keeps=False), *(candidate(name) for name in "bcd")]
    found = place(servers, None, 3, ("a", "b", "c"))
    assert [one.server_ref.name for one in assign(found, frozenset())] == ["b", "c", "d", "a"]


@given(candidates, st.integers(1, 3), present, st.sets(st.sampled_from([f"s{index}" for index in range(8)])))
def test_an_assignment_names_each_server_and_each_role_once_and_one_primary(
    servers: list[Candidate], wanted: int, held: list[str], busy: set[str]
) -> None:
    found = place(servers, None, wanted, held)
    given_ = assign(found, frozenset(found.names), frozenset(busy))
    assert len({one.role for one in given_}) == len({one.server_ref.name for one in given_}) == len(given_)
    assert [one.role for one in given_][:1] in ([], [Role.PRIMARY])


# ---- by measure ------------------------------------------------------------------------------------------------------


def measured(name: str, round_trip_ms: float | None, domain: str = "", **more: object) -> Candidate:
    return candidate(name, domain)._replace(round_trip_ms=round_trip_ms, **more)


def rest(servers: list[Candidate], placed: tuple[str, ...]) -> tuple[str, ...]:
    """Where it comes to rest under the same measures."""
    for _ in range(len(servers) * len(servers) + 2):
        better = improve(servers, placed)
        if better == placed:
            return placed
        placed = better
    raise AssertionError("it never rests")


def test_a_server_that_is_materially_nearer_takes_the_place_and_the_front() -> None:
    servers = [measured("lon", 80), measured("fra", 90), measured("nyc", 9)]
    assert improve(servers, ("lon", "fra")) == ("nyc", "lon")


def test_one_server_is_exchanged_at_a_time() -> None:
    servers = [measured("lon", 80), measured("fra", 90), measured("nyc", 9), measured("ewr", 11)]
    first = improve(servers, ("lon", "fra"))
    assert len(set(first) & {"lon", "fra"}) == 1
    assert set(rest(servers, ("lon", "fra"))) == {"nyc", "ewr"}


def test_a_gain_that_is_small_in_milliseconds_or_in_share_moves_nobody() -> None:
    assert improve([measured("a", 6), measured("b", 2), measured("c", 2)], ("a", "b")) == ("a", "b")
    assert improve([measured("a", 200), measured("b", 200), measured("c", 165)], ("a", "b")) == ("a", "b")
    assert improve([measured("a", 200), measured("b", 200), measured("c", 160)], ("a", "b")) == ("c", "b")


def test_who_is_not_measured_is_neither_left_nor_taken() -> None:
    servers = [measured("a", None), measured("b", 50), measured("c", 5), measured("d", None)]
    assert improve(servers, ("a", "b")) == ("a", "c")
    assert improve(servers, ("a", "d")) == ("a", "d")
    assert improve([measured("b", 50)], ("a", "b")) == ("a", "b")


def test_a_nearer_server_of_the_other_ones_domain_is_no_gain() -> None:
    servers = [measured("a1", 10, "a"), measured("b1", 90, "b"), measured("a2", 9, "a"), measured("b2", 40, "b")]
    assert improve(servers, ("a1", "b1")) == ("a1", "b2")


def test_a_full_or_draining_server_is_not_moved_to() -> None:
    servers = [measured("a", 90), measured("b", 90), measured("c", 5, accepts=False)]
    assert improve(servers, ("a", "b")) == ("a", "b")


def stand(servers: list[Candidate], wanted: int) -> tuple[str, ...]:
    return place(servers, None, wanted).names


@given(candidates, st.integers(1, 3))
def test_the_same_measures_come_to_rest_and_stay(servers: list[Candidate], wanted: int) -> None:
    steady = [one._replace(keeps=one.keeps or one.accepts) for one in servers]
    placed = rest(steady, stand(steady, wanted))
    assert place(steady, None, wanted, placed).names == placed
    assert improve(list(reversed(steady)), placed) == placed


@given(candidates, st.integers(1, 3))
def test_a_move_by_measure_keeps_the_count_and_the_domains_apart(servers: list[Candidate], wanted: int) -> None:
    before = stand(servers, wanted)
    after = improve(servers, before)
    domains = [one.failure_domain for one in servers if one.name in after]
    assert len(after) == len(before) == len(set(domains))
    assert len(set(after) - set(before)) <= 1
    good = {one.name for one in servers if one.accepts}
    assert set(after) - set(before) <= good


@given(candidates, st.integers(1, 3))
def test_losing_all_measures_moves_nobody(servers: list[Candidate], wanted: int) -> None:
    """A restarted control plane knows none until its agents are back."""
    placed = rest(servers, stand(servers, wanted))
    assert improve([one._replace(round_trip_ms=None) for one in servers], placed) == placed


truths = st.lists(st.floats(1, 500), min_size=2, max_size=8)
dances = st.lists(st.lists(st.floats(0.9, 1.1), min_size=8, max_size=8), min_size=1, max_size=12)


@given(truths, dances, st.integers(1, 3))
def test_measures_that_dance_by_a_tenth_never_bring_a_server_back(
    truth: list[float], dance: list[list[float]], wanted: int
) -> None:
    servers = [measured(f"s{index}", millis) for index, millis in enumerate(truth)]
    placed = stand(servers, wanted)
    left: set[str] = set()
    for turn in dance:
        now = [one._replace(round_trip_ms=(one.round_trip_ms or 0) * turn[index]) for index, one in enumerate(servers)]
        after = improve(now, placed)
        assert not set(after) & left, "it flaps"
        left |= set(placed) - set(after)
        placed = after


@given(st.floats(1, 500), st.lists(st.floats(0.9, 1.1), min_size=2, max_size=8), st.integers(1, 3))
def test_servers_about_equally_far_are_never_exchanged(base: float, factors: list[float], wanted: int) -> None:
    servers = [measured(f"s{index}", base * factor) for index, factor in enumerate(factors)]
    placed = stand(servers, wanted)
    assert improve(servers, placed) == placed


def test_the_constants_keep_the_promise_about_a_dance_of_a_tenth() -> None:
    assert (1 - GAIN_SHARE) * 1.1 / 0.9 < 1
    assert GAIN_MS > 0
