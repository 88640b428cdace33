"""Endpoint ports: durable before use, the same after a restart, rested before another connection gets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtp.kit.clock import FakeClock
from drtp.kit.errors import Invalid, Terminal
from drtp.pop.ports import REST_MS, Place, PortBook
from drtp.pop.settings import PopSettings

HERE = ("127.0.0.1",)


def book(tmp_path: Path, clock: FakeClock, addresses: tuple[str, ...] = HERE, last: int = 20003) -> PortBook:
    return PortBook(tmp_path / "ports.json", addresses, (20000, last), clock)


def test_a_connection_keeps_its_port_across_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    first = book(tmp_path, clock).settle(["c1", "c2"])
    assert book(tmp_path, clock).settle(["c2", "c1"]) == first
    assert first == {"c1": Place("127.0.0.1", 20000), "c2": Place("127.0.0.1", 20001)}


def test_the_file_holds_the_assignment_when_settle_returns(tmp_path: Path) -> None:
    book(tmp_path, FakeClock()).settle(["c1"])
    assert b'"c1":["127.0.0.1",20000]' in (tmp_path / "ports.json").read_bytes()
    assert (tmp_path / "ports.json").stat().st_mode & 0o777 == 0o600


async def test_a_freed_port_rests_before_another_connection_gets_it(tmp_path: Path) -> None:
    clock = FakeClock()
    ports = book(tmp_path, clock, last=20000)
    ports.settle(["c1"])
    assert ports.settle(["c2"]) == {"c2": None}
    await clock.advance(REST_MS / 1000 + 1)
    assert ports.settle(["c2"]) == {"c2": Place("127.0.0.1", 20000)}


def test_a_connection_that_comes_back_gets_its_resting_port_at_once(tmp_path: Path) -> None:
    ports = book(tmp_path, FakeClock())
    before = ports.settle(["c1"])
    ports.settle(["c2"])
    assert ports.settle(["c1", "c2"])["c1"] == before["c1"]


def test_the_next_address_is_used_when_one_runs_out(tmp_path: Path) -> None:
    ports = book(tmp_path, FakeClock(), ("127.0.0.1", "::1"), last=20001)
    places = ports.settle(["c1", "c2", "c3", "c4", "c5"])
    assert places["c3"] == Place("::1", 20000)
    assert places["c5"] is None


def test_a_port_that_a_stranger_holds_is_replaced_and_not_offered_again(tmp_path: Path) -> None:
    ports = book(tmp_path, FakeClock(), last=20001)
    ports.settle(["c1"])
    assert ports.replace("c1") == Place("127.0.0.1", 20001)
    assert ports.replace("c1") is None


def test_an_assignment_outside_a_changed_range_is_made_anew(tmp_path: Path) -> None:
    book(tmp_path, FakeClock()).settle(["c1"])
    moved = PortBook(tmp_path / "ports.json", HERE, (21000, 21003), FakeClock())
    place = moved.settle(["c1"])["c1"]
    assert place is not None
    assert 21000 <= place.port <= 21003


def test_a_damaged_file_stops_the_pop(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{")
    (tmp_path / "ports.json").chmod(0o600)
    with pytest.raises(Terminal, match="DRTP-4021"):
        book(tmp_path, FakeClock())


@pytest.mark.parametrize(("first", "last"), [(20000, 40000), (80, 90), (300, 200)])
def test_the_ephemeral_range_is_refused(tmp_path: Path, first: int, last: int) -> None:
    with pytest.raises(Invalid, match="DRTP-4022"):
        PopSettings(
            directory=tmp_path,
            name="w.i",
            pop="p",
            latitude="0",
            longitude="0",
            server_ip="127.0.0.1",
            endpoint_ports=(first, last),
        )


def test_a_directory_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="DRTP-5020"):
        PopSettings(
            directory=tmp_path,
            name="w.i",
            pop="p",
            latitude="0",
            longitude="0",
            server_ip="127.0.0.1",
            endpoint_sockets=tmp_path / ("d" * 60),
        )


# Every step is synced to a disk whose speed is not the subject here.
@settings(deadline=None, max_examples=50)
@given(st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=6), max_size=12))
def test_no_two_connections_ever_share_a_port(tmp_path_factory: pytest.TempPathFactory, steps: list[set[str]]) -> None:
    ports = book(tmp_path_factory.mktemp("ports"), FakeClock(), last=20007)
    owners: dict[Place, str] = {}
    for wanted in steps:
        places = {name: place for name, place in ports.settle(wanted).items() if place is not None}
        assert len(set(places.values())) == len(places)
        for name, place in places.items():
            assert owners.setdefault(place, name) == name, "handed on without rest"
