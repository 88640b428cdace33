"""The SQLite file: opening it safely, its schema and migrations, copies of it.

A migration never changes the only copy: the file is copied beside itself first. A file from a newer version is refused,
since an older one cannot know what it would break.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import apsw

from drtp.kit.errors import Terminal
from drtp.kit.files import sync_directory

_APPLICATION_ID = 0x44525450  # "DRTP", so that `file` and we can tell what it is.

REVISION_LEAP = 1 << 20
"""Added to the revision at a restore, so that no watch of the lost timeline goes on in the new one unnoticed."""


def execute(connection: apsw.Connection, statements: str, bindings: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
    """Run SQL and give its rows. One place, because apsw's own signature is not fully typed."""
    return cast("Any", connection).execute(statements, bindings)


def _first(connection: apsw.Connection) -> None:
    execute(
        connection,
        """
        CREATE TABLE objects (
            kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
            revision INTEGER NOT NULL, raw BLOB NOT NULL,
            UNIQUE (kind, namespace, name)
        ) STRICT;
        CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
        INSERT INTO state VALUES ('revision', 0);
        """,
    )


_MIGRATIONS: tuple[Callable[[apsw.Connection], None], ...] = (_first,)
"""Each brings the schema from its index to the next; only ever appended to."""

SCHEMA = len(_MIGRATIONS)


def connect(path: Path) -> apsw.Connection:
    """Open, verify and migrate the file; makes a new one (0600). Raises: Terminal."""
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_directory(path.parent)
    try:
        connection = apsw.Connection(str(path))
        _configure(connection)
        _migrate(connection, path)
    except apsw.FullError as error:
        # The file is sound: nothing is to be restored.
        raise Terminal("DRTP-1006", f"{path} cannot be opened: {error}.") from error
    except apsw.Error as error:
        raise Terminal("DRTP-1008", f"{path} cannot be opened: {error}.") from error
    return connection


_CACHE = "cache_size=-512"
"""KiB of pages. Objects are read once, at the start, and then only written: the usual 2 MiB fill without any use."""


def _configure(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(5000)  # a backup by another process holds no lock for longer
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF", _CACHE):
        execute(connection, f"PRAGMA {pragma}")


def _migrate(connection: apsw.Connection, path: Path) -> None:
    present = _pragma(connection, "user_version")
    application = _pragma(connection, "application_id")
    if present > SCHEMA:
        raise Terminal("DRTP-1009", f"{path} has schema {present}; this version knows up to {SCHEMA}.")
    if present and application != _APPLICATION_ID:
        raise Terminal("DRTP-1008", f"{path} is another program's database.")
    if present == SCHEMA:
        return
    if present:
        copy_database(connection, path.with_name(f"{path.name}.schema-{present}.bak"))
    with connection:
        for step in _MIGRATIONS[present:]:
            step(connection)
        execute(connection, f"PRAGMA application_id={_APPLICATION_ID}")
        execute(connection, f"PRAGMA user_version={SCHEMA}")


def copy_database(connection: apsw.Connection, path: Path) -> None:
    """Copy everything committed to `path` (0600), which appears only when it is whole. Replaces what was there."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.unlink(missing_ok=True)
    os.close(os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    target = apsw.Connection(str(beside))
    try:
        with target.backup("main", connection, "main") as copying:
            while not copying.done:
                copying.step(-1)
        execute(target, "PRAGMA journal_mode=DELETE")
    finally:
        target.close()
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    beside.replace(path)
    sync_directory(path.parent)


def check_integrity(connection: apsw.Connection) -> tuple[str, ...]:
    """What SQLite finds wrong; empty if nothing is."""
    found = [str(row[0]) for row in execute(connection, "PRAGMA integrity_check")]
    return () if found == ["ok"] else tuple(found)


def restore(backup: Path, path: Path) -> None:
    """Put a verified copy of `backup` in the place of the store's file `path`; nobody may have it open.

    The revision leaps, so that every watch lists again; the incarnation grows by itself at the next start.
    Raises: Terminal for a file that is no sound backup.
    """
    if not backup.exists():
        raise Terminal("DRTP-1008", f"{backup} does not exist.")
    source = apsw.Connection(str(backup), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        faults = check_integrity(source)
        if faults or _pragma(source, "application_id") != _APPLICATION_ID:
            raise Terminal("DRTP-1008", f"{backup} is no sound backup of a store.")
        for leftover in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            leftover.unlink(missing_ok=True)
        copy_database(source, path)
    except apsw.Error as error:
        raise Terminal("DRTP-1008", f"{backup} is no sound backup of a store: {error}.") from error
    finally:
        source.close()
    restored = connect(path)
    with restored:
        execute(restored, "UPDATE state SET value = value + ? WHERE name = 'revision'", (REVISION_LEAP,))
    restored.close()


def read_state(connection: apsw.Connection, name: str) -> int:
    """One number of the store itself, such as its revision."""
    return next(execute(connection, "SELECT value FROM state WHERE name = ?", (name,)))[0]


def _pragma(connection: apsw.Connection, name: str) -> int:
    return next(execute(connection, f"PRAGMA {name}"))[0]
