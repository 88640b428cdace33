"""Placement: near, healthy, diverse, and as few moves as possible."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drtp.api.drtp import Location, Role
from drtp.rules.placement import Candidate, Position, assign, distance_km, place, position_of

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
