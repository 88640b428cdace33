"""The RouteTable as the POP reads it."""

from __future__ import annotations

from pathlib import Path

from drtp.api.drtp import Role
from drtp.api.snapshots import EndpointMode, TrustEntry
from drtp.pop.ports import Place
from drtp.pop.table import port_users, read_table
from edge_world import plan_server, route, snapshot

SOCKETS = Path("/run/drtp/endpoints")


def test_each_route_gets_its_own_endpoint() -> None:
    table = read_table(
        snapshot({"route/c1": route("c1"), "route/c2": route("c2", mode=EndpointMode.UNIX)}),
        {"c1": Place("127.0.0.1", 20000), "c2": Place("127.0.0.1", 20001)},
        SOCKETS,
    )
    assert table.documents["route/c1"]["bind"] == {"address": "127.0.0.1", "port": 20000}
    assert table.documents["route/c2"]["bind"] == {
        "address": "127.0.0.1",
        "port": 20001,
        "path": "/run/drtp/endpoints/c2.sock",
    }
    assert not table.refused


def test_endpoints_with_sockets_have_ports_too_for_gateways_elsewhere() -> None:
    both = snapshot({"route/c1": route("c1"), "route/c2": route("c2", mode=EndpointMode.UNIX)})
    assert port_users(both) == {"c1", "c2"}


def test_a_route_without_a_free_port_is_refused_by_itself() -> None:
    table = read_table(
        snapshot({"route/c1": route("c1"), "route/c2": route("c2")}),
        {"c1": None, "c2": Place("127.0.0.1", 20000)},
        SOCKETS,
    )
    assert list(table.documents) == ["route/c2"]
    assert "DRTP-4020" in table.refused["route/c1"]


def test_a_path_that_is_no_socket_path_is_refused() -> None:
    entries = {
        "route/long": route("x" * 120, mode=EndpointMode.UNIX),
        "route/up": route("../../etc/x", mode=EndpointMode.UNIX),
    }
    places = {entry.connection: Place("127.0.0.1", 20000) for entry in entries.values()}
    table = read_table(snapshot(dict(entries)), places, SOCKETS)
    assert not table.documents
    assert all("DRTP-4023" in reason for reason in table.refused.values())


def test_another_edges_entry_is_refused() -> None:
    table = read_table(snapshot({"server/p1": plan_server("p1", 443, Role.PRIMARY)}), {}, SOCKETS)
    assert "DRTP-4024" in table.refused["server/p1"]


def test_trust_names_the_gateways() -> None:
    table = read_table(snapshot({"trust": TrustEntry(gateways=("g1",))}), {}, SOCKETS)
    assert table.gateways == {"g1"}
    assert table.documents["trust"] == {"type": "trust", "gateways": ("g1",)} or table.documents["trust"] == {
        "type": "trust",
        "gateways": ["g1"],
    }
