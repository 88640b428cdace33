"""Audit lines on paper: as a table, and as an export that can be verified where there is no control plane.

An export is JSON lines: first what it is (`AuditExport`), then audit lines as they were written, oldest first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import IO

import click
import msgspec

from drtp.api.audit import AuditLine, Broken, Chain, Verdict, read_line
from drtp.api.meta import Model
from drtp.kit.clock import Clock
from drtp.kit.errors import Terminal
from drtp.main.commands.options import OutputForm
from drtp.main.shell import Misused

_FIRST = ("by", "remote", "project", "seenBy")
"""Fields with a column of their own, or for programs alone."""
_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Extent(Enum):
    """Of an export. Lines of a part have a hash each; what was between them cannot be seen missing."""

    WHOLE = "Whole"
    PART = "Part"


class AuditExport(Model, frozen=True, omit_defaults=False):
    """The first line of an export. `head`: the newest line's hash at that time; a file cut short does not reach it."""

    kind: str = "AuditExport"
    version: int = 1
    extent: Extent = Extent.WHOLE
    project: str = ""
    head: str = ""
    at: str = ""


def moment(text: str | None, clock: Clock) -> datetime | None:
    """`15m`, `2h`, `3d` before now, or an RFC 3339 time. Raises: Misused."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text):
        return clock.now() - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise Misused("DRTP-7002", f"{text!r} is no time.", "Say `2h` for two hours ago, or `2026-01-31T12:00:00Z`.")
    return at


def rows(lines: Iterable[AuditLine]) -> list[Sequence[object]]:
    """For a table, oldest first."""
    return [
        (
            line.at.partition(".")[0].replace("T", " "),
            line.event,
            line.fields.get("by", ""),
            line.fields.get("remote", ""),
            line.fields.get("project", ""),
            " ".join(f"{name}={value}" for name, value in line.fields.items() if name not in _FIRST),
        )
        for line in lines
    ]


TITLES = ("time", "event", "by", "from", "project", "details")


def verify_export(file: IO[bytes], heads: Iterable[str]) -> tuple[AuditExport, Verdict]:
    """Check an export by itself. Raises: Terminal DRTP-2041 if it is none."""
    lines = iter(file)
    try:
        export = msgspec.json.decode(next(lines, b""), type=AuditExport)
    except msgspec.MsgspecError:
        raise Terminal("DRTP-2041", "This is no export of an audit log.", "Make one with `audit export`.") from None
    chain = Chain(heads={*heads, *([export.head] if export.extent is Extent.WHOLE and export.head else [])})
    fault = ""
    for number, raw in enumerate(lines, start=2):
        try:
            if export.extent is Extent.PART:
                chain.head = None  # lines between were left out: each holds by itself
            chain.take(raw.rstrip(b"\n"))
        except Broken as broken:
            fault = f"line {number} {broken}"
            break
    whole = export.extent is Extent.WHOLE
    return export, Verdict(
        sound=not fault, lines=chain.lines, head=chain.head or "", whole=whole, fault=fault, missing=chain.missing
    )


def tell(verdict: Verdict, output: OutputForm, what: str) -> None:
    """Say a verdict. Raises: Terminal DRTP-2041, DRTP-2043 for a bad one."""
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(verdict).decode())
    if not verdict.sound:
        raise Terminal("DRTP-2041", f"{what} is broken: {verdict.fault}.")
    if verdict.missing:
        raise Terminal("DRTP-2043", f"{what} does not hold {', '.join(verdict.missing)}.")
    if output is OutputForm.TEXT:
        count = f"{verdict.lines} lines" if verdict.lines else "every line"
        click.echo(f"{what} holds: {count} sound, head {verdict.head}", err=True)


def decoded(lines: Iterable[bytes]) -> Iterator[AuditLine]:
    """Lines for a table; what cannot be read is left to `verify`."""
    for raw in lines:
        try:
            yield read_line(raw)
        except Broken:
            continue


def open_export(path: Path) -> IO[bytes]:
    """The file to verify; `-` is standard input. Raises: OSError."""
    return click.open_file(str(path), "rb")
