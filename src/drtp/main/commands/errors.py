"""`drtp errors CODE`: an error's page without the network."""

from __future__ import annotations

import click

from drtp.kit.codes import CODES
from drtp.main.shell import Misused


@click.command()
@click.argument("code", required=False)
def errors(code: str | None) -> None:
    """Explain an error code; without one, list them all."""
    if code is None:
        for number, entry in sorted(CODES.items()):
            click.echo(f"{number}  {entry.title}")
        return
    wanted = code.upper() if code.upper().startswith("DRTP-") else f"DRTP-{code}"
    entry = CODES.get(wanted)
    if entry is None:
        raise Misused("DRTP-7002", f"There is no code {code!r}.", "List them with `errors` alone.")
    click.echo(f"{wanted}: {entry.title}\n\n{entry.what}\n\nWhat to do: {entry.remedy}")
