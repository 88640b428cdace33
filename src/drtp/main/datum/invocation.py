"""What every command knows: which context file, where it came from, and where state belongs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

_KEY = "drtp.context"


def context_option(command: C) -> C:
    """`--context PATH`, before or after the command's name; the later one counts."""
    return click.option(
        "--context",
        "context_file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="DRTP_CONTEXT",
        expose_value=False,
        callback=_keep,
        help="File that names the control plane, with a token (mode 0600).",
    )(command)


def _keep(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    kept = context.find_root().meta
    # A flag before the command's name beats the variable that the command itself would read.
    by_flag = context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
    if value is not None and (by_flag or _KEY not in kept):
        kept[_KEY] = value
    return value


def proxy_option(command: C) -> C:
    """`--proxy URL`: for all that the command does, and before any variable."""
    return click.option(
        "--proxy",
        metavar="URL",
        expose_value=False,
        callback=_choose_proxy,
        help="http://HOST:PORT, socks5://HOST:PORT, or `direct`; else DRTP_PROXY, HTTPS_PROXY or ALL_PROXY.",
    )(command)


def _choose_proxy(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    from drtp.client.proxies import DIRECT, VARIABLE, has_credentials, parse_proxy
    from drtp.main.shell import Misused

    if value is None:
        return
    if has_credentials(value):
        raise Misused(
            "DRTP-7002",
            "--proxy carries a password, which every user of this machine could read.",
            f"Put the proxy into {VARIABLE} instead.",
        )
    if value != DIRECT:
        parse_proxy(value, "--proxy")
    # Whatever dials in this process reads it, as it reads the other variables.
    os.environ[VARIABLE] = value


@dataclass(frozen=True)
class Invocation:
    """`context_file` None: nobody named one, so the usual place is looked at."""

    context_file: Path | None

    @staticmethod
    def current() -> Invocation:
        """Of the command that is running."""
        return Invocation(click.get_current_context().find_root().meta.get(_KEY))

    @property
    def usual_context(self) -> Path:
        """Where a context is looked for when none is named."""
        return _configuration() / "context.json"

    @property
    def known_issuers(self) -> Path:
        """What the user has confirmed of issuers, whatever the context."""
        return _configuration() / "known-issuers.json"

    def state_root(self) -> Path:
        """Where agents keep their state: beside a context that was named, else in the user's state directory."""
        if given := os.environ.get("DRTP_STATE_DIR"):
            return Path(given)
        if self.context_file is not None:
            return self.context_file.absolute().parent / "agents"
        return Path(os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")) / "drtp" / "agents"


def _configuration() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")) / "datumctl"
