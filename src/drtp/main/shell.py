"""The door between commands and the shell: errors become two sentences, a code and an exit status."""

from __future__ import annotations

import errno
import gc
import importlib
import re
import sys
from collections.abc import Coroutine, Mapping, Sequence
from enum import IntEnum
from typing import Any, cast

import click
from click.exceptions import NoArgsIsHelpError

from drtp.kit.clock import SystemClock
from drtp.kit.errors import Conflict, DrtpError, Invalid, Refused, Retryable, Terminal
from drtp.main.commands.options import OutputForm

STARTED = SystemClock().monotonic()
"""When this program began, as far as Python code can tell: about 20 ms after the process did."""

_NAMED_CODE = re.compile(r"\s*\((DRTP-\d{4})\)$")

_INVALID = re.compile(r".* is invalid:")

_DENIED = frozenset({"DRTP-2006", "DRTP-2007", "DRTP-2017"})
"""An identity that is over (revoked, locked, nothing to serve): whoever restarts programs is to leave it alone."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

PAGES = "docs/errors"
"""Where the page of each code is, in the repository and beside the installed documentation."""


class Exit(IntEnum):
    """Exit statuses that scripts rely on; the numbers above 1 are sysexits.h, and the shells' own for Ctrl-C."""

    CLEAN = 0
    TERMINAL = 1
    USAGE = 64
    UNAVAILABLE = 69
    DENIED = 77
    CONFIGURATION = 78
    INTERRUPTED = 130


class Misused(Invalid):
    """The command line itself is wrong."""


class Misconfigured(Terminal):
    """A file or variable that the command reads is wrong or missing."""


def exit_status(error: DrtpError) -> Exit:
    """The status for one error, by its kind."""
    if isinstance(error, Misused) or error.code in ("DRTP-7004", "DRTP-7005"):
        return Exit.USAGE
    if isinstance(error, Misconfigured | Invalid) or error.code == "DRTP-7001":
        return Exit.CONFIGURATION
    if (
        error.code in _DENIED
        or isinstance(error, Refused)
        or (isinstance(error, Conflict) and error.code.startswith("DRTP-2"))
    ):
        # A secret that another key has used is a refusal, whatever the server calls it.
        return Exit.DENIED
    return Exit.UNAVAILABLE if isinstance(error, Retryable) else Exit.TERMINAL


def explain(error: DrtpError) -> str:
    """What happened, what to do, where to read more; one line each, or several where the words have several.

    Every other control character is escaped, and what is not ours begins no line.
    """
    from drtp.kit.observe import printable

    # The API's own code, where it gave one, has the better page than "the API refused".
    named = _NAMED_CODE.search(error.what)
    code = named.group(1) if named else error.code
    what = _NAMED_CODE.sub("", error.what)
    faults = tuple(_NAMED_CODE.sub("", fault) for fault in error.faults) if isinstance(error, Invalid) else ()
    if faults and (head := _INVALID.match(what)):
        # The API's sentence repeats every fault; below, each has a line of its own.
        what = f"{head.group()} {len(faults)} fault{'s' if len(faults) > 1 else ''}."
    first, *rest = what.splitlines() or [""]
    lines = [click.style("error: ", fg="red") + printable(first), *(f"       {printable(one)}" for one in rest)]
    lines += [f"       {printable(fault)}" for fault in faults]
    if error.remedy:
        lines.append(f"   do: {printable(error.remedy)}")
    return "\n".join([*lines, f"  see: {code}, {PAGES}/{code}.md"])


def until(instant: str) -> str:
    """An RFC 3339 instant in UTC as people read it, to the second."""
    return f"{instant[:19].replace('T', ' ')} UTC"


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: start-up time is part of the product."""

    def __init__(self, words: str, *, commands_at: Mapping[str, str]) -> None:
        """`words`: the help text. `commands_at`: command name -> `module:attribute`."""
        super().__init__(help=words, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
        self._commands_at = dict(commands_at)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order they were given: the common ones first."""
        return [*self._commands_at, *sorted(super().list_commands(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        place = self._commands_at.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With the nearest command's name, where one is mistyped."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as fault:
            import difflib

            near = difflib.get_close_matches(args[0], self._commands_at, n=1)
            if not near:
                raise
            raise click.UsageError(f"{fault.message} Did you mean {near[0]!r}?", ctx) from fault

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Skip commands whose parts are not installed: an agent's installation lists what it can do."""
        rows: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(70)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a click command as a program; gives the exit status. Never lets a traceback out."""
    # Imports make many objects that live for ever: looking through them for garbage is a tenth of the start-up time.
    gc.disable()
    try:
        status = command.main(
            args=None if arguments is None else list(arguments), prog_name=name, standalone_mode=False
        )
        return status if isinstance(status, int) else Exit.CLEAN
    except click.exceptions.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        # The reader of stdout has gone, as `| head` does; nothing is left to say to it.
        sys.stderr.close()
        return Exit.CLEAN
    except Exception as fault:
        # The last door: whatever comes here is told in our words.
        return _told(fault, name)


def _told(fault: Exception, name: str) -> Exit:
    """Say what ended the command; gives the exit status."""
    if isinstance(fault, click.Abort):
        # Ctrl-C, or the end of what was to be answered at a prompt.
        return Exit.INTERRUPTED if isinstance(fault.__context__, KeyboardInterrupt) else Exit.TERMINAL
    if isinstance(fault, NoArgsIsHelpError):
        click.echo(fault.format_message(), err=True)
        return Exit.USAGE
    if isinstance(fault, click.ClickException):
        error: DrtpError = Misused("DRTP-7002", _sentence(fault.format_message()), _help_for(fault, name))
    else:
        error = fault if isinstance(fault, DrtpError) else _unexpected(fault)
    click.echo(explain(error), err=True)
    return exit_status(error)


def _sentence(text: str) -> str:
    """With one full stop, where it has no end of its own."""
    return text if text.endswith((".", "?", "?)", ".)")) else f"{text}."


def _help_for(fault: click.ClickException, name: str) -> str:
    command = fault.ctx.command_path if isinstance(fault, click.UsageError) and fault.ctx is not None else name
    return f"Run `{command} --help`."


def _unexpected(fault: Exception) -> DrtpError:
    """What nobody foresaw. The operating system's words suffice for files it refuses; else a file has the details."""
    import os
    import traceback

    if os.environ.get("DRTP_DEBUG"):
        traceback.print_exception(fault)
    if isinstance(fault, OSError | BaseExceptionGroup) and (known := expected_error(fault)) is not None:
        return known
    kept = _kept("".join(traceback.format_exception(fault)))
    return Terminal("DRTP-7060", f"The command failed by its own fault: {type(fault).__name__}; details: {kept}.")


def _kept(details: str) -> str:
    """The private file that holds the details now, or why there is none."""
    import os
    import tempfile

    try:
        descriptor, path = tempfile.mkstemp(prefix="drtp-failure-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(details)
    except OSError as refused:
        return f"none, no file could be written ({refused.strerror})"
    return path


def no_colour_wanted() -> bool:
    """Whether NO_COLOR is set (https://no-color.org: any value that is not empty)."""
    import os

    return bool(os.environ.get("NO_COLOR"))


def run_async(work: Coroutine[Any, Any, int]) -> int:
    """Run a command's coroutine; an expected error inside task groups comes out as itself."""
    import asyncio

    gc.freeze()
    gc.enable()
    try:
        return asyncio.run(work)
    except (BaseExceptionGroup, OSError) as fault:
        error = expected_error(fault)
        if error is None:
            raise
        raise error from fault


def run_lasting(work: Coroutine[Any, Any, int]) -> int:
    """As `run_async`, for what runs on and has the tunnel's driver beside its loop."""
    from drtp.kit.memory import share_arenas

    share_arenas()
    return run_async(work)


def expected_error(fault: BaseException) -> DrtpError | None:
    """The first error of ours in `fault`, or a refused file; None if there is anything else, to be seen as it is."""
    if isinstance(fault, OSError):
        return _of_a_file(fault)
    if not isinstance(fault, BaseExceptionGroup):
        return fault if isinstance(fault, DrtpError) else None
    group = cast("BaseExceptionGroup[BaseException]", fault)
    found = [expected_error(one) for one in group.exceptions]
    return None if None in found else found[0]


def _of_a_file(fault: OSError) -> DrtpError | None:
    """What the operating system said of a file; None for faults of other things."""
    if fault.errno in _NO_ROOM:
        return Terminal("DRTP-7050", f"{_named(fault) or 'A file'} cannot be written: {fault.strerror}.")
    if name := _named(fault):
        return Misconfigured("DRTP-7061", f"{name}: {fault.strerror or fault}.")
    return None


def _named(fault: OSError) -> str:
    import os

    return os.fsdecode(fault.filename) if isinstance(fault.filename, str | bytes) else ""


def set_up_logs(output: OutputForm, *, quiet: bool) -> None:
    """Log lines go to stderr: JSON beside JSON events, logfmt otherwise; `quiet` keeps warnings only.

    A file that was named by whoever started this process is kept below a size.
    """
    import logging

    from drtp.kit.logfile import own_stderr
    from drtp.kit.observe import LogFormat, configure_logs

    form = LogFormat.JSON if output is OutputForm.JSON else LogFormat.LOGFMT
    configure_logs(form, own_stderr(), level=logging.WARNING if quiet else logging.INFO)
