"""`datumctl`: people's commands. A light host: `serve` also lives in `datumctl-serve`, for other hosts."""

from __future__ import annotations

# First: a Ctrl-C may come at any import.
import drtp.main.interrupts  # isort: skip  # noqa: F401  # pyright: ignore[reportUnusedImport]

import sys

import click

from drtp import __version__
from drtp.main.datum.invocation import context_option
from drtp.main.lifeline import hold_lifeline
from drtp.main.shell import LazyGroup, run

_HELP = """Make a local service reachable, and look after it.

The control plane to talk to comes from --context, DRTP_CONTEXT, or the file that an operator put in your configuration
directory.
"""

cli = LazyGroup(
    _HELP,
    commands_at={
        "serve": "drtp.main.datum.serve_command:serve",
        "connect": "drtp.main.datum.connect_command:connect",
        "status": "drtp.main.datum.status:status",
        "servers": "drtp.main.datum.servers:servers",
        "catalog": "drtp.main.datum.catalog:catalog",
        "diagnose": "drtp.main.datum.diagnose:diagnose",
        "get": "drtp.main.datum.resources:get",
        "describe": "drtp.main.datum.resources:describe",
        "apply": "drtp.main.datum.resources:apply",
        "delete": "drtp.main.datum.resources:delete",
        "enable": "drtp.main.datum.switch:enable",
        "disable": "drtp.main.datum.switch:disable",
        "policy": "drtp.main.datum.policies:policy",
        "revoke": "drtp.main.datum.revoking:revoke",
        "audit": "drtp.main.datum.auditing:audit",
        "create": "drtp.main.datum.creating:create",
        "credentials": "drtp.main.datum.credentials:credentials",
        "accept": "drtp.main.datum.inviting:accept",
        "whoami": "drtp.main.datum.people:whoami",
        "login": "drtp.main.datum.login:login",
        "logout": "drtp.main.datum.login:logout",
        "auth": "drtp.main.datum.auth:auth",
        "tokens": "drtp.main.datum.tokens:tokens",
        "errors": "drtp.main.commands.errors:errors",
        "completion": "drtp.main.commands.completion:completion",
    },
)
cli = click.version_option(__version__, prog_name="datumctl", message="%(prog)s %(version)s")(cli)
cli = context_option(cli)


def main() -> int:
    """Console script."""
    from drtp.main.datum.hidden_secret import hide

    hide()
    hold_lifeline()
    return run(cli, "datumctl")


if __name__ == "__main__":
    sys.exit(main())
