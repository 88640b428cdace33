"""`datumctl audit list|verify|export`: what happened in a project, or with `--all-projects` everywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import msgspec

from drtp.api.audit import LINES_MAX, AuditWanted, Order, Verdict
from drtp.client.api import ApiClient
from drtp.kit.clock import SystemClock
from drtp.main import auditfile
from drtp.main.auditfile import AuditExport, Extent
from drtp.main.commands.auditoptions import filters, heads_option, limit_option, wanted
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access, namespace_option
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.tables import table
from drtp.main.shell import run_async

_IDENTITY = "identity.datumapis.com/v1alpha"
_everywhere = click.option("--all-projects", "-A", "everywhere", is_flag=True, help="All of it: for the operator.")


@click.group(short_help="Read the audit log: who did what, and when.")
def audit() -> None:
    """Read the audit log: who did what, from where, and whether it was allowed."""


@audit.command("list")
@context_option
@namespace_option
@_everywhere
@filters
@limit_option
@output_option
def list_(
    namespace: str | None,
    *,
    everywhere: bool,
    since: str | None,
    until: str | None,
    event: str,
    identity: str,
    limit: int,
    output: OutputForm,
) -> int:
    """Show the newest lines that concern the project."""
    asked = wanted(since, until, event, identity)
    return run_async(_list(Invocation.current(), namespace, asked, limit, output, everywhere=everywhere))


@audit.command(short_help="Have the whole chain checked.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@context_option
@namespace_option
@_everywhere
@heads_option
@output_option
def verify(
    file: Path | None, *, namespace: str | None, everywhere: bool, heads: tuple[str, ...], output: OutputForm
) -> int:
    """Have the whole chain checked; or check an export FILE here, without a control plane."""
    if file is not None:
        with auditfile.open_export(file) as export:
            _, verdict = auditfile.verify_export(export, heads)
        auditfile.tell(verdict, output, str(file))
        return 0
    return run_async(_verify(Invocation.current(), namespace, heads, output, everywhere=everywhere))


@audit.command(short_help="Write the lines to stdout, oldest first.")
@context_option
@namespace_option
@_everywhere
@filters
def export(
    namespace: str | None, *, everywhere: bool, since: str | None, until: str | None, event: str, identity: str
) -> int:
    """Write the lines to stdout, oldest first, with what `audit verify FILE` needs elsewhere."""
    asked = wanted(since, until, event, identity)
    return run_async(_export(Invocation.current(), namespace, asked, everywhere=everywhere))


class _Door:
    """Where queries are posted."""

    def __init__(self, api: ApiClient, namespace: str | None, *, everywhere: bool) -> None:
        self._api = api
        self.project = "" if everywhere else namespace or api.namespace

    async def ask(self, **spec: Any) -> dict[str, Any]:
        """One query; gives its status."""
        kind = "AuditQuery" if self.project else "ClusterAuditQuery"
        plural = "auditqueries" if self.project else "clusterauditqueries"
        body = {"apiVersion": _IDENTITY, "kind": kind, "spec": msgspec.to_builtins(spec)}
        status: dict[str, Any] = (await self._api.create(body, plural, namespace=self.project or None))["status"]
        return status

    async def lines(self, asked: AuditWanted, order: Order) -> AsyncIterator[bytes]:
        """Every line, a page at a time."""
        after = ""
        while True:
            status = await self.ask(wanted=asked, order=order, limit=LINES_MAX, **({"after": after} if after else {}))
            for line in status["lines"]:
                # Members keep their order, so these are the bytes that were written.
                yield msgspec.json.encode(line)
            after = status["next"]
            if not after:
                return

    async def verdict(self, heads: tuple[str, ...]) -> Verdict:
        """Of the whole chain."""
        status = await self.ask(limit=0, verify=True, heads=heads)
        return msgspec.convert(status["verdict"], Verdict)


async def _list(
    invocation: Invocation,
    namespace: str | None,
    asked: AuditWanted,
    limit: int,
    output: OutputForm,
    *,
    everywhere: bool,
) -> int:
    found: list[bytes] = []
    async with ApiClient(access(invocation)) as api:
        async for line in _Door(api, namespace, everywhere=everywhere).lines(asked, Order.NEWEST):
            found.append(line)
            if len(found) == limit:
                break
    if output is OutputForm.JSON:
        for line in reversed(found):
            click.echo(line.decode())
    else:
        click.echo(table(auditfile.TITLES, auditfile.rows(auditfile.decoded(reversed(found)))))
    return 0


async def _verify(
    invocation: Invocation, namespace: str | None, heads: tuple[str, ...], output: OutputForm, *, everywhere: bool
) -> int:
    async with ApiClient(access(invocation)) as api:
        verdict = await _Door(api, namespace, everywhere=everywhere).verdict(heads)
    auditfile.tell(verdict, output, "The audit log")
    return 0


async def _export(invocation: Invocation, namespace: str | None, asked: AuditWanted, *, everywhere: bool) -> int:
    async with ApiClient(access(invocation)) as api:
        door = _Door(api, namespace, everywhere=everywhere)
        verdict = await door.verdict(())
        extent = Extent.WHOLE if everywhere and asked == AuditWanted() else Extent.PART
        first = AuditExport(extent=extent, project=door.project, head=verdict.head, at=SystemClock().now().isoformat())
        click.echo(msgspec.json.encode(first).decode())
        async for line in door.lines(asked, Order.OLDEST):
            click.echo(line.decode())
    return 0
