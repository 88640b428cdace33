"""Deltas on their way into the core, and how it took each entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drtp.api.meta import Model
from drtp.tunnel.config import Target, Ways

Document = Mapping[str, Any]
"""One entry as the core reads it: the snapshot entry's own JSON, for a POP's route with `bind` beside it."""


class Delta(Model, frozen=True, omit_defaults=False):
    """`whole`: forget every entry that is not in `upsert`. `targets`: an agent's pins, where they are others now.

    `ways`: by server uid, all of them, where an agent may reach its POPs otherwise now; live sessions stay.
    """

    whole: bool
    upsert: dict[str, Document] = {}
    remove: tuple[str, ...] = ()
    targets: Mapping[str, Target] | None = None
    ways: Mapping[str, Ways] | None = None


class EntryOutcome(Model, frozen=True):
    """`ok`: in force, though `error` may say that part of it denies.

    `bound`, `path`: an endpoint's `address:port` and its Unix socket.
    """

    ok: bool
    error: str | None = None
    bound: str | None = None
    path: str | None = None


class ApplyOutcome(Model, frozen=True):
    """How each entry of a delta was taken, by key. `error`: the delta itself was unreadable and nothing changed."""

    entries: dict[str, EntryOutcome] = {}
    error: str | None = None


def delta_between(applied: Mapping[str, Document] | None, wanted: Mapping[str, Document]) -> Delta:
    """The smallest delta from what the core holds to what is wanted; None: it holds nothing known, so the whole."""
    if applied is None:
        return Delta(whole=True, upsert=dict(wanted))
    return Delta(
        whole=False,
        upsert={key: entry for key, entry in wanted.items() if _differs(applied.get(key), entry)},
        remove=tuple(sorted(key for key in applied if key not in wanted)),
    )


def _differs(held: Document | None, wanted: Document) -> bool:
    # The very same document is not read again: of a large table all but a few are.
    return held is not wanted and held != wanted
