"""A way from an endpoint to the local service, and what it takes to start one from fresh processes on loopback."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bench.tunnel import far
from bench.tunnel.load import Address

START_DEADLINE_S = 20.0


@dataclass(frozen=True)
class Way:
    """Where visitors go, and the processes whose CPU and memory count as the relay's."""

    endpoint: Address
    pids: tuple[int, ...] = ()


class Carries(Enum):
    """What a way is asked to carry."""

    STREAM = "tcp"
    DATAGRAMS = "udp"


Opens = Callable[[Address, Path], AbstractContextManager[Way]]
"""(service, scratch directory) -> a way that lives as long as the block."""

between: ContextVar[far.Path] = ContextVar("between", default=far.NEAR)
"""The path between the two ends of a way that is opened now."""


def free_port() -> int:
    """A port below the ephemeral range that nobody holds now."""
    for port in random.sample(range(10000, 32000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@contextlib.contextmanager
def running(argv: Sequence[str | Path], log: Path, **how: object) -> Generator[subprocess.Popen[str]]:
    """A process while the block runs; what it says on stderr is in `log`."""
    with log.open("w") as words:
        process = subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            **how,  # type: ignore[call-overload]
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
            if process.stdout is not None:
                process.stdout.close()


def answers(at: Address) -> None:
    """Wait until a visitor is served there. Raises: RuntimeError."""
    end = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(at, timeout=1) as visitor:
            visitor.sendall(b"e?")
            if visitor.recv(1) == b"?":
                return
        time.sleep(0.02)
    raise RuntimeError(f"nobody serves at {at[0]}:{at[1]}")


def answers_datagrams(at: Address) -> None:
    """Wait until a datagram comes back from there. Raises: RuntimeError."""
    end = time.monotonic() + START_DEADLINE_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as visitor:
        visitor.settimeout(0.1)
        visitor.connect(at)
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                visitor.send(b"?")
                if visitor.recv(1) == b"?":
                    return
    raise RuntimeError(f"nobody answers at {at[0]}:{at[1]}")


def listens(at: Address) -> None:
    """Wait until somebody accepts there. Raises: RuntimeError."""
    end = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(at, timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nobody listens at {at[0]}:{at[1]}")
