"""The vectors that Rust reads too (`native/drtp-core/tests/vectors.rs`): both sides must agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import mmdb
from drtp.api.snapshots import Access, Entry
from drtp.rules.access import permits

VECTORS: Any = json.loads((Path(__file__).parents[1] / "vectors" / "snapshots.json").read_text())


def test_the_database_of_countries_is_what_its_maker_makes() -> None:
    """Run: python tests/mmdb.py."""
    assert mmdb.FILE.read_bytes() == mmdb.database(mmdb.COUNTRIES)


@pytest.mark.parametrize("table", ["routeTable", "tunnelPlan"])
def test_every_field_of_every_entry_is_known(table: str) -> None:
    """`bind` is the host's own addition, for the core alone."""
    for key, entry in VECTORS[table].items():
        read = msgspec.convert(entry, Entry)
        known = {field.encode_name for field in msgspec.structs.fields(read)} | {"type", "bind"}
        assert set(entry) <= known, key
        assert msgspec.json.decode(msgspec.json.encode(read), type=Entry) == read


@pytest.mark.parametrize("case", VECTORS["access"], ids=lambda case: f"{case['visitor']}-{case['allowed']}")
def test_access_is_judged_the_same(case: dict[str, Any]) -> None:
    assert permits(msgspec.convert(case["access"], Access), case["visitor"]) is case["allowed"]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("route/6f1c", {"type": "router"}),
        ("route/6f1c", {"mode": "open"}),
        ("route/6f1c", {"access": {"lists": [{"default": "Audit"}]}}),
        ("route/6f1c", {"access": {"lists": [{"rules": [{"action": "Maybe", "cidrs": []}]}]}}),
        ("service/6f1c", {"proxyProtocol": "V3"}),
    ],
    ids=str,
)
def test_a_kind_that_nobody_knows_is_refused_whole_cve_2026_30836_cve_2025_44005(
    key: str, change: dict[str, Any]
) -> None:
    """Enumerations are closed on both sides: the core's half is in `native/drtp-core/tests/guard.rs`."""
    entry: Any = next(table[key] for table in (VECTORS["routeTable"], VECTORS["tunnelPlan"]) if key in table)
    msgspec.convert(entry, Entry)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(entry | change, Entry)
