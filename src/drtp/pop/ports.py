"""Which endpoint port belongs to which connection: durable before it is used, the same after a restart.

A port whose connection is gone rests for a while before another connection may have it: a gateway that has not heard
yet would send one tenant's visitors to another's endpoint. A connection that comes back finds its own port again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from drtp.kit.clock import Clock, unix_ms
from drtp.kit.errors import Terminal
from drtp.kit.files import read_private, write_atomic

REST_MS = 60 * 60 * 1000
"""An hour: longer than any gateway goes on with an old table while it is connected."""


class Place(NamedTuple):
    """One endpoint's socket."""

    address: str
    port: int


class _Resting(msgspec.Struct, frozen=True):
    connection: str
    place: Place
    until_unix_ms: int


class _State(msgspec.Struct, frozen=True):
    assigned: dict[str, Place] = {}
    resting: tuple[_Resting, ...] = ()
    last: Place | None = None


class PortBook:
    """The POP's assignments, in one file."""

    def __init__(self, path: Path, addresses: tuple[str, ...], ports: tuple[int, int], clock: Clock) -> None:
        """`ports` is (first, last), of each address. Raises: Terminal DRTP-4021 if the file is damaged."""
        self._path = path
        self._addresses = addresses
        self._first, self._last = ports
        self._clock = clock
        try:
            self._state = msgspec.json.decode(read_private(path), type=_State)
        except FileNotFoundError:
            self._state = _State()
        except msgspec.DecodeError as error:
            raise Terminal("DRTP-4021", f"{path} cannot be read: {error}.") from error

    def settle(self, wanted: Iterable[str]) -> dict[str, Place | None]:
        """A place for each wanted connection, and rest for the places of the others. Durable when it returns.

        None: no port is free.
        """
        keep = set(wanted)
        assigned = {name: at for name, at in self._state.assigned.items() if name in keep and self._usable(at)}
        gone = [(name, at) for name, at in self._state.assigned.items() if name not in assigned]
        return self._give(keep, assigned, self._still_resting() + self._rest(gone))

    def kept(self, wanted: Iterable[str]) -> dict[str, Place | None]:
        """What is durable already: for a disk that takes nothing new. None: the connection has to wait for room."""
        return {name: self._state.assigned.get(name) for name in wanted}

    def replace(self, connection: str) -> Place | None:
        """Another place, because a stranger's program holds the present one. Durable when it returns."""
        assigned = dict(self._state.assigned)
        # Rests under no name, so that this connection does not get it back at once.
        taken = [("", assigned.pop(connection))] if connection in assigned else []
        return self._give({*assigned, connection}, assigned, self._still_resting() + self._rest(taken))[connection]

    def _give(self, keep: set[str], assigned: dict[str, Place], resting: list[_Resting]) -> dict[str, Place | None]:
        """Places for those of `keep` that have none: their own resting one, else the next free one."""
        homeless = dict.fromkeys(sorted(keep - assigned.keys()))
        own = {entry.connection: entry for entry in resting if entry.connection in homeless}
        used = {*assigned.values(), *(entry.place for entry in resting)}
        last = self._state.last
        free = (place for place in self._places(last) if place not in used)
        for connection in homeless:
            if connection in own:
                assigned[connection] = own[connection].place
            elif (place := next(free, None)) is not None:
                assigned[connection] = last = place
        still = tuple(entry for entry in resting if own.get(entry.connection) is not entry)
        self._save(_State(assigned, still, last))
        return {connection: assigned.get(connection) for connection in keep}

    def _usable(self, place: Place) -> bool:
        return place.address in self._addresses and self._first <= place.port <= self._last

    def _still_resting(self) -> list[_Resting]:
        now = unix_ms(self._clock)
        return [entry for entry in self._state.resting if entry.until_unix_ms > now and self._usable(entry.place)]

    def _rest(self, gone: list[tuple[str, Place]]) -> list[_Resting]:
        until = unix_ms(self._clock) + REST_MS
        return [_Resting(connection, place, until) for connection, place in gone if self._usable(place)]

    def _places(self, last: Place | None) -> Iterator[Place]:
        """Every place, address by address, ports from the last one given on, so that reuse is as late as it can be."""
        span = self._last - self._first + 1
        for address in self._addresses:
            start = last.port + 1 - self._first if last is not None and last.address == address else 0
            for step in range(span):
                yield Place(address, self._first + (start + step) % span)

    def _save(self, state: _State) -> None:
        if state != self._state:
            write_atomic(self._path, msgspec.json.encode(state))
            self._state = state
