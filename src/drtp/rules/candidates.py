"""Whose round trip is worth measuring: a bounded few of all tunnel servers, by map, until somebody has measured.

It follows from what servers and agents say of themselves alone, never from load or health, so that it moves seldom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from drtp.rules.placement import Position, distance_km

CANDIDATES_MAX = 12
"""For one agent: a handshake each, once a minute."""


class ServerPlace(NamedTuple):
    """A tunnel server that takes agents, and where it is."""

    uid: str
    generation: int
    name: str
    address: str
    port: int
    failure_domain: str
    position: Position | None = None


def nearby(servers: Iterable[ServerPlace], origin: Position | None, most: int) -> tuple[ServerPlace, ...]:
    """Up to `most`, in the order of their names: the nearest of each failure domain first, then the second nearest...

    Without an origin, or for servers without a position, names decide.
    """

    def how_far(server: ServerPlace) -> tuple[bool, float, str]:
        if origin is None or server.position is None:
            return (True, 0.0, server.name)
        return (False, distance_km(origin, server.position), server.name)

    seen: Counter[str] = Counter()
    ranked: list[tuple[int, tuple[bool, float, str], ServerPlace]] = []
    for server in sorted(servers, key=how_far):
        ranked.append((seen[server.failure_domain], how_far(server), server))
        seen[server.failure_domain] += 1
    return tuple(sorted((server for _, _, server in sorted(ranked)[:most]), key=lambda one: one.name))
