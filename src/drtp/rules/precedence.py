"""Which HTTP rule wins where several match: Gateway API's order, as one sort key."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from drtp.api.gatewayapi import HTTPRoute
from drtp.api.snapshots import HttpMatch, PathMatch

_PATH_RANK = {PathMatch.EXACT: 0, PathMatch.REGEX: 1, PathMatch.PREFIX: 2}


class Rank(NamedTuple):
    """Lower wins: path type, longer path, method, more headers, more parameters, older route, name, order written."""

    path: int
    length: int
    method: bool
    headers: int
    query: int
    age: float
    route: tuple[str, str]
    written: tuple[int, int]


def rank(match: HttpMatch, route: HTTPRoute, rule: int, index: int) -> Rank:
    """Where one match of one rule of a route stands."""
    return Rank(
        path=_PATH_RANK[match.path_type],
        length=-len(match.path),
        method=match.method is None,
        headers=-len(match.headers),
        query=-len(match.query),
        age=age(route.metadata.creation_timestamp),
        route=(route.metadata.namespace, route.metadata.name),
        written=(rule, index),
    )


def age(created: datetime | None) -> float:
    """Older sorts first; an object not stored yet is the youngest."""
    return created.timestamp() if created else float("inf")
