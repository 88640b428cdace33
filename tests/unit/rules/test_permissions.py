"""What roles permit, what they do not, and when one set of rules holds another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtp.api.rbac import PolicyRule
from drtp.rules.permissions import BREAKDOWN_MAX, EVERYTHING, Wanted, lacking, permits, permits_path

READ_SERVICES = PolicyRule(verbs=("get", "list"), api_groups=("datumapis.com",), resources=("drtpservices",))


def wanted(
    verb: str = "get",
    group: str = "datumapis.com",
    resource: str = "drtpservices",
    subresource: str = "",
    name: str = "",
) -> Wanted:
    return Wanted(verb, group, resource, subresource, "joe", name)


@pytest.mark.parametrize(
    ("rule", "asked", "permitted"),
    [
        (READ_SERVICES, wanted(), True),
        (READ_SERVICES, wanted("delete"), False),
        (READ_SERVICES, wanted(group=""), False),
        (READ_SERVICES, wanted(resource="drtpservers"), False),
        (READ_SERVICES, wanted(subresource="status"), False),
        (READ_SERVICES, wanted("*"), False),
        (EVERYTHING[0], wanted("*", "*", "*"), True),
        (EVERYTHING[0], wanted(subresource="status"), True),
        (EVERYTHING[1], wanted(), False),
        (PolicyRule(verbs=("get",), api_groups=("datumapis.com",), resources=("*/status",)), wanted(), False),
        (
            PolicyRule(verbs=("get",), api_groups=("datumapis.com",), resources=("*/status",)),
            wanted(subresource="status"),
            True,
        ),
        (
            PolicyRule(verbs=("*",), api_groups=("*",), resources=("*",), resource_names=("db",)),
            wanted("delete", name="db"),
            True,
        ),
        (
            PolicyRule(verbs=("*",), api_groups=("*",), resources=("*",), resource_names=("db",)),
            wanted("delete", name="web"),
            False,
        ),
        (PolicyRule(verbs=("*",), api_groups=("*",), resources=("*",), resource_names=("db",)), wanted("list"), False),
        (PolicyRule(), wanted(), False),
    ],
)
def test_a_rule_permits_what_it_says_and_nothing_beside_it(rule: PolicyRule, asked: Wanted, permitted: bool) -> None:
    assert permits(rule, asked) is permitted


@pytest.mark.parametrize(
    ("path", "permitted"),
    [("/apis", True), ("/apis/x/y", True), ("/api", False), ("/apisx", False), ("/", False), ("/metrics", False)],
)
def test_a_path_rule_permits_its_path_and_what_is_below_a_star(path: str, permitted: bool) -> None:
    rule = PolicyRule(verbs=("get",), non_resource_urls=("/apis", "/apis/*"))
    assert permits_path(rule, "get", path) is permitted
    assert not permits_path(rule, "post", path)


WORDS = st.lists(st.sampled_from(["a", "b", "c", "*"]), min_size=1, max_size=3).map(tuple)
RULES = st.lists(
    st.builds(
        PolicyRule,
        verbs=WORDS,
        api_groups=WORDS,
        resources=st.lists(st.sampled_from(["a", "b", "a/status", "*/status", "*"]), min_size=1, max_size=3).map(tuple),
        resource_names=st.lists(st.sampled_from(["x", "y"]), max_size=2).map(tuple),
    ),
    max_size=3,
)
REQUESTS = [
    Wanted(verb, group, resource, subresource, "n", name)
    for verb in ("a", "b", "d")
    for group in ("a", "d")
    for resource in ("a", "b", "d")
    for subresource in ("", "status")
    for name in ("", "x", "z")
]


@given(RULES, RULES)
def test_whoever_lacks_nothing_gains_no_request(held: list[PolicyRule], given_to: list[PolicyRule]) -> None:
    if lacking(held, given_to):
        return
    for request in REQUESTS:
        if any(permits(rule, request) for rule in given_to):
            assert any(permits(rule, request) for rule in held), request


@given(RULES)
def test_everybody_holds_what_they_hold_and_the_operator_holds_all(rules: list[PolicyRule]) -> None:
    assert lacking(rules, rules) == []
    assert lacking(EVERYTHING, rules) == []


def test_several_rules_together_hold_a_wider_one() -> None:
    held = [
        PolicyRule(verbs=(verb,), api_groups=("g",), resources=(resource,))
        for verb in ("get", "list")
        for resource in ("a", "b")
    ]
    wide = PolicyRule(verbs=("get", "list"), api_groups=("g",), resources=("a", "b"))
    assert lacking(held, [wide]) == []
    assert lacking(held[1:], [wide]) == [held[0]]


def test_a_rule_too_wide_to_be_looked_through_is_lacking() -> None:
    names = tuple(f"n{number}" for number in range(BREAKDOWN_MAX + 1))
    wide = PolicyRule(verbs=("get",), api_groups=("g",), resources=names)
    halves = [PolicyRule(verbs=("get",), api_groups=("g",), resources=part) for part in (names[:9], names[9:])]
    assert lacking(halves, [wide]) == [wide]
    assert lacking(EVERYTHING, [wide]) == []
