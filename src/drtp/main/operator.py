"""`drtp`: the operator's commands."""

from __future__ import annotations

# First: a Ctrl-C may come at any import.
import drtp.main.interrupts  # isort: skip  # noqa: F401  # pyright: ignore[reportUnusedImport]

import sys

import click

from drtp import __version__
from drtp.main.shell import LazyGroup, run

_HELP = """DRTP: services that nobody can dial, at public addresses, for exactly the right people.

`drtp up` runs everything on this machine. The other commands run and tend single parts.
"""

cli = LazyGroup(
    _HELP,
    commands_at={
        "up": "drtp.main.commands.up:up",
        "controlplane": "drtp.main.commands.parts:controlplane",
        "pop": "drtp.main.commands.parts:pop",
        "gateway": "drtp.main.commands.parts:gateway",
        "drain": "drtp.main.commands.tend:drain",
        "restart": "drtp.main.commands.restart:restart",
        "join": "drtp.main.commands.tend:join",
        "kubeconfig": "drtp.main.commands.tend:kubeconfig",
        "backup": "drtp.main.commands.backup:backup",
        "restore": "drtp.main.commands.backup:restore",
        "ca": "drtp.main.commands.ca:ca",
        "audit": "drtp.main.commands.audit:audit",
        "config": "drtp.main.commands.config:config",
        "errors": "drtp.main.commands.errors:errors",
        "completion": "drtp.main.commands.completion:completion",
    },
)
cli = click.version_option(__version__, prog_name="drtp", message="%(prog)s %(version)s")(cli)


def main() -> int:
    """Console script."""
    return run(cli, "drtp")


if __name__ == "__main__":
    sys.exit(main())
