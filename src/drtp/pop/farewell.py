"""What a POP remembers over a planned restart: the agents that were there, so that it knows when it is whole again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from drtp.kit.files import read_private, write_atomic
from drtp.kit.observe import logger

_log = logger("pop")

RETURN_MAX_S = 10.0
"""A POP that is back asks gateways for no visitors until its agents are back too, for so long at most: they come within
two seconds, and one that does not is gone for good."""

MOVE_MAX_S = 3.0
"""Gateways ask every second, and say at once what they have done. One that says nothing, of an older version, has moved
after two questions."""


class Farewell:
    """One file; it is read once, by the next process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, agents: Iterable[str]) -> None:
        """At a planned stop. A full disk costs only the memory."""
        try:
            write_atomic(self._path, msgspec.json.encode(sorted(agents)))
        except OSError as error:
            _log.warning("agents not remembered", error=str(error))

    def take(self) -> frozenset[str]:
        """The agents of the process before, if that stopped on purpose."""
        try:
            agents = msgspec.json.decode(read_private(self._path), type=frozenset[str])
        except (FileNotFoundError, msgspec.DecodeError):
            return frozenset()
        self._path.unlink(missing_ok=True)
        return agents
