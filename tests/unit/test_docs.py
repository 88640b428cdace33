"""Documents are checked against the tree: links resolve, every room is named, no machine is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not {".venv", "target", "node_modules", ".cache", ".drtp"} & set(page.relative_to(ROOT).parts)
)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")


def _sources(base: Path) -> list[Path]:
    pages = (page for kind in ("*.py", "*.rs") for page in base.rglob(kind))
    return [page for page in pages if "target" not in page.relative_to(base).parts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if "://" in link or link.startswith(("#", "mailto:")):
            continue
        target = (page.parent / link.split("#")[0]).resolve()
        assert target.exists(), f"{page.relative_to(ROOT)} links to {link}"


def test_architecture_fits_two_pages() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 120


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = [room.name for room in (ROOT / "src/drtp").iterdir() if (room / "__init__.py").exists()]
    assert [room for room in rooms if room not in text] == []


def test_lock_file_carries_no_host() -> None:
    lines = (ROOT / "requirements/all.txt").read_text().splitlines()
    assert [line for line in lines if "://" in line or line.startswith("--")] == []


def test_no_tracked_file_names_a_home_directory() -> None:
    home = r"(^|[^a-zA-Z.])/(root|home/[a-z]+|tmp/[a-z]+_jobs)/"
    done = subprocess.run(
        ["git", "grep", "-nIE", home, "--", ".", ":!tests/unit/test_docs.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        pytest.skip("not a git checkout")
    assert done.stdout == ""


ADVISORY = re.compile(r"^\| ((?:GHSA|CVE|RUSTSEC)-[^|]*) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
TESTS = {path: path.read_text() for base in ("tests", "native") for path in _sources(ROOT / base)}


@pytest.mark.parametrize(("advisories", "tests"), ADVISORY.findall((ROOT / "SECURITY.md").read_text()))
def test_each_advisory_is_named_by_the_tests_that_show_what_holds(advisories: str, tests: str) -> None:
    named = re.findall(r"`(\w+)`", tests)
    homes = {name: [text for text in TESTS.values() if re.search(rf"(def|fn) {name}\(", text)] for name in named}
    assert [name for name, home in homes.items() if not home] == []
    said = " ".join(named).lower()
    assert [one for one in advisories.split(", ") if one.lower().replace("-", "_") not in said] == []


def test_every_advisory_that_a_test_names_is_in_the_table() -> None:
    listed = ", ".join(row[0] for row in ADVISORY.findall((ROOT / "SECURITY.md").read_text())).lower()
    shape = re.compile(r"ghsa(?:[-_][0-9a-z]{4}){3}|cve[-_]\d{4}[-_]\d+|rustsec[-_]\d{4}[-_]\d{4}", re.IGNORECASE)
    found = {one.lower().replace("_", "-") for text in TESTS.values() for one in shape.findall(text)}
    assert sorted(one for one in found if one not in listed) == []


def test_no_line_of_the_changelog_is_there_twice() -> None:
    lines = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.strip()]
    assert [line for line in lines if lines.count(line) > 1] == []
