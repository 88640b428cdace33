"""The contract of every Store: where objects live, whoever keeps them.

What holds in all of them, and is tested by one suite (tests/contract):

- The store sets `uid`, `creationTimestamp`, `resourceVersion` and `generation`, and keeps them from every writer. A
  missing `name` is made from `generateName`.
- `generation` is 1 at creation and grows only when something other than `metadata` and `status` changes.
- `create` drops `status`, `update` ignores it, `update_status` ignores everything else.
- A write that changes nothing is no write: no new `resourceVersion`, no event.
- `metadata.resourceVersion` and `metadata.uid` of a written object, where present, are preconditions.
- `delete` with finalizers sets `deletionTimestamp`; the update that removes the last finalizer removes the object.
- One revision for the whole store, growing with every change; `raw` is the final JSON with its own revision inside.
- A write is durable, and visible to reads and watches, when the call returns; not before it is durable.
- Objects are plain dicts as JSON gives them. Nobody may change a `Stored.object` in place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple, Protocol, cast

import msgspec

from drtp.api.meta import Key, Model
from drtp.kit import errors

Object = Mapping[str, Any]
"""One Kubernetes-style object as JSON gives it: apiVersion, kind, metadata, spec, status."""


class NotFound(errors.NotFound):
    """There is no object of this key."""

    def __init__(self, key: Key) -> None:
        super().__init__("DRTP-1001", f"{key} does not exist.")
        self.key = key


class AlreadyExists(errors.Conflict):
    """An object of this key exists."""

    def __init__(self, key: Key) -> None:
        super().__init__("DRTP-1002", f"{key} exists already.")
        self.key = key


class Conflict(errors.Conflict):
    """A precondition (`resourceVersion` or `uid`) does not hold."""

    def __init__(self, key: Key, why: str) -> None:
        super().__init__("DRTP-1003", f"{key}: {why}")
        self.key = key


class Expired(errors.Retryable):
    """The revision or continue token is older than the event log: list again. HTTP 410."""

    def __init__(self, since: int, oldest: int) -> None:
        super().__init__("DRTP-1004", f"Revision {since} is gone; the oldest one held is {oldest}.")


class _Metadata(msgspec.Struct):
    uid: str


class _Head(msgspec.Struct):
    metadata: _Metadata


_HEADS = msgspec.json.Decoder(_Head)


class Stored:
    """One object at one revision. `raw` is its final JSON; `object` the same, decoded once."""

    def __init__(self, key: Key, revision: int, raw: bytes) -> None:
        self.key = key
        self.revision = revision
        self.raw = raw

    @cached_property
    def object(self) -> dict[str, Any]:
        """The decoded object, shared by all who read it: copy before changing."""
        return msgspec.json.decode(self.raw)

    def forget_decoded(self) -> None:
        """Keep the JSON alone; whoever asks for the object again has it decoded again."""
        self.__dict__.pop("object", None)

    @property
    def metadata(self) -> dict[str, Any]:
        """`object["metadata"]`."""
        return self.object["metadata"]

    @cached_property
    def uid(self) -> str:
        """`metadata.uid`, read without the rest: most of what is kept is never looked into."""
        return _HEADS.decode(self.raw).metadata.uid

    @property
    def labels(self) -> dict[str, str]:
        """`metadata.labels`, empty where there are none."""
        return self.object["metadata"].get("labels") or {}

    def __repr__(self) -> str:
        """Key and revision only: contents may be secret."""
        return f"Stored({self.key}, revision={self.revision})"


Select = Callable[[Stored], bool]
"""Chooses objects in a list, such as a compiled label or field selector."""


class Listing(NamedTuple):
    """A page, ordered by namespace and name.

    `revision` is where to watch from; every page of one listing carries the first page's.
    `continue_token` is None at the end.
    """

    items: list[Stored]
    revision: int
    continue_token: str | None


class EventType(Enum):
    """What happened to an object, as Kubernetes names it."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


class WatchEvent(NamedTuple):
    """One change.

    DELETED carries the last state under the deletion's revision. `before` is the object it replaces, so that a
    selector can tell coming from going. A BOOKMARK has no object: everything up to `revision` has been given.
    """

    type: EventType
    revision: int
    stored: Stored | None
    before: Stored | None = None


class Watch(Protocol):
    """A running watch: iterate it, close it. Holds no queue of its own, so a slow reader costs no memory."""

    @property
    def revision(self) -> int:
        """Everything up to here that this watch selects has been given: what a bookmark may say."""
        ...

    def __aiter__(self) -> AsyncIterator[WatchEvent]:
        """Itself."""
        ...

    async def __anext__(self) -> WatchEvent:
        """The next event, waiting for it.

        Raises: Expired when the reader fell out of the event log; StopAsyncIteration once closed.
        """
        ...

    async def aclose(self) -> None:
        """End it; a waiting reader stops."""
        ...


class Create(NamedTuple):
    """Make a new object."""

    object: Object


class Update(NamedTuple):
    """Replace everything but status."""

    object: Object


class UpdateStatus(NamedTuple):
    """Replace status only."""

    object: Object


class Delete(NamedTuple):
    """Remove an object, once its finalizers are gone."""

    key: Key
    uid: str | None = None
    resource_version: str | None = None


Write = Create | Update | UpdateStatus | Delete


class Store(Protocol):
    """Where objects live."""

    async def get(self, key: Key) -> Stored:
        """One object. Raises: NotFound."""
        ...

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        limit: int = 0,
        after: str | None = None,
        select: Select | None = None,
    ) -> Listing:
        """Objects of a kind (as in `Key.kind`), in one namespace or all; `limit` 0 is no limit.

        `after` is the continue token of the page before. Raises: Expired for a token that is too old.
        """
        ...

    def watch(self, kind: str | None = None, namespace: str | None = None, *, since: int | None = None) -> Watch:
        """Changes after revision `since` (None: from now on) of one kind, or of all.

        The first thing given after the backlog of `since` is a BOOKMARK.
        Raises: Expired, from here or from the iteration.
        """
        ...

    async def create(self, obj: Object) -> Stored:
        """Make a new object. Raises: AlreadyExists, errors.Invalid (no name)."""
        ...

    async def update(self, obj: Object) -> Stored:
        """Replace everything but status and what the store owns. Raises: NotFound, Conflict, errors.Invalid."""
        ...

    async def update_status(self, obj: Object) -> Stored:
        """Replace status only. Raises: NotFound, Conflict."""
        ...

    async def delete(self, key: Key, *, uid: str | None = None, resource_version: str | None = None) -> Stored:
        """Remove, or mark for removal where finalizers remain; gives the last state. Raises: NotFound, Conflict."""
        ...

    async def apply(self, writes: Sequence[Write]) -> tuple[Stored, ...]:
        """Several writes in order, in one transaction: all or none. Later ones see the earlier ones.

        On Kubernetes there is no transaction: in order, stopping at the first failure.
        """
        ...

    async def preview(self, writes: Sequence[Write]) -> tuple[Stored, ...]:
        """What `apply` would give, changing nothing (dry run). Raises as `apply` does."""
        ...

    @property
    def revision(self) -> int:
        """The newest visible revision."""
        ...


def kind_of(api_version: str, kind: str) -> str:
    """`Key.kind` of a type: `Secret` for v1, `DRTPService.datumapis.com` for datumapis.com/v1alpha."""
    group, slash, _version = api_version.partition("/")
    return f"{kind}.{group}" if slash else kind


def object_of(model: Model) -> dict[str, Any]:
    """A typed object as the plain dict that the Store takes, `apiVersion` and `kind` included.

    For objects that the caller owns entirely, and for `UpdateStatus`. To change a part of somebody else's object, patch
    its dict (`merged`): the typed models do not hold every member.
    """
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(model))
    fields = {field.name: field.default for field in msgspec.structs.fields(model)}
    return {"apiVersion": fields["api_version"], "kind": fields["kind"], **plain}


def merged(obj: Object, patch: Mapping[str, Any]) -> dict[str, Any]:
    """`obj` with an RFC 7386 merge patch applied, as a new dict: None removes, dicts merge, all else replaces."""
    result = dict(obj)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            known = result.get(name)
            result[name] = merged(cast("Object", known if isinstance(known, Mapping) else {}), cast("Object", value))
        else:
            result[name] = value
    return result


def key_of(obj: Object) -> Key:
    """Where `obj` lives. Raises: errors.Invalid if it names no type."""
    metadata: Mapping[str, Any] = obj.get("metadata") or {}
    if not obj.get("kind") or not obj.get("apiVersion"):
        raise errors.Invalid("DRTP-1005", "The object has no apiVersion or no kind.")
    kind = kind_of(obj["apiVersion"], obj["kind"])
    return Key(kind, metadata.get("namespace") or "", metadata.get("name") or "")
