"""The Store of one machine: objects in memory, every change first in a SQLite file in WAL mode, synced before it shows.

One thread writes. It takes everything that waits as one transaction, so that many writers share one sync of the disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import apsw
from prometheus_client import Counter, Gauge, Histogram

from drtp.api.meta import Key
from drtp.kit.clock import Clock
from drtp.kit.errors import Retryable, Terminal
from drtp.kit.files import private_directory
from drtp.kit.observe import REGISTRY, logger
from drtp.store.database import check_integrity, connect, copy_database, execute, read_state
from drtp.store.engine import Batch, Engine, Settle
from drtp.store.eventlog import LOG_BYTES_MAX
from drtp.store.protocol import Stored

FILE = "store.db"
LOCK = "store.lock"
_GROUP_MAX = 512
"""Batches in one transaction: about what a busy machine gathers while one sync runs."""

_log = logger("store")
_COMMITS = Counter("drtp_store_commits", "Transactions, by outcome.", ["outcome"], registry=REGISTRY)
_WRITES = Counter("drtp_store_writes", "Objects written or removed durably.", registry=REGISTRY)
_SECONDS = Histogram("drtp_store_commit_seconds", "From the first statement to the synced disk.", registry=REGISTRY)
_BYTES = Gauge("drtp_store_file_bytes", "The store's file and its log on disk.", registry=REGISTRY)

_UPSERT = """
INSERT INTO objects (kind, namespace, name, revision, raw) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (kind, namespace, name) DO UPDATE SET revision = excluded.revision, raw = excluded.raw
"""
_DELETE = "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?"
_REVISION = "UPDATE state SET value = ? WHERE name = 'revision'"


R = TypeVar("R")


class _Submitted(NamedTuple):
    batch: Batch
    settle: Settle


_Job = _Submitted | Callable[[], None] | None
"""A batch, some other work between transactions, or the end."""


class SqliteStore(Engine):
    """A durable Store; one process at a time may have it open."""

    _writer: _Writer
    _lock: int

    @classmethod
    async def open(cls, directory: Path, clock: Clock | None = None, log_bytes_max: int = LOG_BYTES_MAX) -> SqliteStore:
        """Open or make the store in `directory` (0700; the file 0600), migrating an older one after a backup copy.

        Raises: Terminal for a newer or damaged file, loose modes, or when another process has it open.
        """
        private_directory(directory)
        lock = _take_lock(directory / LOCK)
        try:
            connection = await asyncio.to_thread(connect, directory / FILE)
            revision, loaded = await asyncio.to_thread(_load, connection)
        except BaseException:
            os.close(lock)
            raise
        writer = _Writer(connection, asyncio.get_running_loop())
        store = cls(writer, loaded, revision, clock, log_bytes_max)
        store._writer = writer
        store._lock = lock
        writer.start()
        return store

    async def close(self) -> None:
        """Finish what was submitted, then let go of the file."""
        await asyncio.to_thread(self._writer.stop)
        os.close(self._lock)

    async def backup(self, path: Path) -> None:
        """A consistent copy of everything durable, made while writes go on; 0600."""
        await self._writer.between(lambda connection: copy_database(connection, path))

    async def integrity_check(self) -> tuple[str, ...]:
        """What SQLite finds wrong with the file; empty if nothing is."""
        return await self._writer.between(check_integrity)


class _Writer(threading.Thread):
    """The only thread that touches the file."""

    def __init__(self, connection: apsw.Connection, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="store-writer", daemon=True)
        self._connection = connection
        self._path = connection.filename
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._void_below = 0

    def submit(self, batch: Batch, settle: Settle) -> None:
        """Queue a batch. Its size is bounded by the callers, who wait."""
        self._jobs.put(_Submitted(batch, settle))

    async def between(self, work: Callable[[apsw.Connection], R]) -> R:
        """Do `work` between two transactions."""
        done: asyncio.Future[R] = self._loop.create_future()

        def job() -> None:
            try:
                result = work(self._connection)
            except Exception as error:
                self._tell(_fail, done, error)
            else:
                self._tell(_finish, done, result)

        self._jobs.put(job)
        return await done

    def stop(self) -> None:
        """Work off the queue, close the file, end the thread. Blocks: call it from another thread than the loop's."""
        if self.is_alive():
            self._jobs.put(None)
            self.join()

    def run(self) -> None:
        """The thread: one job at a time, or all the batches that wait as one."""
        job = self._jobs.get()
        while job is not None:
            if callable(job):
                job()
                job = self._jobs.get()
            else:
                job = self._commit_all_waiting(job)
        self._connection.close()

    def _commit_all_waiting(self, first: _Submitted) -> _Job:
        """Commit `first` and the batches behind it; gives the job that comes next."""
        group = [first]
        following: _Job = first
        while len(group) < _GROUP_MAX:
            try:
                following = self._jobs.get_nowait()
            except queue.Empty:
                following = first
                break
            if not isinstance(following, _Submitted):
                break
            group.append(following)
        self._commit(group)
        return self._jobs.get() if isinstance(following, _Submitted) else following

    def _commit(self, group: Sequence[_Submitted]) -> None:
        """One transaction. After a failure, batches judged before it was known are void."""
        live = [one for one in group if one.batch.epoch >= self._void_below]
        void = [one for one in group if one.batch.epoch < self._void_below]
        error: BaseException | None = None
        try:
            with _SECONDS.time():
                _write(self._connection, [one.batch for one in live])
        except Exception as fault:
            # Whatever it was: the thread must live, or every later writer would wait for ever.
            _log.error("store write failed", reason=str(fault), batches=len(live))
            error = Retryable("DRTP-1006", f"The store cannot write: {fault}.")
            self._void_below = max(one.batch.epoch for one in live) + 1
        self._count(live, error)
        self._settle(live, error)
        self._settle(void, Retryable("DRTP-1006", "A write before this one failed."))

    def _count(self, live: Sequence[_Submitted], error: BaseException | None) -> None:
        _COMMITS.labels("failed" if error else "done").inc()
        if error is None:
            _WRITES.inc(sum(len(one.batch.effects) for one in live))
        with suppress(OSError):
            _BYTES.set(sum(Path(f"{self._path}{end}").stat().st_size for end in ("", "-wal")))

    def _settle(self, group: Sequence[_Submitted], error: BaseException | None) -> None:
        if group:
            self._tell(group[0].settle, [one.batch for one in group], error)

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        # The loop may have ended before its writer: then nobody waits for the answer.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)


def _write(connection: apsw.Connection, batches: Sequence[Batch]) -> None:
    effects = [one for batch in batches for one in batch.effects]
    if not effects:
        return
    with connection:
        for one in effects:
            if one.after is None:
                execute(connection, _DELETE, one.key)
            else:
                execute(connection, _UPSERT, (*one.key, one.after.revision, one.after.raw))
        execute(connection, _REVISION, (effects[-1].result.revision,))


def _load(connection: apsw.Connection) -> tuple[int, list[Stored]]:
    revision = read_state(connection, "revision")
    rows = execute(connection, "SELECT kind, namespace, name, revision, raw FROM objects")
    return revision, [Stored(Key(row[0], row[1], row[2]), row[3], row[4]) for row in rows]


def _take_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Terminal("DRTP-1007", f"Another process uses the store in {path.parent}.") from None
    return descriptor


def _finish(done: asyncio.Future[Any], result: object) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
