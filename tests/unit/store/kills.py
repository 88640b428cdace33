"""A store's process that is killed again and again while a client writes to it, and the client that keeps the books.

A nursery process has everything imported and forks one life after the other, so that a life costs milliseconds. The
client writes down what was acknowledged; what was not may have happened or not, but never by half.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from drtp.api.meta import Key
from drtp.store.protocol import Listing
from drtp.store.sqlite import SqliteStore
from nursery import nursery_of

KIND = "ConfigMap"
NAMESPACE = "joe"
LANES = 8
NAMES = 6
"""Objects of each lane: few, so that they are created and deleted often."""
PADDING = (0, 200, 9_000)
"""Bytes beside the number, so that a transaction is one page, and many."""

NURSERY = """
import asyncio, json, os, signal, sys
from pathlib import Path
from drtp.api.meta import Key
from drtp.store.protocol import Create, Delete, NotFound, Update, UpdateStatus
from drtp.store.sqlite import SqliteStore

def write_of(said):
    obj = said.get("object")
    match said["do"]:
        case "create": return Create(obj)
        case "update": return Update(obj)
        case "status": return UpdateStatus(obj)
        case "delete": return Delete(Key(*said["key"]))

async def life(directory, door):
    reader, writer = await asyncio.open_unix_connection(door, limit=1 << 20)
    store = await SqliteStore.open(Path(directory))
    async def answer(line):
        said = json.loads(line)
        stored = await store.apply([write_of(one) for one in said["writes"]])
        writer.write(json.dumps({"lane": said["lane"], "revision": stored[-1].revision}).encode() + b"\\n")
    async with asyncio.TaskGroup() as group:
        writer.write(b"open\\n")
        async for line in reader:
            group.create_task(answer(line))

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        asyncio.run(life(*json.loads(line)))
        os._exit(0)
    print(pid, flush=True)
"""


@dataclass
class Books:
    """What the client knows: acknowledged states by key, and for each lane the one operation on its way."""

    acknowledged: dict[Key, dict[str, Any]] = field(default_factory=dict)
    doubtful: dict[int, dict[Key, dict[str, Any] | None]] = field(default_factory=dict)
    """lane -> what its unacknowledged transaction would make of each key; None: deleted."""
    revision: int = 0
    writes: int = 0


@dataclass
class Figures:
    """What a campaign did."""

    kills: int = 0
    kills_at_opening: int = 0
    acknowledged: int = 0
    unacknowledged: int = 0
    of_these_durable: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills under writes and {self.kills_at_opening} while the store opened, "
            f"{self.acknowledged} writes acknowledged, {self.unacknowledged} not ({self.of_these_durable} of these "
            f"durable all the same), 0 lost, {self.seconds:.1f} s"
        )


class Lane:
    """One client's sequence of writes; no two lanes touch one object."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number = number
        self._rng = rng

    def next(self, books: Books) -> tuple[list[dict[str, Any]], dict[Key, dict[str, Any] | None]]:
        """One transaction, as it is sent and as it would change the books."""
        if self._rng.random() < 0.2:
            return self._spend(books)
        key = Key(KIND, NAMESPACE, f"lane-{self.number}-{self._rng.randrange(NAMES)}")
        held = books.acknowledged.get(key)
        if held is None:
            made = _object(key, data=self._data())
            return [{"do": "create", "object": made}], {key: {"data": made["data"], "status": None}}
        do = self._rng.choice(("update", "update", "status", "delete"))
        if do == "delete":
            return [{"do": do, "key": key}], {key: None}
        if do == "update":
            data = self._data()
            return [{"do": do, "object": _object(key, data=data)}], {key: {**held, "data": data}}
        status = self._data()
        return [{"do": do, "object": _object(key, status=status)}], {key: {**held, "status": status}}

    def _spend(self, books: Books) -> tuple[list[dict[str, Any]], dict[Key, dict[str, Any] | None]]:
        """As enrolment does: count a use and write what it was used for, in one transaction. The use before goes."""
        counter = Key(KIND, NAMESPACE, f"lane-{self.number}-uses")
        held = books.acknowledged.get(counter)
        uses = int(held["data"]["n"]) + 1 if held else 1
        use = Key(KIND, NAMESPACE, f"lane-{self.number}-use-{uses}")
        count, made = _object(counter, data={"n": str(uses)}), _object(use, data={"n": str(uses)})
        writes = [{"do": "update" if held else "create", "object": count}, {"do": "create", "object": made}]
        changes: dict[Key, dict[str, Any] | None] = {
            key: {"data": {"n": str(uses)}, "status": None} for key in (counter, use)
        }
        if held:
            former = Key(KIND, NAMESPACE, f"lane-{self.number}-use-{uses - 1}")
            return [*writes, {"do": "delete", "key": former}], {**changes, former: None}
        return writes, changes

    def _data(self) -> dict[str, str]:
        return {"n": str(self._rng.getrandbits(40)), "padding": "x" * self._rng.choice(PADDING)}


def _object(key: Key, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": key.kind, "metadata": {"name": key.name, "namespace": key.namespace}, **more}


class Campaign:
    """Lives of one store, one after the other. `seed` repeats the choices, though not the moments, of a run."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.books = Books()
        self.figures = Figures()
        self._directory = directory / "data"
        self._door = directory / "door"
        self._rng = random.Random(seed)
        self._lanes = [Lane(number, random.Random(self._rng.random())) for number in range(LANES)]

    async def run(self, kills: int) -> Figures:
        """Kill so often, and look each time. Raises: AssertionError for what was lost, made up, or halved."""
        began = time.monotonic()
        async with nursery_of(NURSERY) as nursery:
            while self.figures.kills < kills:
                await self._one_life(nursery)
                if self._rng.random() < 0.25:
                    await self._die_opening(nursery)
                await self._look()
        self.figures.seconds = time.monotonic() - began
        return self.figures

    async def _one_life(self, nursery: asyncio.subprocess.Process) -> None:
        """Born, written to by every lane at once, killed at a random moment."""
        async with self._born(nursery) as (pid, reader, writer):
            assert await reader.readline() == b"open\n"
            writing = asyncio.gather(self._write(reader, writer))
            await asyncio.sleep(self._rng.uniform(0, 0.06))
            os.kill(pid, signal.SIGKILL)
            await writing
        self.figures.kills += 1

    async def _die_opening(self, nursery: asyncio.subprocess.Process) -> None:
        """Killed while it brings the log of the life before home."""
        async with self._born(nursery) as (pid, reader, _writer):
            await asyncio.sleep(self._rng.uniform(0, 0.006))
            os.kill(pid, signal.SIGKILL)
            await reader.read()
        self.figures.kills_at_opening += 1

    @contextlib.asynccontextmanager
    async def _born(
        self, nursery: asyncio.subprocess.Process
    ) -> AsyncGenerator[tuple[int, asyncio.StreamReader, asyncio.StreamWriter]]:
        arrived: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.get_running_loop().create_future()
        )
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        self._door.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(lambda *streams: arrived.set_result(streams), str(self._door))
        async with server:
            nursery.stdin.write(msgspec.json.encode([str(self._directory), str(self._door)]) + b"\n")
            pid = int(await nursery.stdout.readline())
            reader, writer = await arrived
            try:
                yield pid, reader, writer
            finally:
                writer.close()

    async def _write(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep every lane busy, and the books, until the process is gone."""
        for lane in self._lanes:
            self._send(lane, writer)
        with contextlib.suppress(ConnectionError):
            while (line := await reader.readline()).endswith(b"\n"):
                said = msgspec.json.decode(line)
                self._acknowledge(said["lane"], said["revision"])
                self._send(self._lanes[said["lane"]], writer)

    def _send(self, lane: Lane, writer: asyncio.StreamWriter) -> None:
        writes, changes = lane.next(self.books)
        self.books.doubtful[lane.number] = changes
        writer.write(msgspec.json.encode({"lane": lane.number, "writes": writes}) + b"\n")

    def _acknowledge(self, lane: int, revision: int) -> None:
        books = self.books
        _enter(books.acknowledged, books.doubtful.pop(lane))
        books.revision = max(books.revision, revision)
        self.figures.acknowledged += 1

    async def _look(self) -> None:
        """Open the store and compare: exactly what was acknowledged, and each doubtful transaction whole or not."""
        store = await SqliteStore.open(self._directory)
        try:
            assert await store.integrity_check() == ()
            assert store.revision >= self.books.revision
            held = _held(await store.list(KIND, NAMESPACE))
        finally:
            await store.close()
        books = self.books
        for changes in books.doubtful.values():
            self.figures.unacknowledged += 1
            expected = dict(books.acknowledged)
            _enter(expected, changes)
            if all(held.get(key) == expected.get(key) for key in changes):
                self.figures.of_these_durable += 1
                books.acknowledged = expected
        books.doubtful = {}
        assert held == books.acknowledged, _difference(held, books.acknowledged)


def _enter(states: dict[Key, dict[str, Any]], changes: dict[Key, dict[str, Any] | None]) -> None:
    for key, state in changes.items():
        if state is None:
            states.pop(key, None)
        else:
            states[key] = state


def _held(listing: Listing) -> dict[Key, dict[str, Any]]:
    return {
        stored.key: {"data": stored.object.get("data"), "status": stored.object.get("status")}
        for stored in listing.items
    }


def _difference(held: dict[Key, dict[str, Any]], wanted: dict[Key, dict[str, Any]]) -> str:
    keys = [key for key in {*held, *wanted} if held.get(key) != wanted.get(key)]
    return "\n".join(f"{key}: held {str(held.get(key))[:200]}, wanted {str(wanted.get(key))[:200]}" for key in keys)
