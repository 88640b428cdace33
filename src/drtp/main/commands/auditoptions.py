"""Options that `drtp audit` and `datumctl audit` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from drtp.api.audit import AuditWanted
from drtp.kit.clock import SystemClock
from drtp.main import auditfile

C = TypeVar("C", bound=Callable[..., Any])

limit_option = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Lines at most."
)
heads_option = click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="HASH",
    help="A head that was noted earlier, from a log or an export: it must be in the chain. Repeat it.",
)


def filters(command: C) -> C:
    """`--since`, `--until`, `--event`, `--identity`."""
    for option in (
        click.option("--identity", default="", help="About this edge, user, token or secret, or by it."),
        click.option("--event", default="", help='Events whose name begins so, such as "certificate".'),
        click.option("--until", metavar="TIME", help="Before this time."),
        click.option("--since", metavar="TIME", help="From this time on: 30m, 2h, 3d ago, or RFC 3339."),
    ):
        command = option(command)
    return command


def wanted(since: str | None, until: str | None, event: str, identity: str, project: str = "") -> AuditWanted:
    """What the options ask for. Raises: Misused."""
    clock = SystemClock()
    return AuditWanted(
        since=auditfile.moment(since, clock),
        until=auditfile.moment(until, clock),
        event=event,
        project=project,
        identity=identity,
    )
