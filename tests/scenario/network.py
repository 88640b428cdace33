"""A network of a test's own, in which a process can be cut off without a word, as by a dead router, or be far away."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from scenario.bed import require

_CLONE_NEWNET = 0x40000000
"""From <linux/sched.h>."""


@contextlib.contextmanager
def own_network() -> Generator[None]:
    """While the block runs, what this thread starts or opens lives in a network with nothing but a loopback.

    Skips by name where that is not allowed: it takes root. In CI that is a failure.
    """
    require("ip")
    require("nft")
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        if libc.unshare(_CLONE_NEWNET) != 0:
            _not_allowed(os.strerror(ctypes.get_errno()))
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            if libc.setns(home.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "this thread cannot go back to its network")


def _not_allowed(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"a network of one's own: {reason}, and CI must not skip")
    pytest.skip(f"a network of one's own takes root: {reason}")


@contextlib.contextmanager
def black_holed(victim: psutil.Process, unreachable: tuple[int, ...]) -> Generator[None]:
    """While the block runs, no packet of the victim's connections or listeners arrives, in either direction.

    `unreachable`: ports that nobody can newly connect to meanwhile, so that the victim finds no way around. Only within
    `own_network`.
    """
    ours = {connection.laddr[:2] for connection in victim.net_connections("tcp4") if connection.laddr}
    assert ours, "the victim has no connection"
    drops = [
        *(f"ip {side}addr {host} tcp {side}port {port} drop" for host, port in sorted(ours) for side in ("s", "d")),
        *(f"tcp dport {port} tcp flags & (syn | ack) == syn drop" for port in unreachable),
    ]
    # On input: what is dropped on its way out is an error that the sender sees.
    chain = "type filter hook input priority 0; policy accept;"
    _nft("table inet blackhole {", "chain lost {", chain, *drops, "}", "}")
    try:
        yield
    finally:
        _nft("delete table inet blackhole")


def _nft(*lines: str) -> None:
    done = subprocess.run(
        ["nft", "-f", "-"], input="\n".join((*lines, "")), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


HERE, THERE = "10.9.0.1", "10.9.0.2"
"""The two ends of `far_address`."""


@contextlib.contextmanager
def far_address(round_trip_s: float) -> Generator[None]:
    """While the block runs, whoever listens at `HERE` is reached at `THERE` too, over a path that takes so long.

    A TUN device turns each packet round, source for destination, after half that time. Both ends are this machine, and
    the checksums stay what they were. Only within `own_network`.
    """
    request = struct.pack("16sH", b"far0", _IFF_TUN | _IFF_NO_PI)
    try:
        device = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(device, _TUNSETIFF, request)
    except OSError as error:
        _not_allowed(str(error))
        raise
    subprocess.run(["ip", "address", "add", HERE, "peer", THERE, "dev", "far0"], check=True)
    subprocess.run(["ip", "link", "set", "far0", "up"], check=True)
    stop, stopped = os.pipe()
    path = threading.Thread(target=_turn_round, args=(device, stop, round_trip_s / 2), daemon=True)
    path.start()
    try:
        yield
    finally:
        os.close(stopped)
        path.join(5)
        os.close(stop)
        os.close(device)


_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
"""From <linux/if_tun.h>."""


def _turn_round(device: int, stop: int, delay_s: float) -> None:
    waiting: deque[tuple[float, bytes]] = deque()
    while True:
        pause_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([device, stop], [], [], pause_s)
        if stop in readable:
            return
        if device in readable:
            packet = os.read(device, 65536)
            if packet[0] >> 4 == 4:
                turned = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
                waiting.append((time.monotonic() + delay_s, turned))
        while waiting and waiting[0][0] <= time.monotonic():
            os.write(device, waiting.popleft()[1])
