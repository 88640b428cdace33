"""What a gateway makes of access at one moment: addresses and the clock, and the rest is left to POPs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from drtp.api.drtp import Action
from drtp.api.snapshots import (
    Access,
    AccessClause,
    AccessList,
    AccessSchedule,
    Entry,
    HttpHost,
    HttpRule,
    ProbeTarget,
    TcpExposure,
)
from drtp.gateway.admission import admitted
from drtp.gateway.clocked import Clocked

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
UNTIL_ONE = AccessSchedule(not_after=int((NOON + HOUR).timestamp()))


def tcp(*clauses: AccessClause, dry_run: bool = False) -> TcpExposure:
    open_to_all = AccessList(default=Action.ALLOW)
    lists = (open_to_all, AccessList(clauses=clauses, dry_run=dry_run)) if clauses or dry_run else (open_to_all,)
    return TcpExposure(address="127.0.0.1", port=15432, access=Access(lists=lists), backends=())


def networks(entry: Entry, at: datetime = NOON) -> tuple[str, ...]:
    carried = Clocked().at({"one": entry}, at)["one"]
    assert isinstance(carried, TcpExposure)
    who = admitted(carried.access)
    assert who.fault == ""
    return who.networks


def test_a_schedule_that_ends_shuts_the_port_at_its_edge() -> None:
    entry = tcp(AccessClause(action=Action.ALLOW, cidrs=("203.0.113.0/24",), schedule=UNTIL_ONE))
    clocked = Clocked()
    first = clocked.at({"one": entry}, NOON)
    assert not clocked.is_due(NOON + HOUR - timedelta(seconds=1))
    assert clocked.at({"one": entry}, NOON + HOUR / 2)["one"] is first["one"]
    assert clocked.is_due(NOON + HOUR)
    later = clocked.at({"one": entry}, NOON + HOUR)["one"]
    assert isinstance(later, TcpExposure) and admitted(later.access).networks == ()
    assert not clocked.is_due(NOON + 2 * HOUR)
    assert networks(entry) == ("203.0.113.0/24",)


def test_countries_are_left_to_the_pop() -> None:
    german = AccessClause(action=Action.ALLOW, cidrs=("203.0.113.0/24",), countries=("DE",))
    korean = AccessClause(action=Action.DENY, countries=("KP",))
    assert networks(tcp(korean, german)) == ("203.0.113.0/24",)


def test_whoever_must_show_an_identity_is_refused_at_a_public_port() -> None:
    assert networks(tcp(AccessClause(action=Action.ALLOW, principals=("user:bob",)))) == ()
    assert networks(tcp(AccessClause(action=Action.ALLOW, organizations=("acme",)))) == ()


def test_a_list_that_only_counts_shuts_nobody_out() -> None:
    assert networks(tcp(dry_run=True)) == ("0.0.0.0/0", "::/0")


def test_access_that_nobody_has_taken_the_clock_to_admits_nobody() -> None:
    who = admitted(tcp(AccessClause(action=Action.ALLOW)).access)
    assert who.networks == () and who.fault


def test_entries_without_any_of_it_stay_the_very_same() -> None:
    entries: dict[str, Entry] = {
        "tcp": tcp(),
        "pop": ProbeTarget(server="p", name="p", address="127.0.0.1", health_port=1),
    }
    carried = Clocked().at(entries, NOON)
    assert all(carried[key] is entry for key, entry in entries.items())


def test_each_rule_of_a_host_is_taken_to_the_clock() -> None:
    access = tcp(AccessClause(action=Action.ALLOW, schedule=UNTIL_ONE)).access
    host = HttpHost(address="127.0.0.1", port=80, hostname="a.example", rules=(HttpRule(matches=(), access=access),))
    clocked = Clocked()
    clocked.at({"host": host}, NOON)
    assert clocked.is_due(NOON + HOUR)
    carried = clocked.at({"host": host}, NOON + HOUR)["host"]
    assert isinstance(carried, HttpHost) and admitted(carried.rules[0].access).networks == ()
