"""Facts about the whole tree that no single room's test can state."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ROOT / "src" / "drtp"
CONTROL_TOWER = ("rules", "store", "controllers", "projections", "issuers", "apiserver", "edgeserver")
DIALS = re.compile(
    r"ClientSession|open_connection|open_unix_connection|create_connection|sock_connect|\.connect\(\(|urlopen|urlretrieve"
    r"|http\.client|getaddrinfo|gethostby|requests\.|httpx|asyncio\.create_subprocess|subprocess\."
)


def dialling(room: str) -> list[str]:
    return [str(page.relative_to(ROOMS)) for page in (ROOMS / room).rglob("*.py") if DIALS.search(page.read_text())]


def test_the_control_plane_dials_issuers_alone_ghsa_whjr_3j94_gw3c() -> None:
    """No URL in a tenant's object is ever fetched by it: the one client in these rooms asks the operator's issuers."""
    found = [page for room in CONTROL_TOWER for page in dialling(room)]
    assert sorted(found) == ["issuers/relying.py", "issuers/remotekeys.py"]
    assert dialling("client"), "the search finds what it looks for"


def test_released_arithmetic_is_checked_rustsec_2026_0007() -> None:
    """A peer's length must never wrap: every profile that is not a debug build says so, or inherits it."""
    profiles = tomllib.loads((ROOT / "native" / "Cargo.toml").read_text())["profile"]
    assert profiles["release"]["overflow-checks"] is True
    for name, profile in profiles.items():
        assert profile.get("overflow-checks", True) is True, name
        assert name in {"release", "dev"} or profile["inherits"] in {"release", "measure"}, name
