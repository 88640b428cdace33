"""`datumctl diagnose [TARGET]`: what is in the way, and what to do about it."""

from __future__ import annotations

import click
import msgspec

from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access
from drtp.main.datum.diagnosis import Diagnosis, Finding, Verdict
from drtp.main.datum.invocation import Invocation, context_option, proxy_option
from drtp.main.datum.tables import wrapped
from drtp.main.datum.target import Target, parse_target
from drtp.main.shell import PAGES, Exit, Misconfigured, run_async

_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
_CHECK_WIDTH, _SUBJECT_WIDTH = 10, 34


@click.command(short_help="Look at the way to each tunnel server.")
@click.argument("target", required=False)
@context_option
@proxy_option
@output_option
def diagnose(target: str | None, output: OutputForm) -> int:
    """Look at the way from here to the control plane and each tunnel server, and at TARGET, a local service.

    Every line is OK, WARN or FAIL, with what to do. Exit 69 if any FAILs. Passwords and tokens are not shown.
    """
    parsed = parse_target(target) if target else None
    return run_async(_diagnose(Invocation.current(), parsed, output))


async def _diagnose(invocation: Invocation, target: Target | None, output: OutputForm) -> int:
    counts = dict.fromkeys(Verdict, 0)
    try:
        context = access(invocation)
    except Misconfigured as error:
        # Agents that enrolled by secret have no context: what they know is on disk.
        context = None
        counts[Verdict.WARN] += 1
        _say(Finding(Verdict.WARN, "context", "file", error.what, error.code, error.remedy), output)
    async for finding in Diagnosis(context, invocation.state_root(), target, None).findings():
        counts[finding.verdict] += 1
        _say(finding, output)
    summary = {verdict.value.lower(): count for verdict, count in counts.items()}
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode({"event": "diagnosis", **summary}).decode())
    else:
        click.echo(", ".join(f"{count} {verdict.value}" for verdict, count in counts.items()), err=True)
    return Exit.UNAVAILABLE if counts[Verdict.FAIL] else Exit.CLEAN


def _say(finding: Finding, output: OutputForm) -> None:
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode({"event": "finding", **msgspec.to_builtins(finding)}).decode())
        return
    verdict = click.style(f"{finding.verdict.value:<5}", fg=_COLOURS[finding.verdict])
    where = f"{finding.check:<{_CHECK_WIDTH}} {finding.subject:<{_SUBJECT_WIDTH}}"
    click.echo(f"{verdict} {where} {wrapped(finding.what)}")
    if finding.code:
        click.echo(f"       do: {wrapped(finding.remedy)}")
        click.echo(f"      see: {finding.code}, {PAGES}/{finding.code}.md")
