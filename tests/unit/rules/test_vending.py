"""Names and ports: readable, seeded, never another tenant's while in quarantine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtp.api.internal import Claim, ClaimKind, ClaimSpec
from drtp.api.meta import ObjectMeta
from drtp.rules import hostnames, vending
from drtp.rules.vending import Standing, Tenant

NOW = datetime(2030, 1, 1, tzinfo=UTC)
_label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
names = st.lists(_label, min_size=1, max_size=4).map(".".join)


def claim(namespace: str, released: timedelta | None = None, uid: str = "") -> Claim:
    spec = ClaimSpec(
        kind=ClaimKind.PORT,
        value="shared:15432",
        owner_namespace=namespace,
        owner_namespace_uid=uid,
        owner_uid="u1",
        released_at=None if released is None else NOW - released,
    )
    return Claim(metadata=ObjectMeta(name="port.shared.15432"), spec=spec)


@given(st.uuids().map(str))
def test_the_same_owner_gets_the_same_names_and_ports(uid: str) -> None:
    assert list(vending.labels(uid)) == list(vending.labels(uid))
    assert list(vending.ports(uid)) == list(vending.ports(uid))
    label = next(vending.labels(uid))
    assert hostnames.valid(f"{label}.example.com")
    assert not vending.reserved(f"{label}.example.com", "example.com")
    assert all(vending.in_pool(port) for port in vending.ports(uid))


def test_the_pool_never_meets_the_ephemeral_range() -> None:
    assert vending.PORT_MAX < 32768


def test_different_owners_rarely_ask_for_the_same() -> None:
    firsts = {next(vending.labels(f"uid-{index}")) for index in range(2000)}
    assert len(firsts) > 1990


@pytest.mark.parametrize(
    ("held", "namespace", "uid", "expected"),
    [
        (None, "joe", "u1", Standing.FREE),
        (claim("joe"), "joe", "u1", Standing.OURS),
        (claim("joe"), "joe", "u2", Standing.TAKEN),
        (claim("joe"), "eve", "u3", Standing.TAKEN),
        (claim("joe", timedelta(hours=1)), "joe", "u2", Standing.RETAKE),
        (claim("joe", timedelta(hours=1)), "eve", "u3", Standing.TAKEN),
        (claim("joe", timedelta(hours=24)), "eve", "u3", Standing.EXPIRED),
        (claim("joe", timedelta(hours=1), "n1"), "joe", "u2", Standing.RETAKE),
        (claim("joe", timedelta(hours=1), "n0"), "joe", "u2", Standing.TAKEN),
        (claim("joe", timedelta(hours=24), "n0"), "joe", "u2", Standing.EXPIRED),
        (claim("joe", None, "n0"), "joe", "u1", Standing.TAKEN),
    ],
)
def test_quarantine_holds_against_everybody_else(
    held: Claim | None, namespace: str, uid: str, expected: Standing
) -> None:
    assert vending.standing(held, Tenant(namespace, "n1"), uid, NOW) is expected


@given(st.lists(names | names.map(lambda name: f"*.{name}"), min_size=2, max_size=8, unique=True))
def test_every_hostname_has_a_claim_name_of_its_own(found: list[str]) -> None:
    claimed = [vending.claim_name(ClaimKind.HOSTNAME, name) for name in found]
    assert len(set(claimed)) == len(found)


@given(names, names)
def test_what_covers_is_found_among_the_parents(name: str, other: str) -> None:
    wildcard = f"*.{other}"
    assert hostnames.covers(wildcard, name) == (wildcard in hostnames.parents(name))


@given(st.none() | names | names.map(lambda name: f"*.{name}"), st.lists(names | names.map(lambda one: f"*.{one}")))
def test_an_intersection_is_inside_both(listener: str | None, route: list[str]) -> None:
    for name in hostnames.intersect(listener, route):
        assert hostnames.covers(listener or "*", name)
        assert not route or any(hostnames.covers(one, name) for one in route)


@pytest.mark.parametrize(
    ("listener", "route", "expected"),
    [
        (None, [], ("*",)),
        ("*.example.com", [], ("*.example.com",)),
        ("*.example.com", ["a.example.com", "other.com"], ("a.example.com",)),
        ("a.example.com", ["*.example.com"], ("a.example.com",)),
        ("*.example.com", ["*.b.example.com"], ("*.b.example.com",)),
        ("*.example.com", ["example.com"], ()),
    ],
)
def test_hostnames_meet_as_gateway_api_says(listener: str | None, route: list[str], expected: tuple[str, ...]) -> None:
    assert hostnames.intersect(listener, route) == expected


def test_dedicated_addresses_are_those_of_the_pool() -> None:
    assert list(vending.pool_addresses("192.0.2.1, 198.51.100.0/30, junk")) == [
        "192.0.2.1",
        "198.51.100.1",
        "198.51.100.2",
    ]
    assert vending.in_pool_addresses("2001:db8::/64", "2001:db8::5")
    assert not vending.in_pool_addresses("192.0.2.0/24", "192.0.3.1")
    assert not vending.in_pool_addresses("192.0.2.0/24", "nonsense")


def test_labels_do_not_run_out_at_once() -> None:
    assert len(set(islice(vending.labels("x"), 10))) == 10
