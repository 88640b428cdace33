"""Where the edge server gets each edge's snapshot from: the publisher, composed in main."""

from __future__ import annotations

from typing import Protocol

from drtp.api.feed import EdgeRole
from drtp.api.snapshots import Snapshot
from drtp.kit.latest import Latest


class SnapshotSource(Protocol):
    """Publishes one whole snapshot for each edge.

    `subscribe` is cheap and gives the same `Latest` for the same edge. It stays empty until the publisher has synced,
    so that an edge never mistakes "not read yet" for "nothing". Unchanged entries should stay the same objects from one
    snapshot to the next: deltas are found by comparing them. The edge server calls `subscribe` with verified
    identities only.
    """

    def subscribe(self, role: EdgeRole, uid: str) -> Latest[Snapshot]:
        """The snapshots of the edge whose identity is `uid` (an agent's, a POP's, a gateway's)."""
        ...

    def release(self, role: EdgeRole, uid: str) -> None:
        """The edge has no feed any more: its `Latest` may be forgotten, and recomputed at the next `subscribe`."""
        ...
