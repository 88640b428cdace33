"""`drtp config check`: what a command would start with, without starting it."""

from __future__ import annotations

from pathlib import Path

import click

from drtp.main.shell import LazyGroup

config = LazyGroup("Look at settings.", commands_at={"check": "drtp.main.commands.config:check"})


@click.command(short_help="Check files and directories.")
@click.option("--context", type=click.Path(dir_okay=False, path_type=Path), envvar="DRTP_CONTEXT", help="Context file.")
@click.option("-f", "--file", type=click.Path(dir_okay=False, path_type=Path), help="Services for `datumctl serve -f`.")
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), envvar="DRTP_DATA_DIR", help="Of `drtp up`."
)
@click.option("--issuers", type=click.Path(dir_okay=False, path_type=Path), envvar="DRTP_ISSUERS", help="Issuers file.")
def check(context: Path | None, file: Path | None, data_dir: Path | None, issuers: Path | None) -> None:
    """Check files and directories; the first fault is explained, and the exit status says so (78)."""
    from drtp.kit.files import private_directory

    if data_dir is not None and data_dir.exists():
        private_directory(data_dir)
        click.echo(f"[ OK ] {data_dir}")
    if context is not None:
        from drtp.client.context import load_context

        found = load_context(context)
        click.echo(f"[ OK ] {context}: {found.api}, project {found.namespace}")
    if file is not None:
        from drtp.main.datum.serve_file import requests_in

        for request in requests_in(file):
            click.echo(f"[ OK ] {request.name}: {request.target.written if request.target else '-'}")
    if issuers is not None:
        from drtp.main.issuers import read_issuers

        for one in read_issuers(issuers):
            click.echo(f"[ OK ] {one.issuer}: users {one.prefix}…, {'people' if one.login else 'workloads'}")
    if context is None and file is None and data_dir is None and issuers is None:
        click.echo("Nothing to check: give --context, --file, --data-dir or --issuers.", err=True)
