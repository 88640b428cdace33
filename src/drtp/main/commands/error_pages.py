"""The pages of the error codes, made from the registry: `python -m drtp.main.commands.error_pages docs/errors`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from drtp.kit.codes import CODES, Code
from drtp.main.commands.condition_pages import anchor, where

_CONDITIONS = "../operations/conditions"

_BLOCKS = {
    "1": "API and validation",
    "2": "Identity and enrolment",
    "3": "Feed and edges",
    "4": "Tunnel, POP and agent",
    "5": "Gateway",
    "6": "Conditions",
    "7": "Commands and supervisor",
}


def pages(codes: Mapping[str, Code] = CODES) -> dict[str, str]:
    """File name -> content: one page for each code, and an index. Equal registries give equal pages."""
    made = {f"{number}.md": _page(number, code) for number, code in sorted(codes.items())}
    return {"README.md": _index(codes), **made}


def write(directory: Path) -> None:
    """Bring the directory up to date; pages of codes that are gone are removed."""
    directory.mkdir(parents=True, exist_ok=True)
    current = pages()
    for path in directory.glob("DRTP-*.md"):
        if path.name not in current:
            path.unlink()
    for name, content in current.items():
        (directory / name).write_text(content, encoding="utf-8")


def _page(number: str, code: Code) -> str:
    seen = [f"[{aspect} {reason}]({_CONDITIONS}/{aspect}.md#{anchor(reason)})" for aspect, reason in where(number)]
    conditions = f"**Conditions with it.** {', '.join(seen)}\n\n" if seen else ""
    return f"""# {number}: {code.title}

**What happened.** {code.what}

**What to do.** {code.remedy}

{conditions}{_block(number)}. [All codes](README.md).
"""


def _index(codes: Mapping[str, Code]) -> str:
    lines = [
        "# Error codes",
        "",
        "Every error says what happened and what to do, under a code that stays. `drtp errors CODE` shows it offline.",
        "These pages are made from `src/drtp/kit/codes.py` by `python -m drtp.main.commands.error_pages docs/errors`.",
    ]
    block = ""
    for number, code in sorted(codes.items()):
        if _block(number) != block:
            block = _block(number)
            lines += ["", f"## {block}", "", "| code | |", "|---|---|"]
        lines.append(f"| [{number}]({number}.md) | {code.title} |")
    return "\n".join(lines) + "\n"


def _block(number: str) -> str:
    return _BLOCKS[number.removeprefix("DRTP-")[0]]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
