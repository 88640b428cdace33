"""`drtp audit`: the audit log on the control plane's machine, from its files; the control plane need not run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from drtp.api.audit import AuditPage, AuditWanted, Order
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Retryable, Terminal
from drtp.kit.sockets import operator_socket
from drtp.main import auditfile
from drtp.main.auditfile import AuditExport, Extent
from drtp.main.commands.auditoptions import filters, heads_option, limit_option, wanted
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.embedded.layout import Layout
from drtp.main.embedded.operator_client import OperatorClient

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DRTP_DATA_DIR",
    required=True,
    help="That of the control plane.",
)


@click.group(short_help="Read the audit log: who did what, and when.")
def audit() -> None:
    """Read the audit log: who did what, from where, and whether it was allowed."""


@audit.command("list")
@_data_dir
@filters
@click.option("--project", default="", help="Events of this project.")
@limit_option
@output_option
def list_(
    data_dir: Path,
    *,
    since: str | None,
    until: str | None,
    event: str,
    identity: str,
    project: str,
    limit: int,
    output: OutputForm,
) -> None:
    """Show the newest lines."""
    from drtp.main.datum.tables import table

    asked = wanted(since, until, event, identity, project)
    pages = _pages(data_dir, asked, Order.NEWEST, limit)
    lines = [line for page in pages for line in page.lines][:limit][::-1]
    if output is OutputForm.JSON:
        for line in lines:
            click.echo(line.decode())
    else:
        click.echo(table(auditfile.TITLES, auditfile.rows(auditfile.decoded(lines))))


@audit.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), envvar="DRTP_DATA_DIR")
@heads_option
@output_option
def verify(file: Path | None, data_dir: Path | None, heads: tuple[str, ...], output: OutputForm) -> None:
    """Check the whole chain over all files; or an export FILE alone. Says where it breaks."""
    if file is not None:
        with auditfile.open_export(file) as export:
            _, verdict = auditfile.verify_export(export, heads)
        return auditfile.tell(verdict, output, str(file))
    if data_dir is None:
        raise click.UsageError("Say --data-dir, or the file of an export.")
    remembered = _remembered(data_dir)
    verdict = _trail(data_dir).verify((*heads, *remembered))
    auditfile.tell(verdict, output, "The audit log")
    return None


@audit.command(short_help="Write the lines to stdout, oldest first.")
@_data_dir
@filters
@click.option("--project", default="", help="Events of this project.")
def export(data_dir: Path, *, since: str | None, until: str | None, event: str, identity: str, project: str) -> None:
    """Write the lines to stdout, oldest first, with what `audit verify FILE` needs elsewhere."""
    asked = wanted(since, until, event, identity, project)
    verdict = _trail(data_dir).verify()
    extent = Extent.WHOLE if asked == AuditWanted() else Extent.PART
    first = AuditExport(extent=extent, project=project, head=verdict.head, at=SystemClock().now().isoformat())
    click.echo(msgspec.json.encode(first).decode())
    for page in _pages(data_dir, asked, Order.OLDEST, None):
        for line in page.lines:
            click.echo(line.decode())


def _pages(data_dir: Path, asked: AuditWanted, order: Order, limit: int | None) -> Iterator[AuditPage]:
    trail, after, count = _trail(data_dir), "", 0
    while True:
        page = trail.page(asked, order=order, after=after)
        yield page
        count += len(page.lines)
        if not page.next or (limit is not None and count >= limit):
            return
        after = page.next


def _trail(data_dir: Path):
    from drtp.issuers.trail import Trail

    path = _directory(data_dir) / "audit" / "audit.log"
    if not path.exists():
        raise Terminal("DRTP-1008", f"There is no audit log in {data_dir}.")
    return Trail(path)


def _remembered(data_dir: Path) -> tuple[str, ...]:
    """The newest line that a running control plane has written: it must be in the files."""
    try:
        status = asyncio.run(OperatorClient(operator_socket(_directory(data_dir))).call("GET", "/v1/status"))
    except (Retryable, Terminal):
        return ()
    return (str(status["auditHead"]),) if status.get("auditHead") else ()


def _directory(data_dir: Path) -> Path:
    """Below `drtp up` the control plane has a directory of its own."""
    layout = Layout(data_dir.absolute())
    return layout.controlplane if layout.controlplane.is_dir() else layout.root
