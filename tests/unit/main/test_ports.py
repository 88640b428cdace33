"""Ports of an embedded instance."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from drtp.kit.errors import Terminal
from drtp.main.embedded.ports import PREFERRED, Claims, settle

ANY = dict.fromkeys(PREFERRED, 0)


def settled(path: Path, asked: Mapping[str, int | None]) -> dict[str, int]:
    """What an instance chooses that has ended since."""
    with Claims() as claims:
        return settle(path, asked, claims)


def test_ports_are_all_different_and_the_same_at_the_next_start(tmp_path: Path) -> None:
    first = settled(tmp_path / "ports.json", ANY)
    assert set(first) == set(PREFERRED)
    assert len(set(first.values())) == len(first)
    assert settled(tmp_path / "ports.json", ANY) == first
    assert settled(tmp_path / "ports.json", {}) == first


def test_two_instances_get_different_ports_while_the_first_one_listens(tmp_path: Path) -> None:
    first = settled(tmp_path / "one.json", ANY)
    listeners = [socket.create_server(("127.0.0.1", port)) for port in first.values()]
    try:
        second = settled(tmp_path / "two.json", ANY)
    finally:
        for listener in listeners:
            listener.close()
    assert not set(first.values()) & set(second.values())


def test_a_port_that_was_asked_for_and_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Terminal, match=f"Port {port}"):
            settled(tmp_path / "ports.json", {**ANY, "http": port})


def test_usual_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        try:
            busy = socket.create_server(("127.0.0.1", PREFERRED["http"]))
        except OSError:
            busy = taken  # somebody else has it: the same case
        with busy:
            assert settled(tmp_path / "ports.json", {})["http"] != PREFERRED["http"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")
def test_instances_that_start_together_choose_different_ports_before_either_listens(tmp_path: Path) -> None:
    with Claims() as first, Claims() as second:
        one = settle(tmp_path / "one.json", {}, first)
        two = settle(tmp_path / "two.json", {}, second)
        assert not set(one.values()) & set(two.values())
        with pytest.raises(Terminal, match=f"Port {one['http']} "), Claims() as third:
            settle(tmp_path / "three.json", {"http": one["http"]}, third)
    with Claims() as again:
        assert settle(tmp_path / "one.json", {}, again) == one
