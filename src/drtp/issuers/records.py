"""Internal records in the Store, typed on the way in and out."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from drtp.api.internal import (
    Account,
    ApiToken,
    AuthorityRecord,
    EdgeIdentity,
    EnrolmentSecret,
    Invitation,
    Login,
    SignInRecord,
)
from drtp.api.meta import Key
from drtp.store.protocol import NotFound, Object, Store, Stored

Record = EnrolmentSecret | EdgeIdentity | ApiToken | Account | AuthorityRecord | Invitation | Login | SignInRecord
R = TypeVar("R", EnrolmentSecret, EdgeIdentity, ApiToken, Account, AuthorityRecord, Invitation, Login, SignInRecord)


class Held(Generic[R]):
    """A record as it was read. `replaced` keeps its `resourceVersion`, so that writing it is conditional."""

    def __init__(self, stored: Stored, kind: type[R]) -> None:
        self.record: R = msgspec.json.decode(stored.raw, type=kind)
        self._object = stored.object

    def replaced(self, spec: msgspec.Struct) -> Object:
        """The object to write instead of what was read, if nobody else was faster."""
        return {**self._object, "spec": msgspec.json.decode(msgspec.json.encode(spec))}


def as_object(record: Record) -> dict[str, Any]:
    """A new record as the Store takes it."""
    return msgspec.json.decode(msgspec.json.encode(record))


async def is_very(store: Store, key: Key, uid: str) -> bool:
    """Whether the object at `key` is there, and is this one, not a later one of its name."""
    try:
        return (await store.get(key)).uid == uid
    except NotFound:
        return False


async def find(store: Store, kind: type[R], name: str) -> Held[R] | None:
    """The record of this name, or None."""
    try:
        stored = await store.get(Key(f"{kind.__name__.removesuffix('Record')}.internal.datumapis.com", "", name))
    except NotFound:
        return None
    return Held(stored, kind)
