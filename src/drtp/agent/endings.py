"""How an agent or connector ends for good, where what it needs is another identity than the one that it has."""

from __future__ import annotations

from pathlib import Path

from drtp.kit.errors import Terminal

_OVER = frozenset({"DRTP-2006", "DRTP-2007", "DRTP-2009", "DRTP-2017"})
"""Of the identity that is here: revoked, locked, expired for good, or without a service."""


def placed(failure: Terminal, state_dir: Path) -> Terminal:
    """The same failure; where the identity is over, with the directory that it is in."""
    if failure.code not in _OVER:
        return failure
    return Terminal(failure.code, failure.what, f"{failure.remedy} The identity that is over is in {state_dir}.")
