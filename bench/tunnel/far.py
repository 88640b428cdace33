"""A long path between agent and POP on one machine: a network of the bench's own, and a TUN device in it.

The kernel may have no netem, so the device is a shim: each packet that goes to `THERE` comes back from `THERE` to
`HERE` after half the round trip, source and destination changed over, or not at all. Checksums stay what they were.
Takes root.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass

HERE, THERE = "10.9.0.1", "10.9.0.2"
"""Who listens at `HERE` is dialled at `THERE` by those who are far."""
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKET_MAX = 65_536
SEED = 1
"""Which packets are lost follows from it and from their order."""


@dataclass(frozen=True)
class Path:
    """Between agent and POP. `loss`: share of packets, each way, that never arrive."""

    round_trip_s: float = 0.0
    loss: float = 0.0

    @property
    def listens(self) -> str:
        """Address of the POP."""
        return HERE if self.round_trip_s else "127.0.0.1"

    @property
    def dialled(self) -> str:
        """Where the agent dials it."""
        return THERE if self.round_trip_s else "127.0.0.1"


NEAR = Path()


class NotPossible(Exception):
    """This machine, or this user, cannot have such a path; the words say why."""


@contextlib.contextmanager
def laid(path: Path) -> Generator[None]:
    """While the block runs, this thread and what it starts live in a network with such a path.

    Raises: NotPossible.
    """
    if path == NEAR:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(_CLONE_NEWNET) != 0:
        os.close(home)
        raise NotPossible(f"a network of its own: {os.strerror(ctypes.get_errno())}")
    try:
        with _device(path):
            yield
    finally:
        if libc.setns(home, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "this thread cannot go back to its network")
        os.close(home)


@contextlib.contextmanager
def _device(path: Path) -> Generator[None]:
    """The shim is a process of its own: it must not wait for what the bench computes."""
    try:
        device = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", b"far0", _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        raise NotPossible(f"a TUN device: {error.strerror}") from error
    for command in (
        "ip link set lo up",
        f"ip address add {HERE} peer {THERE} dev far0",
        "ip link set far0 txqueuelen 10000 up",
    ):
        subprocess.run(command.split(), check=True)
    argv = [sys.executable, "-m", "bench.tunnel.far", str(device), str(path.round_trip_s / 2), str(path.loss)]
    shim = subprocess.Popen(argv, pass_fds=(device,), stdin=subprocess.PIPE)
    os.close(device)
    try:
        yield
    finally:
        assert shim.stdin is not None
        shim.stdin.close()
        shim.wait(5)


def _turn_round(device: int, delay_s: float, loss: float) -> None:
    """Until standard input ends."""
    os.set_blocking(device, False)
    dice, order = random.Random(SEED), itertools.count()
    waiting: list[tuple[float, int, bytes]] = []
    while True:
        pause_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([device, sys.stdin], [], [], pause_s)
        if sys.stdin in readable:
            return
        with contextlib.suppress(BlockingIOError):
            while device in readable:
                packet = os.read(device, _PACKET_MAX)
                if packet[0] >> 4 == 4 and dice.random() >= loss:
                    turned = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
                    heapq.heappush(waiting, (time.monotonic() + delay_s, next(order), turned))
        while waiting and waiting[0][0] <= time.monotonic():
            os.write(device, heapq.heappop(waiting)[2])


if __name__ == "__main__":
    _turn_round(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
