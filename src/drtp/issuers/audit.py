"""Who did what to identities: append-only, each line bound to the one before by its hash, so that a gap shows.

`audit.log` is the newest file, `audit.log.1` the one before, and so on; the chain goes on from file to file. On a full
disk lines wait in memory, some hundreds of them, and follow in order when there is room again.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from prometheus_client import Counter, Gauge

from drtp.api.audit import START, AuditLine, Broken, Chain, hash_of
from drtp.issuers.trail import Trail
from drtp.kit.buckets import Buckets
from drtp.kit.clock import Clock
from drtp.kit.errors import Terminal
from drtp.kit.files import private_directory
from drtp.kit.networks import networks_of
from drtp.kit.observe import REGISTRY, logger, printable

log = logger("audit")

BYTES_MAX = 32 << 20
"""Of one file: about 100,000 events, and a start of the control plane reads it in half a second."""
KEPT = 15
"""Files beside the newest one: with it half a gigabyte. Who must keep more copies the numbered ones in time."""
WAITING_MAX = 500
"""Lines that wait for a disk that is full."""

PACED_BURST, PACED_PER_S = 60, 0.5
"""Lines of one event that strangers can cause: an attack shows, and a month of it pushes nothing out of the files."""
SOURCE_BURST, SOURCE_PER_S = 15, 1 / 30
"""Of those, lines that one source can cause: it takes thirty of them to keep the others' out."""
PROJECT_BURST, PROJECT_PER_S = 60, 1 / 20
"""Lines of one event that a project's own people can cause: what they do takes nothing from other projects."""
HEAD_DIGITS = 13
"""Of the head's 64, as a metric: what a float holds exactly."""

_WAITING = Gauge("drtp_audit_lines_waiting", "Audit lines that wait for room on the disk.", registry=REGISTRY)
_LOST = Counter("drtp_audit_lines_lost", "Audit lines that found no room, counted in the log later.", registry=REGISTRY)
_HEAD = Gauge("drtp_audit_head", "The first 13 hexadecimal digits of the newest line's hash.", registry=REGISTRY)


class AuditLog:
    """One chain of files, written by one process. Secrets never come here; ids of secrets do."""

    def __init__(self, path: Path, clock: Clock, bytes_max: int = BYTES_MAX, kept: int = KEPT) -> None:
        """Raises: Terminal DRTP-2019 if the newest file is not the unbroken chain it was written as."""
        private_directory(path.parent)
        self._path = path
        self._clock = clock
        self._bytes_max = bytes_max
        self._kept = kept
        self.trail = Trail(path)
        """Reads what is written here."""
        self.uid_of: Callable[[str], str] = lambda _project: ""
        """The uid of a project, "" if it is not known: lines are shown to the project of this uid, not of this name."""
        self._previous = verify_audit(path)
        self.head = self._previous
        """The hash of the newest line that is on disk."""
        self._pace = Buckets(clock, burst=PACED_BURST, per_s=PACED_PER_S)
        self._source_pace = Buckets(clock, burst=SOURCE_BURST, per_s=SOURCE_PER_S)
        self._project_pace = Buckets(clock, burst=PROJECT_BURST, per_s=PROJECT_PER_S)
        self._unsaid: defaultdict[tuple[str, str], int] = defaultdict(int)
        """Lines that found no room, by event and project."""
        self._file = _appending(path)
        self._size = os.fstat(self._file).st_size
        self._waiting: deque[bytes] = deque()
        self._lost = 0

    def write(self, event: str, *, project: str = "", also: Sequence[str] = (), **fields: str | int) -> None:
        """Append one event, past tense; it is with the operating system when this returns, if there is room.

        `project`: whose event it is; `also`: other projects that it concerns. People of these projects may read it.
        """
        texts = {name: printable(str(value)) for name, value in fields.items() if value != ""}
        if project:
            uids = (self.uid_of(name) for name in dict.fromkeys((project, *also)))
            texts |= {"project": printable(project), "seenBy": " ".join(filter(None, uids))}
        if len(self._waiting) < WAITING_MAX:
            self._queue(event, texts)
        else:
            self._lost += 1
            _LOST.inc()
        self._write_waiting()
        if self._lost and not self._waiting:
            self._queue("events lost", {"count": str(self._lost)})
            self._lost = 0
            self._write_waiting()
        log.info(event, **texts)

    def write_paced(self, event: str, *, project: str = "", source: str = "", **fields: str | int) -> None:
        """`write` for what a stranger can cause: beyond a pace they are counted, so that no disk fills.

        Each project has a pace of its own. What is of no project shares one, of which no `source` has more than a part:
        who or where it came from; the network of `remote` where nothing is said.
        """
        if project:
            room = self._project_pace.take(f"{event} {project}")
        else:
            source = source or _network_of(str(fields.get("remote", "")))
            # In this order: what a source has no right to say takes nothing from the others.
            room = self._source_pace.take(f"{event} {source}") and self._pace.take(event)
        if not room:
            self._unsaid[event, project] += 1
            return
        unsaid = self._unsaid.pop((event, project), 0)
        self.write(event, project=project, also=(), **(fields | ({"unsaid": unsaid} if unsaid else {})))

    def announce(self) -> None:
        """Say the head where the files' owner cannot take it back: the log, which goes elsewhere, as metrics do."""
        log.info("audit head", head=self.head)

    def close(self) -> None:
        """Bring everything to disk."""
        self._write_waiting()
        os.fsync(self._file)
        os.close(self._file)

    def _queue(self, event: str, texts: dict[str, str]) -> None:
        line = AuditLine(at=self._clock.now().isoformat(), event=event, fields=texts, previous=self._previous)
        # Any hash of the right length: it is not part of what is hashed.
        self._previous = hash_of(msgspec.json.encode(msgspec.structs.replace(line, hash=START)))
        self._waiting.append(msgspec.json.encode(msgspec.structs.replace(line, hash=self._previous)) + b"\n")

    def _write_waiting(self) -> None:
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._written(self._waiting.popleft())
        except OSError as error:
            log.warning("audit log cannot be written", reason=str(error), waiting=len(self._waiting), lost=self._lost)
        _WAITING.set(len(self._waiting))

    def _written(self, line: bytes) -> None:
        self.head = line[-67:-3].decode()
        _HEAD.set(int(self.head[:HEAD_DIGITS], 16))

    def _append(self, line: bytes) -> None:
        """A whole line or nothing: half a line would break the chain for ever. Raises: OSError."""
        if self._size and self._size + len(line) > self._bytes_max:
            self._rotate()
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def _rotate(self) -> None:
        """Each file moves one on; the oldest goes."""
        for number in range(self._kept, 0, -1):
            newer = _numbered(self._path, number - 1)
            if newer.exists():
                newer.replace(_numbered(self._path, number))
        os.fsync(self._file)
        os.close(self._file)
        self._file = _appending(self._path)
        self._size = 0


def _network_of(remote: str) -> str:
    """The narrowest network that one party has whole; what is no address stands for itself."""
    try:
        return networks_of(remote)[0]
    except ValueError:
        return remote


def verify_audit(path: Path) -> str:
    """Check the newest file, and that it goes on from the one before; gives the hash to go on from.

    A full disk may have left a rotation without its new file. A torn last line (power loss) is cut off.
    Raises: Terminal DRTP-2019.
    """
    former = _numbered(path, 1)
    before = _last_hash(former, None) if former.exists() else START
    return _last_hash(path, before) if path.exists() else before


def _last_hash(path: Path, before: str | None) -> str:
    """`before`: the hash that the file must go on from; None: whatever its first line says."""
    chain = Chain(before)
    lines = path.read_bytes().split(b"\n")
    for number, raw in enumerate(lines[:-1], start=1):
        try:
            chain.take(raw)
        except Broken as fault:
            raise Terminal("DRTP-2019", f"Line {number} of {path} {fault}.") from None
    if lines[-1]:
        os.truncate(path, path.stat().st_size - len(lines[-1]))
    return chain.head or START


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _appending(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
