"""Which tunnel servers a connection gets: near, healthy, in different failure domains, and as few moves as possible.

`place` chooses by what is known at once. `improve` moves later, by measure, where that is worth a move.

Source: requirements R7, R8; the lesson that all connections in one site is one connection (cloudflared#747).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from drtp.api.drtp import AssignedServer, Location, Role
from drtp.api.meta import LocalRef

HEALTH_MIN = 50
"""Below this a server gets no new connection."""

GAIN_SHARE = 0.2
GAIN_MS = 5.0
"""A server is left for another only if that takes both away from its round trip. Measures that dance by a tenth can
suggest one move too many, and never the way back: 0.9 / 0.8 > 1.1 * 0.8.
"""

ROLES = (Role.PRIMARY, Role.SECONDARY, Role.TERTIARY)
EARTH_RADIUS_KM = 6371.0


class Position(NamedTuple):
    """Degrees, WGS 84."""

    latitude: float
    longitude: float


class Candidate(NamedTuple):
    """One tunnel server as placement sees it.

    `accepts`: it may be given new connections. `keeps`: those it has may stay. `round_trip_ms`: measured by this agent.
    """

    name: str
    failure_domain: str
    accepts: bool
    keeps: bool
    position: Position | None = None
    round_trip_ms: float | None = None
    load: float = 0.0


class Placement(NamedTuple):
    """`names` in role order; `leaving` are present ones not chosen again. `wanted` is the count asked for."""

    names: tuple[str, ...]
    leaving: tuple[str, ...]
    wanted: int

    @property
    def degraded(self) -> bool:
        """Fewer servers than asked for."""
        return len(self.names) < self.wanted


def position_of(location: Location | None) -> Position | None:
    """Parsed degrees; None where absent or out of range."""
    if location is None:
        return None
    try:
        found = Position(float(location.latitude), float(location.longitude))
    except ValueError:
        return None
    inside = abs(found.latitude) <= 90 and abs(found.longitude) <= 180
    return found if inside else None


def distance_km(a: Position, b: Position) -> float:
    """Great-circle distance (haversine)."""
    lat_a, lat_b = math.radians(a.latitude), math.radians(b.latitude)
    half_lat = (lat_b - lat_a) / 2
    half_lon = math.radians(b.longitude - a.longitude) / 2
    chord = math.sin(half_lat) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin(half_lon) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, chord)))


def preference(candidate: Candidate, origin: Position | None) -> tuple[int, float, float, str]:
    """Sort key: measured round trip, else distance in km, else load; then name, so that equals have one answer."""
    if candidate.round_trip_ms is not None:
        return (0, candidate.round_trip_ms, candidate.load, candidate.name)
    if origin is not None and candidate.position is not None:
        return (1, distance_km(origin, candidate.position), candidate.load, candidate.name)
    return (2, 0.0, candidate.load, candidate.name)


def place(
    candidates: Sequence[Candidate], origin: Position | None, wanted: int, present: Sequence[str] = ()
) -> Placement:
    """Choose up to `wanted` servers, one per failure domain, keeping `present` ones that may stay.

    A present server that may not stay is replaced where there is another; while there is none it stays assigned
    (`leaving`), because a server that comes back serves at once, and an assignment to a dead one costs nothing.
    """
    by_name = {candidate.name: candidate for candidate in candidates}
    chosen: list[str] = []
    domains: set[str] = set()
    for name in present:
        kept = by_name.get(name)
        if kept is not None and kept.keeps and kept.failure_domain not in domains and len(chosen) < wanted:
            chosen.append(name)
            domains.add(kept.failure_domain)
    for candidate in sorted(candidates, key=lambda one: preference(one, origin)):
        if len(chosen) >= wanted:
            break
        if candidate.accepts and candidate.failure_domain not in domains:
            chosen.append(candidate.name)
            domains.add(candidate.failure_domain)
    leaving = tuple(name for name in present if name in by_name and name not in chosen)
    return Placement(tuple(chosen), leaving, wanted)


def improve(candidates: Sequence[Candidate], placed: Sequence[str]) -> tuple[str, ...]:
    """The names in role order after at most one exchange: the one that gains most by measure, if it gains enough.

    Then whoever is materially nearer comes first. A server that nobody has measured is neither left nor taken. No two
    share a failure domain that did not before. Applied again and again it comes to rest.
    """
    by_name = {candidate.name: candidate for candidate in candidates}
    if any(name not in by_name for name in placed):
        return tuple(placed)
    exchanges = [
        (-_gain(by_name[name], other), other.name, index)
        for index, name in enumerate(placed)
        for other in candidates
        if _may_replace(other, name, [by_name[one] for one in placed])
    ]
    names = list(placed)
    if exchanges:
        _, name, index = min(exchanges)
        names[index] = name
    return _nearest_first(names, by_name)


def _may_replace(other: Candidate, name: str, placed: Sequence[Candidate]) -> bool:
    held = next(one for one in placed if one.name == name)
    domains = {one.failure_domain for one in placed if one.name != name}
    new = all(one.name != other.name for one in placed)
    return new and other.accepts and other.failure_domain not in domains and _gain(held, other) > 0


def _gain(held: Candidate, other: Candidate) -> float:
    """Milliseconds that `other` saves; 0 if it is not worth a move, or not known."""
    if held.round_trip_ms is None or other.round_trip_ms is None:
        return 0.0
    saved = held.round_trip_ms - other.round_trip_ms
    return saved if saved >= max(GAIN_MS, held.round_trip_ms * GAIN_SHARE) else 0.0


def _nearest_first(names: list[str], by_name: Mapping[str, Candidate]) -> tuple[str, ...]:
    """Neighbours change places where the second is materially nearer. Each change has one inversion less."""
    moved = True
    while moved:
        moved = False
        for index in range(len(names) - 1):
            if _gain(by_name[names[index]], by_name[names[index + 1]]) > 0:
                names[index], names[index + 1] = names[index + 1], names[index]
                moved = True
    return tuple(names)


def assign(
    placement: Placement, settled: frozenset[str], busy: frozenset[str] = frozenset()
) -> tuple[AssignedServer, ...]:
    """Spec.servers for a placement. Leaving servers stay until enough chosen ones are in `settled` (agent connected).

    Make before break: the new tunnel is up before the old one is taken away. And whoever is inside the old one is not
    cut: a leaving server in `busy` (visitors are left there) stays. A server that leaves has the role of that name, and
    if several do, the roles that are free; where none is chosen there is nothing to leave to.
    """
    done = len(placement.names) >= placement.wanted and all(name in settled for name in placement.names)
    staying = [name for name in placement.leaving if not done or name in busy]
    spare = ROLES[len(placement.names) :]
    given = [
        *zip(ROLES, placement.names, strict=False),
        *zip((Role.LEAVING, *spare) if placement.names else spare, staying, strict=False),
    ]
    return tuple(AssignedServer(role=role, server_ref=LocalRef(name=name)) for role, name in given)
