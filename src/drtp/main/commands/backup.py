"""`drtp backup, restore`: everything of a control plane that cannot be made again, in one file."""

from __future__ import annotations

from pathlib import Path

import click

from drtp.main.embedded.layout import Layout

_file = click.Path(dir_okay=False, path_type=Path)
_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DRTP_DATA_DIR",
    required=True,
    help="That of the control plane.",
)


@click.command(short_help="Write a backup of the control plane.")
@click.argument("file", type=_file)
@_data_dir
def backup(file: Path, data_dir: Path) -> None:
    """Write a backup of the control plane to FILE, running or not. It holds the authority's keys: keep it safe."""
    from drtp.main.backup import back_up, record_backup

    back_up(_directory(data_dir), file.absolute())
    record_backup(_directory(data_dir), file.absolute())
    click.echo(
        f"{file} holds everything of the control plane. Whoever has it can pose as this control plane.", err=True
    )


@click.command(short_help="Put a backup in place of a control plane.")
@click.argument("file", type=_file)
@_data_dir
def restore(file: Path, data_dir: Path) -> None:
    """Put the control plane in FILE in place of the one here, which must be stopped; that one is kept beside it."""
    from drtp.main.backup import restore as bring_back

    directory = _directory(data_dir)
    bring_back(file.absolute(), directory)
    click.echo(
        f"Restored into {directory}. Enrolment secrets made before are void; edges keep their identities.", err=True
    )


def _directory(data_dir: Path) -> Path:
    layout = Layout(data_dir.absolute())
    embedded = layout.controlplane.is_dir() or layout.ports.exists()
    return layout.controlplane if embedded else layout.root
