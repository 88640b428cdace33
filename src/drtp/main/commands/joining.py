"""How a single part gets its identity at the first start: a one-time join string, never in the arguments."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from drtp.api.reports import Registration
from drtp.kit.backoff import full_jitter
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Retryable
from drtp.kit.observe import logger
from drtp.kit.secret import Secret
from drtp.main.commands.options import moved_option
from drtp.main.shell import Misused

C = TypeVar("C", bound=Callable[..., Any])

log = logger("join")

_RETRY_BASE_S, _RETRY_CEILING_S = 0.25, 10.0


def join_options(command: C) -> C:
    """`--join-file FILE`, `--join-fd N`, `--moved`; DRTP_JOIN in the environment."""
    file = click.option(
        "--join-file",
        type=click.Path(allow_dash=True, dir_okay=False),
        help="File with the join string (- for stdin); needed at the first start. `drtp join` makes one.",
    )
    descriptor = click.option("--join-fd", type=int, help="Inherited descriptor with the join string.")
    return file(descriptor(moved_option(command)))


def take_as_moved(directory: Path, *, moved: bool) -> None:
    """Let a directory that looks like a copy go on here, because its owner says that it is none."""
    from drtp.client import home

    if moved and directory.is_dir():
        home.settle(directory)


def read_join(join_file: str | None, join_fd: int | None) -> Secret[str] | None:
    """The join string, if one was given; it is taken out of the environment. Raises: Misused (DRTP-7010)."""
    from_environment = os.environ.pop("DRTP_JOIN", None)
    try:
        if join_fd is not None:
            with os.fdopen(join_fd, "r", encoding="utf-8") as file:
                text = file.read(4096)
        elif join_file == "-":
            text = sys.stdin.readline()
        elif join_file is not None:
            text = Path(join_file).read_text(encoding="utf-8")
        else:
            text = from_environment
    except (OSError, UnicodeDecodeError) as fault:
        raise Misused("DRTP-7010", f"The join string cannot be read: {fault}.") from fault
    return None if text is None else Secret(text.strip())


async def ensure_identity(directory: Path, registration: Registration, join: Secret[str] | None) -> None:
    """Enrol unless there is an identity. Tries again while the control plane cannot be reached.

    Raises: Misused without a join string; Refused, Terminal, Conflict as the control plane answers.
    """
    from drtp.client.enrolment import enrol
    from drtp.client.identity import IdentityStore
    from drtp.client.joining import parse_join
    from drtp.kit.files import private_directory

    identities = IdentityStore(private_directory(directory))
    if identities.load() is not None:
        return
    if join is None:
        raise Misused(
            "DRTP-7010",
            f"{directory} holds no identity, and no join string was given.",
            "Make one with `drtp join` on the control plane, and give it by --join-file, --join-fd or DRTP_JOIN.",
        )
    string = parse_join(join.reveal())
    delays = full_jitter(_RETRY_BASE_S, _RETRY_CEILING_S)
    while True:
        try:
            await enrol(string.edge, identities, registration, secret=string.secret)
        except Retryable as fault:
            # The same key and secret again: an answer that was lost is given again.
            delay_s = next(delays)
            log.warning("not enrolled yet", code=fault.code, reason=fault.what, retry_after_s=round(delay_s, 1))
            await SystemClock().sleep(delay_s)
        else:
            return
