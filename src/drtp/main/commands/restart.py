"""`drtp restart`: planned restarts of the parts of a running `drtp up`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from drtp.main.commands.options import OutputForm, output_option
from drtp.main.embedded.layout import Layout
from drtp.main.embedded.operating import ask_supervisor


@click.command(short_help="Restart parts of a running `drtp up`.")
@click.argument("parts", nargs=-1, required=True, metavar="PART...")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DRTP_DATA_DIR",
    required=True,
    help="That of the running `drtp up`.",
)
@output_option
def restart(parts: tuple[str, ...], data_dir: Path, output: OutputForm) -> None:
    """Restart parts of a running `drtp up`, one after the other: controlplane, pop-1, pop-2, gateway, envoy, hello.

    `pop` is every POP, a POP may be named as its server, and `all` is everything. Each part drains first; a line is
    printed when it serves again.
    """
    for done in ask_supervisor(Layout(data_dir.absolute()).socket, parts):
        if output is OutputForm.JSON:
            click.echo(msgspec.json.encode(done).decode())
        else:
            click.echo(f"{done['part']} serves again after {done['seconds']:.1f} s (process {done['pid']})")
