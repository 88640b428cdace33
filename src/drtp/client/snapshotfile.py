"""The newest snapshot on disk: what an edge goes on from when the control plane is down (R28)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from drtp.api import skew
from drtp.api.snapshots import Snapshot
from drtp.kit.files import read_private, write_atomic
from drtp.kit.observe import logger

log = logger("feed")


class _Persisted(msgspec.Struct, frozen=True):
    uid: str
    snapshot: Snapshot


class _File(msgspec.Struct, frozen=True):
    uid: str
    snapshot: msgspec.Raw


class SnapshotFile:
    """One file, `snapshot.json` (0600: a gateway's holds private keys), replaced atomically and synced."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "snapshot.json"

    def load(self, uid: str) -> Snapshot | None:
        """What was applied last under identity `uid`; None if there is nothing, or nothing that this version can read.

        Raises: Terminal if others may use the file.
        """
        try:
            persisted = msgspec.json.decode(read_private(self._path), type=_File)
            if persisted.uid != uid:
                return None
            snapshot, unreadable = skew.snapshot(persisted.snapshot)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            log.warning("persisted snapshot unreadable", path=str(self._path), error=str(error))
            return None
        if unreadable:
            # A newer version wrote it, and this one was rolled back to: it goes on with what it understands.
            log.warning("persisted entries unreadable", count=len(unreadable), first=next(iter(unreadable)))
        return snapshot

    def save(self, uid: str, snapshot: Snapshot) -> None:
        """Durable when it returns. Raises: OSError."""
        write_atomic(self._path, msgspec.json.encode(_Persisted(uid, snapshot)))
