"""Access: exposing is explicit, empty means nobody, unreadable denies, policies only narrow."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtp.api.drtp import (
    AccessRule,
    Action,
    DRTPAccessPolicy,
    DRTPAccessPolicySpec,
    DRTPService,
    DRTPServiceSpec,
    EnforcementPoint,
    LocalService,
    PolicyTarget,
    Protocol,
)
from drtp.api.meta import ObjectMeta
from drtp.api.policies import Encryption, PolicyMode
from drtp.api.snapshots import Access
from drtp.rules import access

POINTS = (EnforcementPoint.GATEWAY, EnforcementPoint.TUNNEL)
addresses = st.ip_addresses().map(str)
networks = st.builds(
    lambda address, bits: str(ipaddress.ip_network(f"{address}/{bits}", strict=False)),
    st.ip_addresses(v=4),
    st.integers(0, 32),
)
rules = st.lists(
    st.builds(
        AccessRule,
        name=st.just("r"),
        action=st.sampled_from(Action),
        client_cidrs=st.lists(networks | st.just("nonsense"), max_size=2).map(tuple),
    ),
    max_size=3,
)


def made(cidrs: tuple[str, ...] | None, protocol: Protocol = Protocol.TCP) -> DRTPService:
    spec = DRTPServiceSpec(protocol=protocol, local=LocalService(host="x", port=1), edge_allowlist=cidrs)
    return DRTPService(metadata=ObjectMeta(name="web", namespace="joe"), spec=spec)


def policy(listed: list[AccessRule], default: Action, points: tuple[EnforcementPoint, ...] = ()) -> DRTPAccessPolicy:
    target = PolicyTarget(group="datumapis.com", kind="DRTPService", name="web")
    spec = DRTPAccessPolicySpec(
        target_refs=(target,), rules=tuple(listed), default_action=default, enforcement_points=points
    )
    return DRTPAccessPolicy(metadata=ObjectMeta(name="p", namespace="joe"), spec=spec)


def compiled(cidrs: tuple[str, ...] | None, *, exposed: bool = True, protocol: Protocol = Protocol.TCP) -> Access:
    return access.compile_access(made(cidrs, protocol), (), EnforcementPoint.TUNNEL, exposed=exposed)


@given(addresses)
def test_exposed_without_a_list_is_anyone_and_not_exposed_is_nobody(visitor: str) -> None:
    assert access.permits(compiled(None), visitor)
    assert not access.permits(compiled(None, exposed=False), visitor)


@given(addresses)
def test_an_empty_list_is_nobody_and_udp_without_a_list_is_nobody(visitor: str) -> None:
    assert not access.permits(compiled(()), visitor)
    assert not access.permits(compiled(None, protocol=Protocol.UDP), visitor)


@pytest.mark.parametrize("bad", ["10.0.0.1/8", "300.1.1.1", "", "example.com", "10.0.0.0/33"])
def test_one_unreadable_entry_denies_everybody(bad: str) -> None:
    assert not access.permits(compiled(("0.0.0.0/0", bad)), "203.0.113.9")


def test_no_list_at_all_denies_cve_2024_43798() -> None:
    assert not access.permits(Access(), "203.0.113.9")


def test_a_mapped_address_is_the_address_it_maps() -> None:
    assert access.permits(compiled(("203.0.113.0/24",)), "::ffff:203.0.113.9")
    assert not access.permits(compiled(("::/0",)), "::ffff:203.0.113.9")


@given(st.none() | st.lists(networks, max_size=3).map(tuple), rules, st.sampled_from(Action), addresses)
def test_a_policy_never_lets_in_whom_the_service_keeps_out(
    cidrs: tuple[str, ...] | None, listed: list[AccessRule], default: Action, visitor: str
) -> None:
    service = made(cidrs)
    for point in POINTS:
        alone = access.compile_access(service, (), point, exposed=True)
        narrowed = access.compile_access(service, (policy(listed, default),), point, exposed=True)
        assert access.permits(alone, visitor) or not access.permits(narrowed, visitor)


def test_the_first_match_wins() -> None:
    listed = [
        AccessRule(name="out", action=Action.DENY, client_cidrs=("203.0.113.7/32",)),
        AccessRule(name="in", action=Action.ALLOW, client_cidrs=("203.0.113.0/24",)),
    ]
    found = access.compile_access(made(None), (policy(listed, Action.DENY),), EnforcementPoint.GATEWAY, exposed=True)
    assert not access.permits(found, "203.0.113.7")
    assert access.permits(found, "203.0.113.8")


def test_a_policy_for_one_point_is_not_compiled_for_the_other() -> None:
    closed = policy([], Action.DENY, (EnforcementPoint.TUNNEL,))
    at_gateway = access.compile_access(made(None), (closed,), EnforcementPoint.GATEWAY, exposed=True)
    at_tunnel = access.compile_access(made(None), (closed,), EnforcementPoint.TUNNEL, exposed=True)
    assert access.permits(at_gateway, "203.0.113.9")
    assert not access.permits(at_tunnel, "203.0.113.9")


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("point", POINTS)
def test_where_encryption_from_end_to_end_is_demanded_visitors_pass_by_their_own_tls_alone(
    protocol: Protocol, point: EnforcementPoint
) -> None:
    demanding = policy([], Action.ALLOW)
    spec = msgspec.structs.replace(demanding.spec, encryption=Encryption.END_TO_END)
    found = made(("203.0.113.0/24",), protocol)
    for mode, passes in ((PolicyMode.ENFORCE, protocol is Protocol.TLS), (PolicyMode.DRY_RUN, True)):
        one = msgspec.structs.replace(demanding, spec=msgspec.structs.replace(spec, mode=mode))
        compiled = access.compile_access(found, (one,), point, exposed=True)
        assert access.permits(compiled, "203.0.113.9") is passes
        assert not access.permits(compiled, "198.51.100.1")


@given(st.lists(st.lists(networks, min_size=1, max_size=2).map(tuple), min_size=1, max_size=3), addresses)
def test_several_services_behind_one_rule_must_all_allow(lists: list[tuple[str, ...]], visitor: str) -> None:
    each = [compiled(cidrs) for cidrs in lists]
    assert access.permits(access.every(each), visitor) == all(access.permits(one, visitor) for one in each)
    assert not access.permits(access.every([*each, Access()]), visitor)
