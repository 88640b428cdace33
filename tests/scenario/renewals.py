"""Certificates of seconds: an agent that renews under live traffic, and when each of them ends."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509

from scenario.bed import Bed, Program
from scenario.load import Crowd, local_service, tcp, visitors

NEW_PER_S = 10.0
"""Visitors of each sort."""
STAYING = 10
"""Of each sort, who come at once and stay through every renewal."""


@dataclass(frozen=True)
class Renewed:
    """What a run did: the agent's renewals, and everybody who visited meanwhile, by gateway and by `connect`."""

    renewals: int
    seconds: float
    crowd: Crowd

    def __str__(self) -> str:
        return (
            f"{self.renewals} renewals of the agent in {self.seconds:.0f} s, "
            f"{len(self.crowd.failed)} of {len(self.crowd.visits)} visitors failed, through the gateway and by connect"
        )


def generation(state: Path) -> int:
    """Of an agent's certificate, as its state directory has it."""
    found = next(state.glob("**/identity/current/identity.json"))
    number: int = msgspec.json.decode(found.read_bytes())["generation"]
    return number


def renewed_under_traffic(bed: Bed, renewals: int, lifetime_s: float) -> Renewed:
    """An agent serves until it has renewed so often, its certificates lasting `lifetime_s`."""
    with local_service() as port:
        state = bed.directory / "joes-state"
        served = bed.serve(f"tcp://localhost:{port}", "--name", "renews", "--state-dir", str(state))
        calling, panel = connecting(bed, f"default/{served.service}")
        first, began = generation(state), time.monotonic()
        streams = (
            tcp(served.endpoint, "staying", staying=STAYING),
            tcp(served.endpoint, "short", per_s=NEW_PER_S),
            tcp(panel, "connect, staying", staying=STAYING),
            tcp(panel, "connect, short", per_s=NEW_PER_S),
        )
        with visitors(*streams) as load:
            for wanted in range(first + 1, first + 1 + renewals):
                deadline = time.monotonic() + lifetime_s
                while generation(state) < wanted:
                    assert time.monotonic() < deadline, served.program.story()
                    load.run_on(0.1)
            load.run_on(1.0)
        seconds = time.monotonic() - began
        done = generation(state) - first
        calling.stop()
        served.stop()
    return Renewed(done, seconds, load.crowd())


def ends_at(state: Path) -> float:
    """When an agent's certificate ends, in seconds of the wall clock."""
    leaf = x509.load_pem_x509_certificates(next(state.glob("**/identity/current/chain.pem")).read_bytes())[0]
    return leaf.not_valid_after_utc.timestamp()


def connected(bed: Bed, service: str, *who: str) -> tuple[str, int]:
    """Where `datumctl connect` presents a service (`namespace/name`); `who`: the caller's context."""
    return connecting(bed, service, *who)[1]


def connecting(bed: Bed, service: str, *who: str) -> tuple[Program, tuple[str, int]]:
    """The same, and the program that does."""
    program = bed.run("connect", service, "--local", "0", *who, "--output", "json")
    host, port = program.event("ready", 30.0)["local"].rsplit(":", 1)
    return program, (host, int(port))


class Caller(threading.Thread):
    """Keeps one connection, and has a byte echoed on it again and again; a new one where it was ended.

    last: when a byte came back, in seconds of the wall clock. cuts: when a connection ended.
    """

    def __init__(self, place: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self._place = place
        self._over = threading.Event()
        self.last = 0.0
        self.cuts: list[float] = []

    def run(self) -> None:
        """Until `end`."""
        while not self._over.is_set():
            try:
                with socket.create_connection(self._place, timeout=2) as caller:
                    while not self._over.is_set():
                        caller.sendall(b"Q")
                        if caller.recv(1) != b"Q":
                            break
                        self.last = time.time()
                        self._over.wait(0.02)
                    self.cuts.append(time.time())
            except OSError:
                self.cuts.append(time.time())
            self._over.wait(0.05)

    def end(self) -> None:
        """Stop, and wait for it."""
        self._over.set()
        self.join(5)
