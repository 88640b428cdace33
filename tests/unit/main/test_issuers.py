"""The operator's file of issuers: what it may say, and that half of it is nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from drtp.kit.errors import Terminal
from drtp.main.issuers import trusted_issuers
from unit.main.controlplane_bed import settings

ISSUER = {"issuer": "https://login.example.com", "clientID": "drtp"}


def read(tmp_path: Path, *issuers: dict[str, Any]) -> Any:
    file = tmp_path / "issuers.yaml"
    file.write_bytes(msgspec.json.encode({"issuers": issuers}))
    return trusted_issuers(settings(tmp_path, issuers=file))


def test_without_a_file_nobody_is_trusted(tmp_path: Path) -> None:
    assert trusted_issuers(settings(tmp_path)) == ()


def test_names_of_users_begin_with_their_issuer(tmp_path: Path) -> None:
    (one,) = read(tmp_path, ISSUER)
    assert (one.prefix, one.audience, one.groups_claim) == ("https://login.example.com#", "drtp", "")
    (short,) = read(tmp_path, {**ISSUER, "userPrefix": "corp#"})
    assert short.prefix == "corp#"


@pytest.mark.parametrize(
    "wrong",
    [
        [{**ISSUER, "issuer": "http://login.example.com"}],
        [{**ISSUER, "issuer": "https://"}],
        [{**ISSUER, "clientID": ""}],
        [{**ISSUER, "clientId": "typo"}],
        [{**ISSUER, "userPrefix": "corp:"}],
        [{**ISSUER, "userPrefix": "#"}],
        [{**ISSUER, "userPrefix": "system:#"}],
        [{**ISSUER, "audience": "other"}],
        [{**ISSUER, "caFile": "not-there.pem"}],
        [ISSUER, ISSUER],
        [{**ISSUER, "userPrefix": "a#"}, {"issuer": "https://b.example", "clientID": "x", "userPrefix": "a#b#"}],
    ],
)
def test_a_file_with_a_fault_starts_nothing(tmp_path: Path, wrong: list[dict[str, Any]]) -> None:
    with pytest.raises(Terminal, match="DRTP-7088"):
        read(tmp_path, *wrong)


def test_a_workloads_issuer_may_have_an_audience_of_its_own(tmp_path: Path) -> None:
    (one,) = read(tmp_path, {**ISSUER, "login": False, "audience": "drtp-agents"})
    assert one.audience == "drtp-agents" and not one.login
