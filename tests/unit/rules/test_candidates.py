"""Whom to measure: a bounded few, near by map, and not all in one place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drtp.rules.candidates import ServerPlace, nearby
from drtp.rules.placement import Position

LONDON = Position(51.5, -0.1)


def server(name: str, domain: str = "", position: Position | None = None) -> ServerPlace:
    return ServerPlace(f"uid-{name}", 1, name, "192.0.2.1", 443, domain or name, position)


places = st.lists(
    st.builds(
        server,
        st.sampled_from([f"s{index}" for index in range(30)]),
        st.sampled_from(["one", "two", "three"]),
        st.none() | st.builds(Position, st.floats(-90, 90), st.floats(-180, 180)),
    ),
    unique_by=lambda one: one.name,
    max_size=30,
)
origins = st.none() | st.builds(Position, st.floats(-90, 90), st.floats(-180, 180))


def names(found: tuple[ServerPlace, ...]) -> list[str]:
    return [one.name for one in found]


def test_the_nearest_of_each_domain_comes_before_the_second_nearest() -> None:
    found = nearby(
        [
            server("par-1", "par", Position(48.8, 2.3)),
            server("par-2", "par", Position(48.9, 2.4)),
            server("par-3", "par", Position(49.0, 2.4)),
            server("nrt-1", "nrt", Position(35.7, 139.7)),
        ],
        LONDON,
        3,
    )
    assert names(found) == ["nrt-1", "par-2", "par-3"]


def test_whoever_has_no_position_comes_last() -> None:
    assert names(nearby([server("a"), server("b", position=LONDON)], LONDON, 1)) == ["b"]


@given(places, origins, st.integers(0, 20))
def test_it_is_bounded_complete_and_does_not_depend_on_the_order(
    servers: list[ServerPlace], origin: Position | None, most: int
) -> None:
    found = nearby(servers, origin, most)
    assert len(found) == min(most, len(servers))
    assert names(found) == sorted(names(found))
    assert nearby(list(reversed(servers)), origin, most) == found


@given(places, origins)
def test_every_failure_domain_is_there_while_there_is_room(servers: list[ServerPlace], origin: Position | None) -> None:
    domains = {one.failure_domain for one in servers}
    assert {one.failure_domain for one in nearby(servers, origin, 3)} == domains
