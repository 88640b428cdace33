"""Visitors under load, each with a fate: what a platform team looks at when it kills things.

    with local_service() as port, visitors(tcp(endpoint, per_s=100), http(...)) as load:
        load.run_on(2.0)
        killed = kill(pop)
        load.run_on(5.0)
    crowd = load.crowd()
    assert crowd.after(killed).failed == []

Visitors and the local service are processes of their own, so that the test's own work disturbs no timing. Arrivals are
open loop: at an even pace, whatever the visitors before are doing. All times are `time.monotonic()`, one clock for all
processes of a machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import queue
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import msgspec
import uvloop

from scenario.bed import Lines

RUN_MAX_S = 240.0
"""However a test goes wrong, its load ends."""
TALK_EVERY_S = 0.1
"""Staying visitors say something this often, so that they notice."""
LINGER_S = 15.0
"""For those under way when the load is told to stop."""


class Fate(Enum):
    """How a visit ended."""

    SERVED = "served"
    REFUSED = "refused"
    RESET = "reset"
    CLEAN_END = "clean end too early"
    HANG = "hang"
    WRONG_BYTE = "wrong byte"
    BAD_STATUS = "bad status"


class Sort(Enum):
    """What visitors do."""

    TCP = "tcp"
    HTTP = "http"


class Stream(msgspec.Struct, frozen=True):
    """Visitors of one sort: `per_s` new ones a second who stay `stay_s` after they were served, or `staying` who come
    at once and stay to the end. Who waits `deadline_s` for a byte hangs. Who is cut comes `again`, if it is so.
    """

    name: str
    sort: Sort
    address: tuple[str, int]
    host: str = ""
    per_s: float = 0.0
    stay_s: float = 0.0
    staying: int = 0
    deadline_s: float = 8.0
    talk_every_s: float = TALK_EVERY_S
    again: bool = False


class Visit(msgspec.Struct, frozen=True):
    """One visitor. `setup_s`: from dialling to the first byte of the right answer."""

    stream: str
    at: float
    ended: float
    fate: Fate
    setup_s: float | None = None
    note: str = ""

    @property
    def asked_in_vain(self) -> bool:
        """It had asked, and its connection ended in good order before a byte of the answer: its word met the end of a
        Unix socket, which tells the writer of no reset (decision 0050).
        """
        return self.fate is Fate.CLEAN_END and self.note.startswith("after 0 bytes of an answer")


def tcp(address: tuple[str, int], name: str = "tcp", **how: float) -> Stream:
    """Visitors of an echo over TCP."""
    return msgspec.structs.replace(Stream(name, Sort.TCP, address), **how)


def http(address: tuple[str, int], host: str, name: str = "http", **how: float) -> Stream:
    """Visitors with one GET each, on a connection each."""
    return msgspec.structs.replace(Stream(name, Sort.HTTP, address, host), **how)


# ---- what a test reads -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crowd:
    """Visits, and what can be asked of them."""

    visits: Sequence[Visit]

    def of(self, stream: str) -> Crowd:
        """Those of one stream."""
        return self._where(lambda visit: visit.stream == stream)

    def after(self, instant: float) -> Crowd:
        """Those who dialled later than `instant`."""
        return self._where(lambda visit: visit.at > instant)

    def within(self, first: float, last: float) -> Crowd:
        """Those who dialled between the two."""
        return self._where(lambda visit: first < visit.at <= last)

    def there_at(self, instant: float) -> Crowd:
        """Those who had been served by `instant` and had not ended then."""
        return self._where(lambda v: v.setup_s is not None and v.at + v.setup_s < instant < v.ended)

    @property
    def failed(self) -> list[Visit]:
        """Everybody who was not served whole."""
        return [visit for visit in self.visits if visit.fate is not Fate.SERVED]

    @property
    def fates(self) -> dict[str, int]:
        """How many met each fate."""
        return dict(Counter(visit.fate.value for visit in self.visits))

    @property
    def not_set_up(self) -> list[Visit]:
        """Everybody who did not get as far as the first right answer."""
        return [visit for visit in self.visits if visit.setup_s is None]

    def setup_s(self, part: float) -> float:
        """A percentile of the set-up times, by rank."""
        times = sorted(visit.setup_s for visit in self.visits if visit.setup_s is not None)
        if not times:
            raise AssertionError("nobody was served")
        return times[min(len(times) - 1, int(part * len(times)))]

    def __str__(self) -> str:
        if not any(visit.setup_s is not None for visit in self.visits):
            return f"{len(self.visits)} visitors, {self.fates}"
        p50, p99, worst = (self.setup_s(part) * 1e3 for part in (0.5, 0.99, 1.0))
        return (
            f"{len(self.visits)} visitors, {self.fates}, set-up p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {worst:.0f} ms"
        )

    def _where(self, wanted: Callable[[Visit], bool]) -> Crowd:
        return replace(self, visits=[visit for visit in self.visits if wanted(visit)])


class Load:
    """A running load."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._process = process
        self._lines = Lines(process.stdout)
        self._visits: list[Visit] = []
        self._over = False

    def run_on(self, seconds: float) -> None:
        """Let visitors come for so long. Raises: AssertionError if the load has died."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._hear()

    def until(self, fact: Callable[[Crowd], bool], within_s: float = 30.0) -> None:
        """Let visitors come until `fact` holds of those who have ended."""
        end = time.monotonic() + within_s
        while not fact(Crowd(self._visits)):
            assert time.monotonic() < end, f"not within {within_s} s: {Crowd(self._visits)}"
            self._hear()

    def so_far(self) -> Crowd:
        """Those who have ended."""
        return Crowd(self._visits)

    def crowd(self) -> Crowd:
        """Everybody, after the load was stopped."""
        self.stop()
        return Crowd(self._visits)

    def stop(self) -> None:
        """No more visitors; those under way end. Idempotent."""
        if self._over:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(EOFError):
            while True:
                self._take(self._lines.next(LINGER_S + 5))
        self._over = True
        assert self._process.wait(5) == 0

    def _hear(self) -> None:
        try:
            self._take(self._lines.next(5.0))
        except (EOFError, queue.Empty) as error:
            raise AssertionError(f"the load says nothing any more: {Crowd(self._visits)}") from error

    def _take(self, line: str) -> None:
        self._visits += msgspec.json.decode(line, type=list[Visit])


@contextlib.contextmanager
def visitors(*streams: Stream) -> Generator[Load]:
    """A load while the block runs, and until its last visitor has ended."""
    with _started("visit", msgspec.json.encode(streams).decode()) as process:
        load = Load(process)
        try:
            yield load
        finally:
            load.stop()


def silent_visitor(address: tuple[str, int]) -> socket.socket:
    """Served once over TCP, and now waiting for a word from the service, as a connection in a pool does."""
    visitor = socket.create_connection(address, timeout=LINGER_S)
    visitor.sendall(QUESTIONS[0])
    assert visitor.recv(len(QUESTIONS[0]), socket.MSG_WAITALL) == QUESTIONS[0]
    return visitor


def hears_of_it(visitor: socket.socket, *, or_ends: bool = False) -> float:
    """The instant at which a silent visitor is reset; a hang fails, and a clean end unless it may be one."""
    with visitor:
        try:
            word = visitor.recv(1)
        except ConnectionResetError:
            return time.monotonic()
        if or_ends and not word:
            return time.monotonic()
    raise AssertionError(f"{word!r} instead of a reset")


@contextlib.contextmanager
def local_service() -> Generator[int]:
    """An echo that also answers GET, in a process of its own; gives its port."""
    with _started("serve") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(json.loads(process.stdout.readline())["port"])
        finally:
            process.stdin.close()
            process.wait(5)


@contextlib.contextmanager
def _started(*argv: str) -> Generator[subprocess.Popen[str]]:
    tests = str(Path(__file__).parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    process = subprocess.Popen(
        [sys.executable, "-m", "scenario.load", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(5)
        for end in (process.stdin, process.stdout):
            if end is not None and not end.closed:
                with contextlib.suppress(OSError):
                    end.close()


# ---- the processes ---------------------------------------------------------------------------------------------------

QUESTIONS = [random.Random(seed).randbytes(64) for seed in range(97)]
"""Never the same one twice in a row, so that an answer of somebody else shows."""


class _Wrong(Exception):
    """What came back is not what was asked for."""

    def __init__(self, fate: Fate, note: str = "") -> None:
        super().__init__(note)
        self.fate = fate


async def _visit(stream: Stream, number: int, over: asyncio.Event) -> Visit:
    """One visitor from dialling to the end."""
    at, setup = time.monotonic(), [0.0]
    fate, note = Fate.SERVED, ""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(stream.deadline_s):
            reader, writer = await asyncio.open_connection(*stream.address)
        talk = _http if stream.sort is Sort.HTTP else _tcp
        await talk(stream, number, reader, writer, over, lambda: setup.__setitem__(0, time.monotonic() - at))
    except ConnectionRefusedError:
        fate = Fate.REFUSED
    except (ConnectionError, OSError) as error:
        # TimeoutError is an OSError, too.
        fate, note = (Fate.HANG, "") if isinstance(error, TimeoutError) else (Fate.RESET, str(error))
    except asyncio.IncompleteReadError as error:
        fate, note = Fate.CLEAN_END, f"after {len(error.partial)} bytes of an answer"
    except _Wrong as wrong:
        fate, note = wrong.fate, str(wrong)
    finally:
        ended = time.monotonic()
        if writer is not None:
            writer.close()
    return Visit(stream.name, at, ended, fate, setup[0] or None, note)


async def _tcp(
    stream: Stream,
    number: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    over: asyncio.Event,
    served: Callable[[], None],
) -> None:
    """Question and answer, again and again while the visitor stays; then half-close and the clean end."""
    begin = time.monotonic()
    for turn in itertools.count(number):
        question = QUESTIONS[turn % len(QUESTIONS)]
        if writer.is_closing():
            await _quiet(reader, 0.0)
            raise ConnectionResetError("before a question")
        writer.write(question)
        async with asyncio.timeout(stream.deadline_s):
            answer = await reader.readexactly(len(question))
        if answer != question:
            raise _Wrong(Fate.WRONG_BYTE, f"in turn {turn - number}")
        served() if turn == number else None
        staying = not over.is_set() if stream.staying else time.monotonic() - begin < stream.stay_s
        if not staying:
            break
        await _quiet(reader, stream.talk_every_s)
    writer.write_eof()
    async with asyncio.timeout(stream.deadline_s):
        if await reader.read(1):
            raise _Wrong(Fate.WRONG_BYTE, "after the end")


async def _quiet(reader: asyncio.StreamReader, seconds: float) -> None:
    """Nobody asked for anything: whatever comes is an end or a wrong byte."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            if await reader.read(1):
                raise _Wrong(Fate.WRONG_BYTE, "unasked")
            raise _Wrong(Fate.CLEAN_END, "between two questions")


async def _http(
    stream: Stream,
    number: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    _over: asyncio.Event,
    served: Callable[[], None],
) -> None:
    """One GET; the body is its path."""
    path = f"/{number}-{QUESTIONS[number % len(QUESTIONS)].hex()}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {stream.host}\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(stream.deadline_s):
        answer = await reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        raise asyncio.IncompleteReadError(answer, None)
    if not head.startswith(b"HTTP/1.1 200"):
        raise _Wrong(Fate.BAD_STATUS, head.split(b"\r\n", 1)[0].decode(errors="replace"))
    if body != path.encode():
        raise _Wrong(Fate.WRONG_BYTE, f"{body[:40]!r}")
    served()


async def _arrivals(stream: Stream, over: asyncio.Event, done: list[Visit]) -> None:
    """All visitors of one stream; ends when the last one has."""

    async def one(number: int) -> None:
        done.append(await _visit(stream, number, over))
        while stream.again and not over.is_set():
            done.append(await _visit(stream, number, over))

    async with asyncio.TaskGroup() as group:
        begin = time.monotonic()
        for number in itertools.count():
            if stream.staying and number == stream.staying:
                return
            pace = stream.per_s or 100.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, begin + number / pace - time.monotonic())):
                    await over.wait()
            if over.is_set():
                return
            group.create_task(one(number))


async def _visit_all(streams: Iterable[Stream]) -> None:
    over, done = asyncio.Event(), list[Visit]()
    loop = asyncio.get_running_loop()
    loop.call_later(RUN_MAX_S, over.set)
    loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: over.set())
    async with asyncio.TaskGroup() as group:
        telling = group.create_task(_tell(done))
        async with asyncio.TaskGroup() as arriving:
            for stream in streams:
                arriving.create_task(_arrivals(stream, over, done))
        telling.cancel()
    _say(done)


async def _tell(done: list[Visit]) -> None:
    """Hand over who has ended, ten times a second."""
    while True:
        await asyncio.sleep(0.1)
        _say(done)
        done.clear()


def _say(done: list[Visit]) -> None:
    sys.stdout.write(msgspec.json.encode(done).decode() + "\n")
    sys.stdout.flush()


async def _serve() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            first = await reader.read(65536)
            if first.startswith(b"GET "):
                body = first.split(b" ", 2)[1]
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode() + body)
            else:
                while first:
                    writer.write(first)
                    await writer.drain()
                    first = await reader.read(65536)
        writer.close()

    async with asyncio.TaskGroup() as group:
        server = await asyncio.start_server(
            lambda reader, writer: void(group.create_task(answer(reader, writer))), "127.0.0.1", 0, backlog=1024
        )
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        os._exit(0)


def void(_task: object) -> None:
    """The task group holds it."""


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        uvloop.run(_serve())
    else:
        uvloop.run(_visit_all(msgspec.json.decode(sys.argv[2], type=list[Stream])))
