"""Who did what to identities: append-only, each line bound to the one before by its hash, so that a gap shows.

`audit.log` is the newest file, `audit.log.1` the one before, and so on; the chain goes on from file to file. On a full
disk lines wait in memory, some hundreds of them, and follow in order when there is room again.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from pathlib import Path

import msgspec
from prometheus_client import Counter, Gauge

from drtp.kit.clock import Clock
from drtp.kit.errors import Terminal
from drtp.kit.files import private_directory
from drtp.kit.observe import REGISTRY, logger, printable

log = logger("audit")

_START = "0" * 64
BYTES_MAX = 32 << 20
"""Of one file: about 100,000 events, and a start of the control plane reads it in half a second."""
KEPT = 15
"""Files beside the newest one: with it half a gigabyte. Who must keep more copies the numbered ones in time."""
WAITING_MAX = 500
"""Lines that wait for a disk that is full."""

_WAITING = Gauge("drtp_audit_lines_waiting", "Audit lines that wait for room on the disk.", registry=REGISTRY)
_LOST = Counter("drtp_audit_lines_lost", "Audit lines that found no room, counted in the log later.", registry=REGISTRY)


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `hash` is SHA-256 of the line with an empty `hash`; `previous` is the line before's."""

    at: str
    event: str
    fields: dict[str, str]
    previous: str
    hash: str = ""


class AuditLog:
    """One chain of files, written by one process. Secrets never come here; ids of secrets do."""

    def __init__(self, path: Path, clock: Clock, bytes_max: int = BYTES_MAX, kept: int = KEPT) -> None:
        """Raises: Terminal DRTP-2019 if the newest file is not the unbroken chain it was written as."""
        private_directory(path.parent)
        self._path = path
        self._clock = clock
        self._bytes_max = bytes_max
        self._kept = kept
        self._previous = verify_audit(path)
        self._file = _appending(path)
        self._size = os.fstat(self._file).st_size
        self._waiting: deque[bytes] = deque()
        self._lost = 0

    def write(self, event: str, **fields: str | int) -> None:
        """Append one event, past tense; it is with the operating system when this returns, if there is room."""
        texts = {name: printable(str(value)) for name, value in fields.items()}
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

    def close(self) -> None:
        """Bring everything to disk."""
        self._write_waiting()
        os.fsync(self._file)
        os.close(self._file)

    def _queue(self, event: str, texts: dict[str, str]) -> None:
        line = AuditLine(at=self._clock.now().isoformat(), event=event, fields=texts, previous=self._previous)
        self._previous = _hash(line)
        self._waiting.append(msgspec.json.encode(msgspec.structs.replace(line, hash=self._previous)) + b"\n")

    def _write_waiting(self) -> None:
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            log.warning("audit log cannot be written", reason=str(error), waiting=len(self._waiting), lost=self._lost)
        _WAITING.set(len(self._waiting))

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


def verify_audit(path: Path) -> str:
    """Check the newest file, and that it goes on from the one before; gives the hash to go on from.

    A full disk may have left a rotation without its new file. A torn last line (power loss) is cut off.
    Raises: Terminal DRTP-2019.
    """
    former = _numbered(path, 1)
    before = _last_hash(former, None) if former.exists() else _START
    return _last_hash(path, before) if path.exists() else before


def _last_hash(path: Path, before: str | None) -> str:
    """`before`: the hash that the file must go on from; None: whatever its first line says."""
    previous = before
    lines = path.read_bytes().split(b"\n")
    for number, raw in enumerate(lines[:-1], start=1):
        try:
            line = msgspec.json.decode(raw, type=AuditLine)
        except msgspec.DecodeError:
            raise Terminal("DRTP-2019", f"Line {number} of {path} cannot be read.") from None
        follows = previous is None or line.previous == previous
        if not follows or line.hash != _hash(msgspec.structs.replace(line, hash="")):
            raise Terminal("DRTP-2019", f"Line {number} of {path} does not follow from the one before.")
        previous = line.hash
    if lines[-1]:
        os.truncate(path, path.stat().st_size - len(lines[-1]))
    return previous or _START


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _appending(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _hash(line: AuditLine) -> str:
    return hashlib.sha256(msgspec.json.encode(line)).hexdigest()
