"""The pages of the error codes follow the registry."""

from __future__ import annotations

import re
from pathlib import Path

from drtp.kit.codes import CODES
from drtp.main.commands.error_pages import pages

DIRECTORY = Path(__file__).parents[3] / "docs" / "errors"


def test_every_page_is_what_the_registry_makes() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in DIRECTORY.glob("*.md")}
    assert written == pages(), "run `python -m drtp.main.commands.error_pages docs/errors`"


def test_every_code_says_what_happened_and_what_to_do() -> None:
    for number, code in CODES.items():
        assert code.title
        assert code.what.endswith("."), number
        assert code.remedy.rstrip("`").endswith((".", "…")), number


UNSAID = {"DRTP-3009", "DRTP-5012", "DRTP-5013", "DRTP-5014", "DRTP-7016"}
"""Pages that stay, since codes are never taken back; nothing in the source names them."""


def test_every_code_in_the_source_is_registered_and_every_registered_one_is_said() -> None:
    root = Path(__file__).parents[3]
    files = [*root.glob("src/drtp/**/*.py"), *root.glob("native/*/src/**/*.rs")]
    said = {code for file in files if file.name != "codes.py" for code in re.findall(r"DRTP-\d{4}", file.read_text())}
    assert said - set(CODES) == set()
    assert set(CODES) - said == UNSAID
