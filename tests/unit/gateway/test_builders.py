"""Every builder's output, read by the real Envoy in one go; and what of it must not change when something else does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format

from drtp.api.drtp import AppProtocol, Protocol
from drtp.api.snapshots import HttpMatch, Redirect, Rewrite
from drtp.gateway import protos
from drtp.gateway.accesslogs import AccessLogs
from drtp.gateway.bootstrap import Budget, bootstrap
from drtp.gateway.envoy import find_envoy
from drtp.gateway.program import Builder
from drtp.gateway.protos import decode
from drtp.gateway.resources import Kind
from drtp.gateway.settings import paths
from unit.gateway.gatewaykit import (
    ANYONE,
    ELSEWHERE,
    LOCALHOST,
    NOBODY,
    Authority,
    EndpointMode,
    Entry,
    ListenerProtocol,
    PopEndpoint,
    WeightedBackend,
    backend,
    http,
    listener,
    needs_envoy,
    tcp,
)
from unit.gateway.test_http import rule
from unit.gateway.test_tls import sni


def endpoints() -> tuple[PopEndpoint, ...]:
    return (
        PopEndpoint(
            connection="c", server="p1", server_name="p1.t", mode=EndpointMode.MTLS, address="192.0.2.1", port=1
        ),
        PopEndpoint(connection="c", server="p2", server_name="p2.t", mode=EndpointMode.PLAIN, address="::1", port=2),
        PopEndpoint(
            connection="c",
            server="p3",
            server_name="p3.t",
            mode=EndpointMode.UNIX,
            address="192.0.2.3",
            port=3,
            path="/run/p/c.sock",
            priority=5,
        ),
    )


def everything(authority: Authority) -> dict[str, Entry]:
    many = (WeightedBackend(service="s1", weight=3), WeightedBackend(service="s2"), WeightedBackend(service=""))
    return {
        **backend(*endpoints()),
        **backend(
            *endpoints()[1:], service="s2", protocol=Protocol.HTTP, app_protocol=AppProtocol.H2C, host_header="h"
        ),
        **backend(service="s3"),
        **tcp(1001, LOCALHOST),
        **tcp(1002, NOBODY, service="gone"),
        **tcp(1003, ELSEWHERE, address="::1"),
        **listener(1004, ListenerProtocol.TCP),
        **listener(1005, ListenerProtocol.HTTP),
        **http(1005, "a.test", rule(access=ELSEWHERE, backends=many), rule(access=NOBODY), rule(backends=())),
        **http(1005, "*", rule(redirect=Redirect(scheme="https"))),
        **http(1005, "*.test", rule(matches=(HttpMatch(path="/a"),), rewrite=Rewrite(replace_prefix_match=""))),
        **listener(1006, ListenerProtocol.HTTPS, "one", "two", "absent"),
        "certificate/one": authority.serving("*.test", "test"),
        "certificate/two": authority.serving("two.test"),
        **sni(1006, "db.test", LOCALHOST),
        **sni(1006, "*.db.test", NOBODY),
        **listener(1007, ListenerProtocol.TLS_PASSTHROUGH),
        **sni(1007, "x.test", ANYONE, "s3"),
        **listener(1008, ListenerProtocol.TLS_PASSTHROUGH),
    }


def test_envoy_reads_everything_the_builders_make(tmp_path: Path) -> None:
    needs_envoy()
    authority = Authority()
    program = Builder(AccessLogs(str(tmp_path / "audit"))).build(
        everything(authority), credentials=authority.credentials()
    )
    assert program.faults == {}
    configuration: dict[str, Any] = bootstrap("node", paths(tmp_path / "g"), Budget(1000, 1 << 30))
    static = configuration["static_resources"]
    static["listeners"] += _bodies(program.resources[Kind.LISTENER], Kind.LISTENER)
    static["clusters"] += _bodies(program.resources[Kind.CLUSTER], Kind.CLUSTER)
    static["secrets"] = _bodies(program.resources[Kind.SECRET], Kind.SECRET)
    # Route tables and assignments cannot stand in a static configuration; here they are only decoded.
    for kind in (Kind.ROUTES, Kind.ENDPOINTS):
        assert all(_bodies(program.resources[kind], kind))
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(configuration))
    command = [str(find_envoy(None)), "--mode", "validate", "-c", str(file), "--disable-hot-restart", "-l", "error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_two_builders_make_equal_versions() -> None:
    """A new host resends nothing to the Envoy it adopts, so nothing drains."""
    authority = Authority()
    table, credentials = everything(authority), authority.credentials()
    one = Builder(AccessLogs("/audit")).build(table, credentials=credentials)
    two = Builder(AccessLogs("/audit")).build(dict(reversed(table.items())), credentials=credentials)
    assert _versions(one.resources) == _versions(two.resources)


def test_access_change_touches_the_matcher_alone() -> None:
    authority = Authority()
    builder = Builder(AccessLogs())
    before = builder.build({**backend(*endpoints()), **tcp(1001, LOCALHOST)}, credentials=authority.credentials())
    after = builder.build({**backend(*endpoints()), **tcp(1001, ELSEWHERE)}, credentials=authority.credentials())
    one, two = _listener(before.resources), _listener(after.resources)
    assert one.pop("filterChainMatcher") != two.pop("filterChainMatcher")
    assert one == two
    assert before.resources[Kind.CLUSTER] == after.resources[Kind.CLUSTER]


def test_endpoint_change_touches_the_assignment_alone() -> None:
    builder = Builder(AccessLogs())
    before = builder.build({**backend(*endpoints()), **tcp(1001)})
    after = builder.build({**backend(*endpoints()[:2]), **tcp(1001)})
    assert before.resources[Kind.ENDPOINTS] != after.resources[Kind.ENDPOINTS]
    for kind in (Kind.CLUSTER, Kind.LISTENER):
        assert before.resources[kind] == after.resources[kind]


def test_dead_servers_are_marked_unless_all_are_dead() -> None:
    builder = Builder(AccessLogs())
    table = {**backend(*endpoints()), **tcp(1001)}
    one_dead = builder.build(table, dead={"p1"})
    all_dead = builder.build(table, dead={"p1", "p2", "p3"})
    assert _unhealthy(one_dead.resources) == 1
    assert _unhealthy(all_dead.resources) == 0


def test_a_pop_that_leaves_is_left_out_where_another_serves_and_counts_as_used_where_none_does() -> None:
    builder = Builder(AccessLogs())
    first, second, third = endpoints()
    table = {**backend(first, second, third), **tcp(1001)}
    going = builder.build(table, leaving={"p1"})
    assert (_ports(going.resources), going.unused) == ([2, 3], {"p1"})
    last_one = builder.build(table, dead={"p2", "p3"}, leaving={"p1"})
    assert (_ports(last_one.resources), last_one.unused) == ([1, 2, 3], {"p2", "p3"})
    assert _unhealthy(last_one.resources) == 2
    elsewhere = {**table, **backend(first, service="s2"), **tcp(1002, service="s2")}
    assert builder.build(elsewhere, leaving={"p1"}).unused == set(), "a service has no other POP"


def test_a_neighbours_socket_comes_before_its_address_and_nobody_elses() -> None:
    builder = Builder(AccessLogs())
    first, second, third = endpoints()
    foreign = msgspec.structs.replace(third, server="p4", path="/run/p/other.sock", port=4)
    table = {**backend(first, second, third, foreign), **tcp(1001)}
    assert _ports(builder.build(table).resources) == [1, 2, 3, 4]
    near = builder.build(table, near={"p3": "/run/p", "p4": "/run/other", "p1": "/run/p"})
    assert _ports(near.resources) == [1, 2, None, 3, 4]
    dead = builder.build(table, near={"p3": "/run/p"}, dead={"p3"})
    assert _unhealthy(dead.resources) == 2, "its socket and its address"


def test_faults_name_their_entry_and_spare_the_others() -> None:
    bad = PopEndpoint(connection="c", server="p9", server_name="x", mode=EndpointMode.MTLS, address="a.name", port=1)
    table = {
        **backend(*endpoints(), bad),
        **tcp(1001),
        **http(9999, "nowhere.test"),
        **listener(1006, ListenerProtocol.HTTPS, "absent"),
        **listener(1005, ListenerProtocol.HTTP),
        **http(1005, "bad name"),
    }
    program = Builder(AccessLogs()).build(table)
    assert program.faults.keys() == {
        "backend/s1", "http/127.0.0.1/9999/nowhere.test", "listener/127.0.0.1/1006", "http/127.0.0.1/1005/bad name",
    }  # fmt: skip
    assert "not an IP" in program.faults["backend/s1"]


def test_key_never_shows_in_a_repr() -> None:
    credentials = Authority().credentials()
    assert "PRIVATE" not in repr(credentials)


def _bodies(resources: dict[str, Any], kind: Kind) -> list[dict[str, Any]]:
    return [decode(kind, resource.body) for resource in resources.values()]


def _versions(resources: dict[Kind, dict[str, Any]]) -> dict[tuple[Kind, str], str]:
    return {(kind, name): found.version for kind, names in resources.items() for name, found in names.items()}


def _listener(resources: dict[Kind, dict[str, Any]]) -> dict[str, Any]:
    return decode(Kind.LISTENER, resources[Kind.LISTENER]["listener/127.0.0.1/1001"].body)


def _ports(resources: dict[Kind, dict[str, Any]]) -> list[int | None]:
    """Of all endpoints, by priority; None for a Unix socket."""
    body = decode(Kind.ENDPOINTS, resources[Kind.ENDPOINTS]["hop/s1"].body)
    addresses = [one["endpoint"]["address"] for group in body["endpoints"] for one in group["lbEndpoints"]]
    return [one.get("socketAddress", {}).get("portValue") for one in addresses]


def _unhealthy(resources: dict[Kind, dict[str, Any]]) -> int:
    return json.dumps(decode(Kind.ENDPOINTS, resources[Kind.ENDPOINTS]["hop/s1"].body)).count("UNHEALTHY")


@pytest.mark.parametrize("kind", list(Kind))
def test_encoding_agrees_with_the_library_s_reader(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    table, credentials = everything(authority), authority.credentials()
    ours = Builder(AccessLogs("/audit")).build(table, credentials=credentials)
    monkeypatch.setattr(protos, "fill", lambda message, body: json_format.ParseDict(body, message))
    theirs = Builder(AccessLogs("/audit")).build(table, credentials=credentials)
    assert ours.resources[kind].keys() == theirs.resources[kind].keys()
    for name, one in ours.resources[kind].items():
        assert decode(kind, one.body) == decode(kind, theirs.resources[kind][name].body)


def test_encoding_names_the_field_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"Cluster has no field colour"):
        protos.encode(Kind.CLUSTER, {"colour": "red"})
    with pytest.raises(ValueError, match=r"Cluster\.name"):
        protos.encode(Kind.CLUSTER, {"name": 5})
