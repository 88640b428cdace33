"""Files that list services: `serve --file` and `connect --file` read `services: […]`, or the list alone."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import yaml

from drtp.kit.errors import Invalid
from drtp.main.datum.manifests import unreadable
from drtp.main.shell import Misconfigured


def listed_in(path: Path, faults: list[str]) -> list[tuple[str, object]]:
    """Each service as it is written, with its place; what is wrong with the file as a whole goes into `faults`.

    Raises: Misconfigured (DRTP-7013) for a file that is no YAML.
    """
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as fault:
        raise Misconfigured("DRTP-7013", f"{path} cannot be read: {unreadable(fault)}.") from fault
    listed = written
    if isinstance(written, dict):
        whole = cast("dict[object, object]", written)
        faults += [f"{name}: not known here; the file holds `services` alone" for name in whole if name != "services"]
        listed = whole.get("services")
    if not isinstance(listed, list) or not listed:
        faults.append("services: a list with at least one service is missing")
        return []
    return [(f"services[{number}]", entry) for number, entry in enumerate(cast("list[object]", listed))]


def refuse(path: Path, faults: list[str]) -> None:
    """Raises: Invalid (DRTP-7013) with every fault, where there is one."""
    if faults:
        what = f"{path} holds {len(faults)} fault{'s' if len(faults) > 1 else ''}."
        raise Invalid("DRTP-7013", what, "Correct every fault listed.", tuple(faults))
