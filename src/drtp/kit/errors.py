"""Errors by what the caller does next. Each carries a stable code that `codes.py` explains."""

from __future__ import annotations

from drtp.kit.codes import CODES


class DrtpError(Exception):
    """What happened and what to do, in one sentence each, under a stable code `DRTP-nnnn`."""

    def __init__(self, code: str, what: str = "", remedy: str = "") -> None:
        """`what` and `remedy` default to the registry's texts. Raises KeyError for a code that is not registered."""
        entry = CODES[code]
        self.code = code
        self.what = what or entry.what
        self.remedy = remedy or entry.remedy
        super().__init__(f"{code}: {self.what} {self.remedy}".rstrip())


class Retryable(DrtpError):
    """The same call may succeed later: back off and try again."""


class Terminal(DrtpError):
    """Trying again cannot help: stop and say so."""


class Refused(DrtpError):
    """The caller may not do this."""


class Invalid(DrtpError):
    """The input is wrong: correct it. `faults` lists every fault found, each with its path."""

    def __init__(self, code: str, what: str = "", remedy: str = "", faults: tuple[str, ...] = ()) -> None:
        super().__init__(code, what, remedy)
        self.faults = faults


class Conflict(DrtpError):
    """Somebody else was faster: read again, then decide."""


class NotFound(DrtpError):
    """There is no such thing."""
