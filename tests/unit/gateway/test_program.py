"""A program that grew change by change is the one that its last table makes, and a change costs what it reaches."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from drtp.api.snapshots import Entry, HttpHost, HttpMatch, HttpRule, ServingCertificate, Source, WeightedBackend
from drtp.gateway.accesslogs import AccessLogs
from drtp.gateway.program import Builder, Credentials, Program
from drtp.gateway.resources import Kind, Ref
from unit.gateway.gatewaykit import (
    ANYONE,
    NOBODY,
    EndpointMode,
    ListenerProtocol,
    PopEndpoint,
    backend,
    http,
    listener,
    tcp,
)
from unit.gateway.test_tls import sni

SERVICES = ("s1", "s2")
POPS = ("p1", "p2")


def endpoints(service: str, *pops: str) -> tuple[PopEndpoint, ...]:
    port = 1000 + int(service[1:])
    return tuple(
        PopEndpoint(
            connection="c", server=pop, server_name=f"{pop}.t", mode=EndpointMode.MTLS, address="127.0.0.9", port=port
        )
        for pop in pops
    )


def certificate(name: str, serial: int) -> dict[str, Entry]:
    """Builders do not look into PEM."""
    entry = ServingCertificate(names=(name,), chain_pem=f"chain {serial}", key_pem=f"key {serial}")
    return {f"certificate/{name}": entry}


def pieces() -> list[dict[str, Entry]]:
    """What tables are made of; several pieces speak of one key, so that a change may be anything."""
    found: list[dict[str, Entry]] = []
    for service in SERVICES:
        found += [backend(*endpoints(service, *pops), service=service) for pops in ((), POPS[:1], POPS)]
        found.append(backend(*endpoints(service, *POPS), service=service, host_header="other"))
        found += [tcp(7000, access, service) for access in (ANYONE, NOBODY)]
        found += [http(port, host, service=service) for port in (80, 443) for host in ("a.test", "A.test", "*")]
        found.append(sni(443, "tls.test", service=service))
    found += [
        listener(port, protocol) for port in (80, 7000) for protocol in (ListenerProtocol.HTTP, ListenerProtocol.TCP)
    ]
    found += [listener(443, ListenerProtocol.HTTPS, "one", *more) for more in ((), ("two",))]
    found += [listener(443, ListenerProtocol.TLS_PASSTHROUGH)]
    found += [certificate(name, serial) for name in ("one", "two") for serial in (1, 2)]
    bad = HttpRule(matches=(HttpMatch(method="B A D"),), access=ANYONE, backends=(WeightedBackend(service="s1"),))
    found.append(http(80, "bad.test", bad))
    return found


PIECES = pieces()
KEYS = sorted({key for piece in PIECES for key in piece})
CREDENTIALS = (None, Credentials(b"chain", b"key", b"bundle"), Credentials(b"chain 2", b"key 2", b"bundle"))

changes = st.one_of(
    st.sampled_from([("put", piece) for piece in PIECES]),
    st.sampled_from([("take", key) for key in KEYS]),
    st.tuples(st.just("with"), st.fixed_dictionaries({
        "credentials": st.sampled_from(CREDENTIALS),
        "dead": st.sets(st.sampled_from(POPS)),
        "leaving": st.sets(st.sampled_from(POPS)),
        "refused": st.sets(st.sampled_from([key for key in KEYS if key.startswith("http/")])),
    })),
)  # fmt: skip


def holds(program: Program) -> dict[str, Any]:
    return {
        "resources": program.resources,
        "needs": {key: set(refs) for key, refs in program.needs.items()},
        "faults": program.faults,
        "services": program.services,
        "hosts": program.hosts,
        "unused": program.unused,
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, max_size=25))
def test_a_program_that_grew_is_the_one_that_is_built_at_once(steps: list[tuple[str, Any]]) -> None:
    builder = Builder(AccessLogs())
    table: dict[str, Entry] = {}
    how: dict[str, Any] = {}
    before = builder.build(table)
    for what, value in steps:
        if what == "put":
            table = table | value
        elif what == "take":
            table = {key: entry for key, entry in table.items() if key != value}
        else:
            how = value
        program = builder.build(table, **how)
        assert holds(program) == holds(Builder(AccessLogs()).build(dict(reversed(table.items())), **how))
        for key in table:
            same = [
                before.resources[r.kind].get(r.name) == program.resources[r.kind].get(r.name)
                for r in program.needs.get(key, ())
                if r.kind is not Kind.ROUTES
            ]
            assert key in program.touched or (all(same) and before.needs.get(key) == program.needs.get(key)), key
        before = program


def test_a_host_is_touched_where_a_passthrough_name_changes_its_listener() -> None:
    builder = Builder(AccessLogs())
    host = http(443, "a.test", service="s1")
    table = host | listener(443, ListenerProtocol.HTTPS, "one")
    builder.build(table)
    assert host.keys() <= builder.build(table | sni(443, "tls.test", service="s1")).touched


def fleet(count: int) -> dict[str, Entry]:
    """So many TCP services, and as many HTTP hosts on one listener."""
    table: dict[str, Entry] = {**listener(80, ListenerProtocol.HTTP)}
    for number in range(count):
        service = f"s{number}"
        table |= backend(*endpoints(service, *POPS), service=service)
        table |= tcp(20_000 + number, service=service)
        table |= http(80, f"{service}.test", service=service)
    return table


def changed(before: Program, after: Program) -> set[Ref]:
    return {
        Ref(kind, name)
        for kind in Kind
        for name in before.resources[kind].keys() | after.resources[kind].keys()
        if before.resources[kind].get(name) is not after.resources[kind].get(name)
    }


def test_a_change_of_one_among_five_hundred_services_touches_its_own_resources_alone() -> None:
    builder, table = Builder(AccessLogs()), fleet(500)
    before = builder.build(table)
    runs, encodings = builder.runs, builder.encodings
    moved = table | backend(*endpoints("s7", "p2"), service="s7")
    after = builder.build(moved)
    assert changed(before, after) == {Ref(Kind.ENDPOINTS, "hop/s7")}
    assert (builder.runs - runs, builder.encodings - encodings) == (2, 1)
    assert after.touched == {"backend/s7", "tcp/127.0.0.1/20007", "http/127.0.0.1/80/s7.test"}
    untouched = {kind for kind in Kind if after.resources[kind] is before.resources[kind]}
    assert untouched == set(Kind) - {Kind.ENDPOINTS}, "what has not changed is the very same, and is not looked through"


def test_one_service_more_among_five_hundred_builds_its_own_resources_alone() -> None:
    builder, table = Builder(AccessLogs()), fleet(500)
    before = builder.build(table)
    runs, encodings = builder.runs, builder.encodings
    grown = fleet(501)
    after = builder.build(grown | table)
    new = {
        Ref(Kind.ENDPOINTS, "hop/s500"),
        Ref(Kind.CLUSTER, "hop/s500"),
        Ref(Kind.CLUSTER, "l4/s500"),
        Ref(Kind.CLUSTER, "http/s500"),
    }
    assert changed(before, after) == new | {
        Ref(Kind.LISTENER, "listener/127.0.0.1/20500"),
        Ref(Kind.ROUTES, "routes/127.0.0.1/80"),
    }
    assert builder.runs - runs <= 5
    assert builder.encodings - encodings == 7
    assert len(after.touched) <= 6
    runs = builder.runs
    assert holds(builder.build(table)) == holds(before)
    assert builder.runs - runs <= 5


def test_an_entry_that_is_equal_but_another_object_builds_nothing() -> None:
    builder, table = Builder(AccessLogs()), fleet(20)
    before = builder.build(table)
    runs = builder.runs
    again = {key: msgspec.structs.replace(entry) for key, entry in table.items()}
    assert not builder.build(again).touched
    assert builder.runs == runs
    after = builder.build(
        again
        | {
            "http/127.0.0.1/80/s3.test": msgspec.structs.replace(
                table["http/127.0.0.1/80/s3.test"], sources=(Source("x", 2),)
            )
        }
    )
    assert changed(before, after) == set()
    assert after.touched == {"http/127.0.0.1/80/s3.test", "listener/127.0.0.1/80"}
    assert isinstance(table["http/127.0.0.1/80/s3.test"], HttpHost)
