"""What a ResourceQuota can limit: how many objects there are, as Kubernetes names them, agents, visitors, and bytes.

In an organisation's own project the latter hold for the organisation as a whole; everywhere else for the one project.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from drtp.api import faults
from drtp.api.faults import Fault
from drtp.api.jsonvalue import JsonObject, is_object
from drtp.api.registry import REGISTRY

AGENTS = "datumapis.com/agents"
PROJECTS = "datumapis.com/projects"
STREAMS = "datumapis.com/streams"
NEW_STREAMS = "datumapis.com/new-streams-per-second"
BYTES = "datumapis.com/bytes-per-second"

COUNTED = frozenset({AGENTS, PROJECTS})
"""Refused where they are made; POPs hold the others."""

AT_POPS = {STREAMS: (1, 1_000_000_000), NEW_STREAMS: (1, 1_000_000_000), BYTES: (1_000, 1_000_000_000_000)}
"""Least and most. 0 is the POP's own limit in a snapshot: who wants none disables the service."""

_COUNT = "count/"
_BY_NAME = frozenset({"configmaps", "resourcequotas", "secrets", "services"})
"""What Kubernetes counts under its plain name too."""

_QUANTITY = re.compile(r"(\d{1,15})([kMG]|[KMG]i)?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def quantity(value: object) -> int:
    """A whole number, as a number or as Kubernetes writes quantities: 5, "5", "2k". Raises: ValueError."""
    found = _QUANTITY.fullmatch(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None
    if found is None:
        raise ValueError(f"{value} is no whole number")
    return int(found[1]) * _UNITS[found[2] or ""]


def kind_counted(name: str) -> str | None:
    """The kind (as in `Key.kind`) whose objects `name` counts, None if it counts none that is served."""
    plural, _, group = name.removeprefix(_COUNT).partition(".")
    if not name.startswith(_COUNT) and name not in _BY_NAME:
        return None
    info = REGISTRY.resource(group, plural)
    return info.key if info is not None and info.namespaced and not info.internal else None


def limits(quota: Mapping[str, Any]) -> dict[str, int]:
    """`spec.hard` of an admitted quota, as `counts` reads it."""
    spec: JsonObject = quota.get("spec") or {}
    hard: Any = spec.get("hard")
    return counts(hard) if is_object(hard) else {}


def counts(hard: Mapping[str, object]) -> dict[str, int]:
    """Limits as numbers; what cannot be read limits to nothing."""
    return {name: _or_nothing(value) for name, value in hard.items()}


def _or_nothing(value: object) -> int:
    try:
        return quantity(value)
    except ValueError:
        return 0


def validate(quota: Mapping[str, Any]) -> Iterator[Fault]:
    """Every fault: a limit that nobody would hold is refused, not kept in silence."""
    spec: Any = quota.get("spec") or {}
    for name in ("scopes", "scopeSelector"):
        if spec.get(name):
            yield faults.invalid(f"spec.{name}", spec[name], "quotas with a scope are not carried out here")
    hard: Any = spec.get("hard") or {}
    for name, value in hard.items():
        if name not in COUNTED | AT_POPS.keys() and kind_counted(name) is None:
            known = ("count/<plural>.<group>", *sorted(COUNTED | AT_POPS.keys()))
            yield faults.unsupported(f"spec.hard[{name}]", name, known)
            continue
        try:
            held = quantity(value)
        except ValueError:
            yield faults.invalid(f"spec.hard[{name}]", value, "must be a whole number that is not negative")
            continue
        least, most = AT_POPS.get(name, (0, held))
        if not least <= held <= most:
            yield faults.invalid(f"spec.hard[{name}]", value, f"must be between {least} and {most}")
