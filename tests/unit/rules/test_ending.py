"""Callers whose end has come are not carried out, and nothing else of an entry changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from drtp.api.snapshots import Access, Caller, Entry, RouteEntry
from drtp.rules.ending import Ending
from edge_world import route

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def called(*ends: datetime | None) -> RouteEntry:
    callers = tuple(Caller(identity=f"x{number}", kind="user", until=end) for number, end in enumerate(ends))
    return msgspec.structs.replace(route(), callers=callers)


def carried(entries: dict[str, Entry]) -> list[str]:
    found = entries["route/c1"]
    assert isinstance(found, RouteEntry)
    assert all(one.until is None for one in found.callers), "the core is given nobody that it would have to let go"
    return [one.identity for one in found.callers]


def test_each_caller_is_there_until_its_end() -> None:
    ending, entries = Ending(), {"route/c1": called(NOW + HOUR, None, NOW + 2 * HOUR, NOW)}
    assert carried(ending.at(entries, NOW)) == ["x0", "x1", "x2"]
    assert not ending.is_due(NOW + HOUR / 2)
    assert ending.is_due(NOW + HOUR)
    assert carried(ending.at(entries, NOW + HOUR)) == ["x1", "x2"]
    assert carried(ending.at(entries, NOW + 2 * HOUR)) == ["x1"]
    assert not ending.is_due(NOW + 9 * HOUR)


def test_a_caller_that_an_edge_decides_on_has_an_end_too() -> None:
    entry = called(None)
    entries: dict[str, Entry] = {
        "route/c1": msgspec.structs.replace(entry, conditional=called(NOW + HOUR, NOW).callers, caller_access=Access())
    }
    ending = Ending()
    for now, left in ((NOW, ["x0"]), (NOW + HOUR, [])):
        found = ending.at(entries, now)["route/c1"]
        assert isinstance(found, RouteEntry)
        assert [(one.identity, one.until) for one in found.conditional] == [(name, None) for name in left]
        assert found.caller_access == Access()
    assert carried(ending.at(entries, NOW)) == ["x0"]


def test_what_has_not_changed_is_the_very_same_entry() -> None:
    ending = Ending()
    entries: dict[str, Entry] = {"route/c1": called(NOW + HOUR), "route/c2": called(None)}
    first = ending.at(entries, NOW)
    second = ending.at(entries, NOW + HOUR / 2)
    assert all(first[key] is second[key] for key in entries)
    assert first["route/c2"] is entries["route/c2"]


def test_a_caller_with_a_field_that_this_version_does_not_know_denies_its_entry() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"identity":"x","kind":"user","onlyFrom":"DE"}', type=Caller)
