"""`connect --file FILE`: several services in one process, each at a place of its own."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec

from drtp.main.datum.connect_places import Place, check_apart, place_of
from drtp.main.datum.service_files import listed_in, refuse
from drtp.main.shell import Misused


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One service; members are named as the options are."""

    service: str
    local: str | int | None = None
    unix: str | None = None
    allow_remote: tuple[str, ...] = ()


def places_in(path: Path) -> tuple[Place, ...]:
    """Read `services: [{service: joe/postgres, local: 5432}, …]`, or the list alone. Paths are beside the file.

    Raises: Invalid (DRTP-7013) with every fault and its place; Misconfigured (DRTP-7013) for a file that is no YAML.
    """
    faults: list[str] = []
    read = [_read(where, entry, path.parent, faults) for where, entry in listed_in(path, faults)]
    places = tuple(place for place in read if place is not None)
    try:
        check_apart(places)
    except Misused as fault:
        faults.append(f"services: {fault.what}")
    refuse(path, faults)
    return places


def _read(where: str, written: object, beside: Path, faults: list[str]) -> Place | None:
    """One service; None if something is wrong in it, which is then in `faults`."""
    if not isinstance(written, dict):
        faults.append(f"{where}: not a service; write {{service: joe/postgres, local: 5432}}")
        return None
    try:
        entry = msgspec.convert(cast("dict[str, object]", written), type=_Entry)
    except msgspec.ValidationError as fault:
        what, _, place = str(fault).partition(" - at `$")
        faults.append(f"{where}{place.rstrip('`')}: {what}")
        return None
    try:
        local = None if entry.local is None else str(entry.local)
        return place_of(entry.service, local, beside / entry.unix if entry.unix else None, entry.allow_remote)
    except Misused as fault:
        faults.append(f"{where}: {fault.what} {fault.remedy}".rstrip())
        return None
