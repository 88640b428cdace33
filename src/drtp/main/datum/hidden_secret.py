"""`--secret X` works, but not for long: the process re-executes itself with the secret on an inherited descriptor.

Every user of a machine may read every process' arguments. A secret given so was visible for some milliseconds, which
is why the other ways (file, stdin, environment) are the recommended ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

SECRET_FD_OPTION = "--secret-fd"  # noqa: S105 - an option's name


def hide() -> None:
    """Replace this process if its arguments hold a secret; returns otherwise."""
    secret, rest = split(sys.argv[1:])
    if secret is None:
        return
    reader, writer = os.pipe()
    os.write(writer, secret.encode())
    os.close(writer)
    os.set_inheritable(reader, True)
    # orig_argv ends with the arguments of argv[1:]; what is before them starts the same program again.
    start = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])]
    os.execv(sys.executable, [sys.executable, *start[1:], *rest, SECRET_FD_OPTION, str(reader)])  # noqa: S606


def split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of the last `--secret`, if there is one, and the arguments without any."""
    secret: str | None = None
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--secret":
            secret = next(remaining, None)
        elif argument.startswith("--secret="):
            secret = argument.removeprefix("--secret=")
        else:
            rest.append(argument)
    return secret, rest


def read_descriptor(descriptor: int) -> str:
    """Everything behind a descriptor that was passed on; it is closed."""
    with os.fdopen(descriptor, "r", encoding="utf-8") as file:
        return file.read(4096).strip()
