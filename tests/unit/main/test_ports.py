"""Ports of an embedded instance."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from drtp.kit.errors import Terminal
from drtp.main.embedded.ports import PREFERRED, settle

ANY = dict.fromkeys(PREFERRED, 0)


def test_ports_are_all_different_and_the_same_at_the_next_start(tmp_path: Path) -> None:
    first = settle(tmp_path / "ports.json", ANY)
    assert set(first) == set(PREFERRED)
    assert len(set(first.values())) == len(first)
    assert settle(tmp_path / "ports.json", ANY) == first
    assert settle(tmp_path / "ports.json", {}) == first


def test_two_instances_get_different_ports_while_the_first_one_listens(tmp_path: Path) -> None:
    first = settle(tmp_path / "one.json", ANY)
    listeners = [socket.create_server(("127.0.0.1", port)) for port in first.values()]
    try:
        second = settle(tmp_path / "two.json", ANY)
    finally:
        for listener in listeners:
            listener.close()
    assert not set(first.values()) & set(second.values())


def test_a_port_that_was_asked_for_and_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Terminal, match=f"Port {port}"):
            settle(tmp_path / "ports.json", {**ANY, "http": port})


def test_usual_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        try:
            busy = socket.create_server(("127.0.0.1", PREFERRED["http"]))
        except OSError:
            busy = taken  # somebody else has it: the same case
        with busy:
            assert settle(tmp_path / "ports.json", {})["http"] != PREFERRED["http"]
