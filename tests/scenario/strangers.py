"""Strangers at a door: many connections that say nothing, a byte a second of something valid, or garbage.

    with strangers(*(Party(place, 2000) for place in doors)) as crowd:
        crowd.arrived()
        ...

They are processes of their own, come from many addresses of 127.0.0.0/8, and try again some seconds after they were
turned away, until the block is left.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import select
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec

from scenario.bed import Lines

SORTS = ("silent", "slow", "garbage")
ARRIVALS_PER_S = 1000
"""At each door."""
AGAIN_S = (8.0, 12.0)
"""Whoever was turned away comes again after this."""
OF_ONE_PROCESS = 6_000
ADDRESSES = 100
PATIENCE_S = 60.0

GARBAGE = random.Random(7).randbytes(512)
REQUEST = b"GET / HTTP/1.1\r\nHost: hello.prism.localhost\r\nUser-Agent: " + b"x" * 400 + b"\r\n\r\n"


class Party(msgspec.Struct, frozen=True):
    """`count` strangers of all sorts at one door. `greeting`: what the slow ones begin, `tls` or `http`."""

    place: tuple[str, int]
    count: int
    greeting: str = "tls"


class Crowd:
    """Strangers at work."""

    def __init__(self, lines: Sequence[Lines]) -> None:
        self._lines = lines

    def arrived(self) -> Counter[str]:
        """Wait until each has been at its door once; what came of them: `here` or `turned away`."""
        told: Counter[str] = Counter()
        for lines in self._lines:
            told.update(json.loads(lines.next(PATIENCE_S)))
        return told


@contextlib.contextmanager
def strangers(*parties: Party) -> Generator[Crowd]:
    """Send them, and take them away at the end."""
    processes: list[subprocess.Popen[str]] = []
    try:
        for group in _groups(parties):
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(Path(__file__)), msgspec.json.encode(group).decode()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={"PYTHONPATH": str(Path(__file__).parents[1])},
                )
            )
        yield Crowd([Lines(process.stdout) for process in processes if process.stdout])
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()


def _groups(parties: Sequence[Party]) -> list[list[Party]]:
    groups: list[list[Party]] = [[]]
    for party in parties:
        if sum(one.count for one in groups[-1]) + party.count > OF_ONE_PROCESS and groups[-1]:
            groups.append([])
        groups[-1].append(party)
    return groups


# ---- the process -----------------------------------------------------------------------------------------------------


def tls_greeting() -> bytes:
    """The first flight of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="hello.prism.localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class _Stranger:
    def __init__(self, party: Party, number: int, words: bytes) -> None:
        self.place = party.place
        self.sort = SORTS[number % len(SORTS)]
        self.source = f"127.{1 + number % ADDRESSES}.{number % 7}.{1 + number % 200}"
        self.words = words
        self.socket: socket.socket | None = None
        self.said = 0
        self.due = 0.0

    def come(self) -> socket.socket | None:
        """Connect, without waiting; None: this time it was not even possible."""
        one = socket.socket()
        one.setblocking(False)
        try:
            one.bind((self.source, 0))
            one.connect(self.place)
        except BlockingIOError:
            pass
        except OSError:
            one.close()
            return None
        self.socket, self.said = one, 0
        return one

    def speak(self) -> None:
        """What its sort says next."""
        if self.socket is None or self.sort == "silent":
            return
        words = self.words[self.said : self.said + 1] if self.sort == "slow" else GARBAGE
        if self.sort == "garbage" and self.said:
            return
        self.said += self.socket.send(words)


class _Mob:
    """All strangers of this process."""

    def __init__(self, parties: Sequence[Party]) -> None:
        hello = tls_greeting()
        self.waiting = [
            _Stranger(party, number, hello if party.greeting == "tls" else REQUEST)
            for party in parties
            for number in range(party.count)
        ]
        random.Random(1).shuffle(self.waiting)
        self.pace = ARRIVALS_PER_S * len(parties)
        self.fates: Counter[str] = Counter()
        self.here: dict[int, _Stranger] = {}
        self.poll = select.epoll()

    def run(self) -> None:
        arrivals, began = list(self.waiting), time.monotonic()
        for index, stranger in enumerate(arrivals):
            stranger.due = began + index / self.pace
        told, expected = False, began + len(arrivals) / self.pace + 1.0
        while True:
            now = time.monotonic()
            for descriptor, happened in self.poll.poll(0.02):
                self._happened(descriptor, happened)
            for stranger in [one for one in arrivals if one.due <= now]:
                self._turn(stranger, now)
            if not told and now > expected:
                told = True
                self.fates["here"] = len(self.here)
                print(json.dumps(self.fates), flush=True)

    def _turn(self, stranger: _Stranger, now: float) -> None:
        if stranger.socket is None:
            one = stranger.come()
            if one is None:
                stranger.due = now + random.uniform(*AGAIN_S)
                return
            self.here[one.fileno()] = stranger
            self.poll.register(one, select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLONESHOT)
            stranger.due = now + 3600.0
            return
        try:
            stranger.speak()
            stranger.due = now + 1.0
        except BlockingIOError:
            stranger.due = now + 1.0
        except OSError:
            self._left(stranger)

    def _happened(self, descriptor: int, happened: int) -> None:
        stranger = self.here[descriptor]
        if happened & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
            self._left(stranger)
        elif happened & select.EPOLLOUT:
            stranger.due = time.monotonic()
            self.poll.modify(descriptor, select.EPOLLRDHUP)

    def _left(self, stranger: _Stranger) -> None:
        assert stranger.socket is not None
        self.fates["turned away"] += 1
        self.here.pop(stranger.socket.fileno(), None)
        stranger.socket.close()
        stranger.socket = None
        stranger.due = time.monotonic() + random.uniform(*AGAIN_S)


if __name__ == "__main__":
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _Mob(msgspec.json.decode(sys.argv[1], type=list[Party])).run()
