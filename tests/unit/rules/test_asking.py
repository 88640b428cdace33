"""One decision in two languages: the shared vectors, and random cases that the native core judges too.

`DRTP_DIFFERENTIAL_CASES=1000000 pytest tests/unit/rules/test_asking.py` is the long run.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import drtp_native
from drtp.api.drtp import Action
from drtp.api.meta import Model
from drtp.api.snapshots import Access, AccessClause, AccessList, AccessListRule, AccessSchedule, AccessThrough, PopPlace
from drtp.rules import asking, schedules
from drtp.rules.asking import Asking, Caller

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "vectors" / "access.json").read_text())
CASES = int(os.environ.get("DRTP_DIFFERENTIAL_CASES", "10000"))
BATCH = 20_000
SEED = int(os.environ.get("DRTP_DIFFERENTIAL_SEED", "48"))


class Said(NamedTuple):
    """`would_refuse` None: it cannot be read at all, and whom a list would refuse is not asked."""

    allowed: bool
    would_refuse: bool | None
    might: bool


def judged(case: dict[str, Any]) -> Said:
    """As an edge does: what cannot be read denies."""
    try:
        access = msgspec.convert(case["access"], Access)
    except msgspec.ValidationError:
        return Said(allowed=False, would_refuse=None, might=False)
    asked = asking_of(case)
    return Said(*asking.decide(access, asked), asking.might(access, asked))


def asking_of(case: dict[str, Any]) -> Asking:
    caller, place = case.get("caller"), case.get("place")
    return Asking(
        address=case.get("address"),
        country=case.get("country"),
        now=case.get("now", 0),
        caller=caller_of(caller) if caller else None,
        place=msgspec.convert(place, PopPlace) if place else None,
    )


def caller_of(said: dict[str, Any]) -> Caller:
    return Caller(
        said["kind"], said["name"], tuple(said["organizations"]), perhaps=tuple(said.get("perhaps", ()))
    )  # fmt: skip


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_is_judged_as_it_says(vector: dict[str, Any]) -> None:
    said = judged(vector["case"])
    assert (said.allowed, bool(said.would_refuse)) == (vector["allowed"], vector["wouldRefuse"])
    assert said.might is vector.get("might", said.might)
    (native,) = drtp_native.decide(json.dumps(vector["case"]).encode())
    assert (bool(native & 1), bool(native & 2)) == (vector["allowed"], vector["wouldRefuse"])
    assert bool(native & 4) is said.might


def test_both_languages_decide_the_same_of_random_cases() -> None:
    """Also holds that the cases are worth it: every answer is frequent, and so is what only counts."""
    source = random.Random(SEED)
    seen: Counter[int] = Counter()
    for start in range(0, CASES, BATCH):
        cases = [random_case(source) for _ in range(min(BATCH, CASES - start))]
        native = drtp_native.decide(b"\n".join(map(msgspec.json.encode, cases)))
        assert len(native) == len(cases)
        for case, verdict in zip(cases, native, strict=True):
            said = judged(case)
            assert said.allowed == bool(verdict & 1), json.dumps(case)
            assert said.would_refuse in {None, bool(verdict & 2)}, json.dumps(case)
            assert said.might == bool(verdict & 4), json.dumps(case)
            assert said.might or not said.allowed, json.dumps(case)
            seen[verdict] += 1
    assert set(seen) == {0, 2, 4, 5, 6, 7}, "whoever is allowed might be"
    assert min(seen.values()) > CASES // 200, seen


# ---- random cases ----------------------------------------------------------------------------------------------------

NETS = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "10.1.2.3", "0.0.0.0/0", "203.0.113.0/25", "::/0")
MORE = ("2001:db8::/32", "2001:db8:1::/48", "::ffff:10.1.0.0/112", "::ffff:10.1.2.3", "128.0.0.0/1", "2001:db8::1")
WRONG = (
    "10.1.2.3/8",
    "10.0.0.0/33",
    "",
    "nonsense",
    "10.0.0.0/08",
    "10.0.0.0/255.0.0.0",
    "::ffff:10.1.2.3/100",
    "1.2.3",
)
VISITORS = (
    "10.1.2.3",
    "10.1.2.4",
    "10.1.9.9",
    "10.9.9.9",
    "203.0.113.7",
    "203.0.113.200",
    "255.255.255.255",
    "0.0.0.0",
)
OTHERS = ("2001:db8::1", "2001:db8:1::9", "2001:db9::", "::ffff:10.1.2.3", "::1", "nonsense", "10.1.2.3/32")
COUNTRIES = ("DE", "FR", "US", "KP")
ORGANIZATIONS = ("acme", "umbrella", "hooli")
PRINCIPALS = ("user:bob", "user:alice", "app:acme/etl", "app:hooli/etl", "org:acme", "org:hooli", "user:acme/etl")
POPS, REGIONS = ("fra", "par", "nyc"), ("eu", "us")
NOW = 1_780_000_000


def some(source: random.Random, values: tuple[str, ...], most: int = 3) -> list[str]:
    return source.sample(values, source.randint(1, min(most, len(values))))


def random_schedule(source: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if source.random() < 0.3:
        found["notBefore"] = NOW + source.randint(-3, 3) * 3_600
    if source.random() < 0.3:
        found["notAfter"] = NOW + source.randint(-3, 3) * 3_600
    if source.random() < 0.7:
        bounds = [sorted(source.sample(range(0, 10_081, 60), 2)) for _ in range(source.randint(1, 4))]
        found["windows"] = bounds if source.random() < 0.98 else [*bounds, [600, 600]]
        found["offsets"] = [[NOW - 90_000, source.choice((0, 3_600, -18_000, 20_700))], [NOW + 40_000, 7_200]]
        found["offsetsEnd"] = NOW + 90_000
    return found


def random_through(source: random.Random) -> dict[str, Any]:
    parts = {"pops": POPS, "regions": REGIONS, "countries": COUNTRIES}
    return {name: some(source, values) for name, values in parts.items() if source.random() < 0.4}


def random_clause(source: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {"action": source.choice(("Allow", "Allow", "Deny"))}
    if source.random() < 0.5:
        found["cidrs"] = some(source, NETS + MORE)
        if source.random() < 0.02:
            found["cidrs"].append(source.choice(WRONG))
    for name, values in (("countries", COUNTRIES), ("organizations", ORGANIZATIONS), ("principals", PRINCIPALS)):
        if source.random() < 0.25:
            found[name] = some(source, values)
    if source.random() < 0.25:
        found["schedule"] = random_schedule(source)
    if source.random() < 0.25:
        found["through"] = random_through(source)
    if source.random() < 0.005:
        found[source.choice(("moon", "Cidrs"))] = []
    return found


def random_list(source: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {"dryRun": True} if source.random() < 0.25 else {}
    if source.random() < 0.3:
        rules = (
            {key: value for key, value in random_clause(source).items() if key in {"action", "cidrs"}} for _ in "123"
        )
        found |= {"default": source.choice(("Allow", "Deny")), "rules": list(rules)[: source.randint(0, 3)]}
    if "rules" not in found or source.random() < 0.02:
        length = source.choice((1, 2, 3, 5, 70)) if source.random() < 0.05 else source.randint(1, 4)
        found["clauses"] = [random_clause(source) for _ in range(length)]
        found["otherwise"] = source.choice(("Allow", "Deny"))
    return found


def random_case(source: random.Random) -> dict[str, Any]:
    lists = [random_list(source) for _ in range(source.choice((0, 1, 1, 1, 2, 2, 3)))]
    case: dict[str, Any] = {"access": {"lists": lists}, "now": NOW + source.randint(-100_000, 100_000)}
    if source.random() < 0.9:
        case["address"] = source.choice(VISITORS + OTHERS)
    if source.random() < 0.7:
        case["country"] = source.choice(COUNTRIES)
    if source.random() < 0.6:
        kind, name = source.choice(("user", "app")), source.choice(("bob", "alice", "acme/etl"))
        case["caller"] = {"kind": kind, "name": name, "organizations": some(source, ORGANIZATIONS, 2)}
        if source.random() < 0.3:
            case["caller"]["perhaps"] = some(source, ORGANIZATIONS, 2)
    if source.random() < 0.8:
        parts = {"region": source.choice(REGIONS), "country": source.choice(COUNTRIES)}
        kept = {name: value for name, value in parts.items() if source.random() < 0.8}
        case["place"] = {"pop": source.choice(POPS), **kept}
    return case


# ---- what follows for those who know a part only ---------------------------------------------------------------------

readable_lists = st.integers(0, 1 << 32).map(lambda seed: list(_readable(random.Random(seed))))


def _readable(source: random.Random) -> Iterator[AccessList]:
    for _ in range(source.randint(1, 3)):
        try:
            found = msgspec.convert(random_list(source), AccessList)
        except msgspec.ValidationError:
            continue
        if asking.is_readable(found):
            yield found


@given(readable_lists, st.integers(0, 1 << 32))
def test_what_a_gateway_lets_in_is_never_less_than_what_the_pop_does(lists: list[AccessList], seed: int) -> None:
    """For visitors who have shown no identity, as all of a gateway's."""
    access, case = Access(lists=tuple(lists)), random_case(random.Random(seed))
    now: int = case["now"]
    visitor = Asking(address=case.get("address", "10.1.2.3"), now=now)
    if asking.address(visitor.address) is None:
        return
    at_gateway = asking.decide(asking.by_address(access, now), Asking(address=visitor.address)).allowed
    for country in (None, *COUNTRIES):
        for place in (None, PopPlace(pop="fra", region="eu", country="DE"), PopPlace(pop="nyc", country="US")):
            at_pop = asking.decide(access, visitor._replace(country=country, place=place)).allowed
            assert at_gateway or not at_pop


@given(readable_lists, st.integers(0, 1 << 32))
def test_whom_a_pop_lets_in_its_gateway_did_too_where_visitors_sign_in(lists: list[AccessList], seed: int) -> None:
    access, case = Access(lists=tuple(lists)), random_case(random.Random(seed))
    whole = asking_of(case)
    left = asking.by_visitor(access, case["now"])
    at_gateway = asking.decide(left, Asking(address=whole.address, caller=whole.caller)).allowed
    assert at_gateway or not asking.decide(access, whole).allowed
    assert not any(
        clause.countries or clause.through or clause.schedule for one in left.lists for clause in one.clauses
    )


@given(readable_lists, st.integers(0, 1 << 32))
def test_whoever_has_no_prospect_passes_by_nothing_that_is_learnt_later(lists: list[AccessList], seed: int) -> None:
    """As an agent, which knows the caller and the hour, stands to a POP; and the control plane to both."""
    access, whole = Access(lists=tuple(lists)), asking_of(random_case(random.Random(seed)))
    at_agent = whole._replace(address=None, country=None, place=None)
    for less in (at_agent, at_agent._replace(now=None), at_agent._replace(now=None, caller=None)):
        assert asking.might(access, less) or not asking.decide(access, whole).allowed
        assert asking.decide(access, whole).allowed or not asking.decide(access, less).allowed, "and what is certain is"


@given(readable_lists, st.integers(0, 1 << 32))
def test_a_place_that_may_not_carry_lets_nobody_pass(lists: list[AccessList], seed: int) -> None:
    access, source = Access(lists=tuple(lists)), random.Random(seed)
    place = msgspec.convert({"pop": source.choice(POPS), "country": source.choice(COUNTRIES)}, PopPlace)
    if not asking.may_carry(access, place):
        for _ in range(20):
            case = random_case(source)
            caller = case.get("caller")
            who = caller_of(caller) if caller else None
            asked = Asking(case.get("address"), case.get("country"), case["now"], who, place)
            assert not asking.decide(access, asked).allowed


@given(st.integers(0, 1 << 32), st.integers(-200_000, 200_000))
def test_between_two_edges_a_schedule_says_the_same(seed: int, after: int) -> None:
    found = msgspec.convert(random_schedule(random.Random(seed)), AccessSchedule)
    if not schedules.is_readable(found):
        return
    now = NOW + after
    edge = schedules.edge(found, now)
    last = edge - 1 if edge is not None else now + 10_000_000
    assert schedules.speaks(found, last) is schedules.speaks(found, now)
    assert schedules.speaks(found, (now + last) // 2) is schedules.speaks(found, now)


class FormerList(Model, frozen=True):
    """A list as edges knew it before there were clauses."""

    default: Action = Action.DENY
    rules: tuple[AccessListRule, ...] = ()


@given(readable_lists)
def test_an_edge_from_before_clauses_denies_whoever_they_speak_of(lists: list[AccessList]) -> None:
    for one in lists:
        read = msgspec.json.decode(msgspec.json.encode(one), type=FormerList)
        former = AccessList(default=read.default, rules=read.rules)
        for visitor in VISITORS:
            allowed = asking.judge(former, Asking(address=visitor)).allowed
            assert not allowed or (not one.clauses and asking.judge(one, Asking(address=visitor)).allowed)


def test_a_carrier_is_allowed_for_somebody_before_it_is_denied_for_all() -> None:
    germany, france = PopPlace(pop="fra", country="DE"), PopPlace(pop="par", country="FR")
    german = AccessClause(action=Action.ALLOW, through=AccessThrough(countries=("DE",)))
    alone = Access(lists=(AccessList(default=Action.ALLOW), AccessList(clauses=(german,))))
    assert asking.may_carry(alone, germany) and not asking.may_carry(alone, france)
    assert not asking.may_carry(alone, None)
    some_french = AccessClause(action=Action.ALLOW, cidrs=("10.0.0.0/8",), through=AccessThrough(countries=("FR",)))
    assert asking.may_carry(Access(lists=(AccessList(clauses=(german, some_french)),)), france)
    assert asking.may_carry(Access(lists=(AccessList(clauses=(german,), dry_run=True),)), france)
