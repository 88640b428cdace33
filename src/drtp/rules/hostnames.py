"""Hostnames as Gateway API compares them: exact names, and wildcards that stand for one label or more."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

ANY = "*"
"""Every hostname: a listener without one, and a route without one."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def valid(name: str) -> bool:
    """A lower-case DNS name, perhaps with `*.` in front."""
    bare = name.removeprefix("*.")
    return 0 < len(name) <= 253 and all(_LABEL.fullmatch(label) for label in bare.split("."))


def is_wildcard(name: str) -> bool:
    """`*` or `*.suffix`."""
    return name.startswith(ANY)


def covers(pattern: str, name: str) -> bool:
    """Whether every name that `name` stands for is one that `pattern` stands for."""
    if pattern in {ANY, name}:
        return True
    return pattern.startswith("*.") and name != ANY and name.removeprefix("*").endswith(pattern[1:])


def intersect(listener: str | None, route: Iterable[str]) -> tuple[str, ...]:
    """The names a route gets on a listener; empty where the two have none in common."""
    asked = tuple(route) or (ANY,)
    offered = listener or ANY
    found: list[str] = []
    for name in asked:
        meet = name if covers(offered, name) else offered if covers(name, offered) else None
        if meet is not None and meet not in found:
            found.append(meet)
    return tuple(found)


def parents(name: str) -> tuple[str, ...]:
    """Every wildcard that covers `name`, itself excluded, nearest first."""
    labels = name.removeprefix("*.").split(".")
    start = 0 if is_wildcard(name) else 1
    suffixes = (".".join(labels[index:]) for index in range(start, len(labels)))
    return tuple(wildcard for suffix in suffixes if (wildcard := f"*.{suffix}") != name)


def known_as(name: str, hosts: Collection[str]) -> str | None:
    """Which of `hosts` a name comes to: itself, else the nearest wildcard over it; None for none."""
    return next((one for one in (name, *parents(name), ANY) if one in hosts), None)
