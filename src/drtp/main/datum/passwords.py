"""`datumctl create password`: from an operator's stdin to the API in a posted object, and in no argument."""

from __future__ import annotations

import getpass
import sys

import click

from drtp.client.api import ApiClient
from drtp.kit.secret import Secret
from drtp.main.datum.access import access
from drtp.main.datum.auth import IDENTITY
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.shell import Misused, run_async


@click.command("password", short_help="Set a user's password.")
@click.argument("name")
@context_option
def create_password(name: str) -> int:
    """Set the password of the user NAME, who is made if need be: for operators. It is read from stdin.

    Who has one signs in with `datumctl login`; sign-ins with the former one are ended. Roles are given as to anybody.
    """
    return run_async(_create(Invocation.current(), name, _read()))


async def set_password(api: ApiClient, name: str, password: Secret[str]) -> str:
    """The user's uid. Raises: Refused, Invalid."""
    spec = {"user": name, "password": password.reveal()}
    made = await api.create({"apiVersion": IDENTITY, "kind": "UserPassword", "spec": spec}, "userpasswords")
    return str(made["status"]["uid"])


async def _create(invocation: Invocation, name: str, password: Secret[str]) -> int:
    async with ApiClient(access(invocation)) as api:
        uid = await set_password(api, name, password)
    click.echo(f"{name} ({uid}) signs in with the new password", err=True)
    return 0


def _read() -> Secret[str]:
    """The first line of stdin; typed twice and unseen at a terminal. Raises: Misused DRTP-7010."""
    if sys.stdin.isatty():
        first, again = getpass.getpass("Password: "), getpass.getpass("Again: ")
        if first != again:
            raise Misused("DRTP-7010", "The two passwords differ.", "Type it again.")
    else:
        first = sys.stdin.readline().rstrip("\r\n")
    if not first:
        raise Misused("DRTP-7010", "There is no password on stdin.", "Such as: datumctl create password NAME < FILE")
    return Secret(first)
