from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from drtp.api.drtp import Action
from drtp.api.snapshots import Access, AccessList, AccessListRule
from drtp.gateway.admission import admitted

ADDRESSES = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
NETWORKS = st.builds(lambda a, n: str(ipaddress.ip_network((a, n), strict=False)), ADDRESSES, st.integers(0, 32))
RULES = st.builds(AccessListRule, action=st.sampled_from(Action), cidrs=st.lists(NETWORKS, max_size=3).map(tuple))
LISTS = st.builds(AccessList, default=st.sampled_from(Action), rules=st.lists(RULES, max_size=5).map(tuple))


def first_match(access_list: AccessList, address: ipaddress.IPv4Address) -> Action:
    for rule in access_list.rules:
        if not rule.cidrs or any(address in ipaddress.ip_network(cidr) for cidr in rule.cidrs):
            return rule.action
    return access_list.default


@given(st.lists(LISTS, max_size=3), st.lists(ADDRESSES, min_size=1, max_size=20))
def test_admitted_networks_say_what_the_lists_say(
    lists: list[AccessList], addresses: list[ipaddress.IPv4Address]
) -> None:
    networks = [ipaddress.ip_network(network) for network in admitted(Access(lists=tuple(lists))).networks]
    edges = [address for rule in (r for one in lists for r in one.rules) for cidr in rule.cidrs
             for address in (ipaddress.IPv4Network(cidr)[0], ipaddress.IPv4Network(cidr)[-1])]  # fmt: skip
    for address in addresses + edges:
        expected = bool(lists) and all(first_match(one, address) is Action.ALLOW for one in lists)
        assert any(address in network for network in networks) == expected


def allow(*cidrs: str) -> AccessList:
    return AccessList(rules=(AccessListRule(action=Action.ALLOW, cidrs=cidrs),))


def test_no_list_admits_nobody() -> None:
    assert admitted(Access()).networks == ()


def test_one_unreadable_cidr_admits_nobody_and_is_named() -> None:
    who = admitted(Access(lists=(allow("192.0.2.0/24"), allow("not a network"))))
    assert who.networks == ()
    assert "not a network" in who.fault


def test_mapped_addresses_count_as_version_4() -> None:
    assert admitted(Access(lists=(allow("::ffff:192.0.2.0/120"),))).networks == ("192.0.2.0/24",)


def test_everyone_is_both_families() -> None:
    assert admitted(Access(lists=(AccessList(default=Action.ALLOW),))).everyone
