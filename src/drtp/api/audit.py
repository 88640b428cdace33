"""The audit log as it is read: its lines, the chain that they are, what one asks for and what one is told.

A line is one JSON object whose last member is `hash`: the SHA-256 of the line with an empty `hash`, which any shell can
compute. `previous` is the hash of the line before, so that a line that is missing, changed or added shows.

Members of `fields` that mean the same in every event: `by` (who did it), `remote` (from where), `decision` (`allowed`,
`refused`), `reason`, `project` (its name), `seenBy` (uids of the projects whose people may read the line).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import Enum

import msgspec

from drtp.api.meta import Model

START = "0" * 64
"""What the first line of all goes on from."""

LINES_MAX = 1000
"""Of one answer."""

_TAIL = len('"}') + 64
"""What ends every line: its hash, a quotation mark, a brace."""

_SUBJECTS = ("identity", "user", "name", "token", "account", "secret", "by")
"""Fields that say whom an event is about, or who did it."""


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `hash` is SHA-256 of the line with an empty `hash`; `previous` is the line before's."""

    at: str
    event: str
    fields: dict[str, str]
    previous: str
    hash: str = ""

    def seen_by(self, project_uid: str) -> bool:
        """Whether people of this project may read it."""
        return project_uid in self.fields.get("seenBy", "").split()


class Broken(Exception):
    """A line that is not what was written, or does not follow from the one before; in words without its contents."""


def hash_of(raw: bytes) -> str:
    """What the hash of a line must be; `raw` is the line as written, without its line feed."""
    return hashlib.sha256(raw[:-_TAIL] + b'"}').hexdigest()


def read_line(raw: bytes) -> AuditLine:
    """One line, sound in itself. Raises: Broken."""
    try:
        line = msgspec.json.decode(raw, type=AuditLine)
    except msgspec.MsgspecError:
        raise Broken("cannot be read") from None
    if line.hash != hash_of(raw):
        raise Broken("is not what was written")
    return line


class Chain:
    """Follows lines one after the other, and knows how far they hold."""

    def __init__(self, previous: str | None = None, heads: Iterable[str] = ()) -> None:
        """`previous`: what the first line must go on from; None: whatever it says. `heads`: hashes to look for."""
        self.head = previous
        self.start = previous
        self.lines = 0
        self._sought = set(heads)

    @property
    def missing(self) -> tuple[str, ...]:
        """Heads that no line so far has had, sorted."""
        return tuple(sorted(self._sought - {START}))

    def take(self, raw: bytes) -> AuditLine:
        """The next line. Raises: Broken; the chain is then where it was."""
        line = read_line(raw)
        if self.head is not None and line.previous != self.head:
            raise Broken("does not follow from the one before")
        if self.start is None:
            self.start = line.previous
        self.head = line.hash
        self.lines += 1
        self._sought.discard(line.hash)
        return line


class Order(Enum):
    """Which lines come first."""

    NEWEST = "Newest"
    OLDEST = "Oldest"


class AuditWanted(Model, frozen=True):
    """Which lines. `event` is how the event's name begins; `identity` is whom it is about or who did it, exactly."""

    since: datetime | None = None
    until: datetime | None = None
    event: str = ""
    project: str = ""
    identity: str = ""

    def takes(self, line: AuditLine) -> bool:
        """Whether `line` is one of these."""
        fields = line.fields
        if not line.event.startswith(self.event) or (self.project and fields.get("project") != self.project):
            return False
        if self.identity and not any(self.identity in (fields.get(name), said(fields, name)) for name in _SUBJECTS):
            return False
        return self._in_time(line) if self.since or self.until else True

    def _in_time(self, line: AuditLine) -> bool:
        at = datetime.fromisoformat(line.at)
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


def said(fields: dict[str, str], name: str) -> str:
    """A field without the word before it that says what it is, as in `user <uid>` and `secret <id>`."""
    return fields.get(name, "").partition(" ")[2]


class AuditPage(msgspec.Struct, frozen=True):
    """`lines` as written. `next`: where to go on, "" at the end; there may be more although there are few lines."""

    lines: tuple[bytes, ...]
    next: str = ""


class Verdict(Model, frozen=True, omit_defaults=False):
    """What became of a look at the whole chain.

    `sound`: every line follows from the one before. `fault` says where it does not. `whole`: it begins with the first
    line ever written. `missing`: heads that were asked for and that no line has.
    """

    sound: bool
    lines: int
    head: str
    whole: bool
    fault: str = ""
    missing: tuple[str, ...] = ()
