"""A network of a test's own, in which a process can be cut off without a word, as by a dead router."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
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
