"""The part of JSONPath that printer columns use: members, indices, `[*]`, and `[?(@.type=="Ready")]`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from drtp.api.jsonvalue import is_list, is_object

_STEP = re.compile(
    r"""\.(?P<member>[A-Za-z0-9_\-]+)"""
    r"""|\[(?P<index>-?\d+)\]"""
    r"""|\[(?P<all>\*)\]"""
    r"""|\[['"](?P<quoted>[^'"]+)['"]\]"""
    r"""|\[\?\(\s*@\.(?P<field>[A-Za-z0-9_.\-]+)\s*==\s*(?P<wanted>"[^"]*"|'[^']*'|[A-Za-z0-9_.\-]+)\s*\)\]"""
)

Step = re.Match[str]


@cache
def _parse(path: str) -> tuple[Step, ...]:
    steps: list[Step] = []
    position = 0
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            raise ValueError(f"{path} is not a path that printer columns can have")
        steps.append(step)
        position = step.end()
    return tuple(steps)


def find(value: Any, path: str) -> list[Any]:
    """Everything at `path`; empty where there is nothing. Raises: ValueError for a path it cannot read."""
    found = [value]
    for step in _parse(path if path.startswith((".", "[")) else f".{path}"):
        found = [inner for outer in found for inner in _follow(outer, step)]
    return found


def _follow(value: Any, step: Step) -> Iterator[Any]:
    name = step["member"] or step["quoted"]
    if name is not None:
        if is_object(value) and name in value:
            yield value[name]
    elif step["index"] is not None:
        if is_list(value) and -len(value) <= int(step["index"]) < len(value):
            yield value[int(step["index"])]
    elif step["all"]:
        yield from value if is_list(value) else value.values() if is_object(value) else ()
    elif is_list(value):
        wanted = step["wanted"].strip("\"'")
        yield from (item for item in value if [str(hit) for hit in find(item, step["field"])] == [wanted])
