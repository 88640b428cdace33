"""Passwords on their way from an operator's stdin to the API: in a posted object, and in no argument."""

from __future__ import annotations

import getpass
import sys

from drtp.client.api import ApiClient
from drtp.kit.secret import Secret
from drtp.main.datum.auth import IDENTITY
from drtp.main.shell import Misused


def read_password() -> Secret[str]:
    """The first line of stdin; typed twice and unseen at a terminal. Raises: Misused DRTP-7010."""
    if sys.stdin.isatty():
        first, again = getpass.getpass("Password: "), getpass.getpass("Again: ")
        if first != again:
            raise Misused("DRTP-7010", "The two passwords differ.", "Type it again.")
    else:
        first = sys.stdin.readline().rstrip("\r\n")
    if not first:
        raise Misused("DRTP-7010", "There is no password on stdin.", "Such as: datumctl create user NAME … < FILE.")
    return Secret(first)


async def set_password(api: ApiClient, name: str, password: Secret[str]) -> str:
    """The user's uid. Raises: Refused, Invalid."""
    spec = {"user": name, "password": password.reveal()}
    made = await api.create({"apiVersion": IDENTITY, "kind": "UserPassword", "spec": spec}, "userpasswords")
    return str(made["status"]["uid"])
