"""Plain tables and sizes for terminals and pipes, as kubectl prints them."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

from drtp.kit.observe import printable

_GAP = 3
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def table(titles: Sequence[str], rows: Sequence[Sequence[object]], width: int | None = None) -> str:
    """Columns as wide as their content; the last one is cut where a terminal ends. Control characters are escaped."""
    cells = [[title.upper() for title in titles], *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    limit = width or _terminal()
    lines: list[str] = []
    for row in cells:
        line = (" " * _GAP).join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        lines.append(f"{line[: limit - 1]}…" if limit and len(line) > limit else line)
    return "\n".join(lines)


def wrapped(sentence: str, width: int | None = None) -> str:
    """A sentence that nobody may miss the end of: broken between words where a terminal ends, whole in a pipe."""
    text, limit = printable(sentence), width or _terminal()
    return "\n".join(textwrap.wrap(text, limit, subsequent_indent="  ")) if limit else text


def _terminal() -> int:
    """Its columns; 0 where stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def size(count: float) -> str:
    """Bytes in the unit that gives one to four digits."""
    value = float(count)
    for unit in _SIZES[:-1]:
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_SIZES[-1]}"
