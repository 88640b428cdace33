"""Whom a control plane may send people to sign in with: never somebody else's issuer and client, nothing unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from drtp.client.knownissuers import KnownIssuers, origin_of
from drtp.client.oidc import Issuer
from drtp.kit.errors import Refused, Terminal

HERE, THERE = "https://api.example.com", "https://hostile.example"
COMPANY = Issuer("https://login.example.com", "drtp")


def own(api: str) -> Issuer:
    return Issuer(f"{api}/oidc", f"datumctl@{api}", local=True)


@pytest.fixture
def known(tmp_path: Path) -> KnownIssuers:
    return KnownIssuers(tmp_path / "datumctl" / "known-issuers.json")


def test_accounts_of_the_control_plane_itself_need_no_confirmation(known: KnownIssuers) -> None:
    assert known.is_confirmed(HERE, own(HERE), named=False)
    assert known.is_confirmed(f"{HERE}:443/", own(HERE), named=False)


@pytest.mark.parametrize(
    "offer",
    [
        own(HERE),
        Issuer(f"{THERE}/oidc", f"datumctl@{HERE}", local=True),
        Issuer(f"{HERE}/oidc", f"datumctl@{HERE}"),
        Issuer(f"{THERE}/oidc", f"datumctl@{HERE}"),
        Issuer(f"{THERE}/oidc", f"datumctl@{THERE}"),
        Issuer(f"{THERE}/oidc", "drtp", local=True),
        Issuer(f"{HERE}:x/oidc", f"datumctl@{HERE}:x", local=True),
    ],
)
def test_accounts_of_another_control_plane_are_refused_whoever_names_them(known: KnownIssuers, offer: Issuer) -> None:
    with pytest.raises(Refused, match="DRTP-7092"):
        known.is_confirmed(THERE, offer, named=True)


def test_an_issuer_elsewhere_counts_when_named_and_from_then_on(known: KnownIssuers, tmp_path: Path) -> None:
    assert not known.is_confirmed(HERE, COMPANY, named=False)
    assert known.is_confirmed(HERE, COMPANY, named=True)
    known.remember(HERE, COMPANY)
    again = KnownIssuers(tmp_path / "datumctl" / "known-issuers.json")
    assert again.is_confirmed(HERE, COMPANY, named=False)
    assert (tmp_path / "datumctl" / "known-issuers.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("changed", [Issuer("https://evil.example", "drtp"), Issuer(COMPANY.issuer, "other")])
def test_a_change_is_refused_until_it_is_named(known: KnownIssuers, changed: Issuer) -> None:
    known.remember(HERE, COMPANY)
    with pytest.raises(Refused, match="DRTP-7091") as refused:
        known.is_confirmed(HERE, changed, named=False)
    assert f"--issuer {changed.issuer}" in refused.value.remedy
    assert known.is_confirmed(HERE, changed, named=True)


def test_a_client_id_that_is_known_for_one_control_plane_gets_no_token_for_another(known: KnownIssuers) -> None:
    known.remember(HERE, COMPANY)
    with pytest.raises(Refused, match="DRTP-7092"):
        known.is_confirmed(THERE, COMPANY, named=True)
    assert known.is_confirmed(THERE, Issuer(COMPANY.issuer, "theirs"), named=True)


def test_of_several_the_confirmed_one_is_chosen(known: KnownIssuers) -> None:
    other = Issuer("https://second.example", "drtp")
    assert known.preferred(HERE, [COMPANY, other]) == COMPANY
    known.remember(HERE, other)
    assert known.preferred(HERE, [COMPANY, other]) == other


def test_a_file_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "known-issuers.json"
    path.touch(mode=0o600)
    path.write_text("{")
    with pytest.raises(Terminal, match="DRTP-7091"):
        KnownIssuers(path)


def test_origins_have_one_spelling() -> None:
    assert origin_of("https://API.example.com/oidc") == origin_of("https://api.example.com:443")
    assert origin_of("https://[::1]:8443/x") == "https://[::1]:8443"
