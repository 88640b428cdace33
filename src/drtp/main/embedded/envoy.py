"""Which Envoy belongs to an instance's gateway: read from what the gateway host wrote down (drtp.gateway.envoy)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from drtp.main.embedded.processes import ProcessName, name_of


class _ProcessFile(msgspec.Struct, frozen=True):
    pid: int
    started: int


def envoy_process(directory: Path) -> ProcessName | None:
    """The running Envoy of the gateway in `directory`; looked up without importing the gateway and its protobufs."""
    try:
        written = msgspec.json.decode((directory / "envoy.process.json").read_bytes(), type=_ProcessFile)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    name = name_of(written.pid)
    return name if name is not None and name.started == str(written.started) else None
