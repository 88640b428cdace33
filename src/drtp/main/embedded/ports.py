"""The ports of one embedded instance: chosen once, kept in the data directory, the same at each start."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import msgspec

from drtp.kit.errors import Terminal
from drtp.kit.files import write_atomic

PREFERRED: dict[str, int] = {
    "http": 7080,
    "https": 7443,
    "api": 7444,
    "edge": 7445,
    "pop-1": 7446,
    "pop-2": 7447,
    "pop-1-health": 7448,
    "pop-2-health": 7449,
    "hello": 7450,
}
"""Tried first for whatever is not asked for; taken ones are replaced by a free port."""

_FIRST, _LAST = 2000, 9999
"""Free ports are looked for here: below the vended pool (10000-32767) and the kernel's ephemeral range, from which an
outgoing connection could take a port between two starts."""


class Claims:
    """Ports that are chosen and not in use yet, so that instances which start together do not choose the same ones.

    A claim is the name of an abstract socket: it ends with its process, and each network namespace has its own. Where
    the system has no such names (only Linux has) every claim is granted.
    """

    def __init__(self) -> None:
        self._names: dict[int, socket.socket] = {}

    def take(self, port: int) -> bool:
        """Claim it until the end of the block; false if somebody else has."""
        if port in self._names or sys.platform != "linux":
            return True
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0drtp/port/{port}")
        except OSError as fault:
            name.close()
            if fault.errno == errno.EADDRINUSE:
                return False
            raise
        self._names[port] = name
        return True

    def release(self, port: int) -> None:
        """It is not needed after all."""
        if port in self._names:
            self._names.pop(port).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for port in list(self._names):
            self.release(port)


def settle(
    path: Path, asked: Mapping[str, int | None], claims: Claims, hosts: tuple[str, ...] = ("127.0.0.1",)
) -> dict[str, int]:
    """Give every port of `PREFERRED`, and persist the choice before anybody uses it.

    `asked`: None keeps the earlier choice (or prefers the usual one), 0 keeps the earlier choice or picks a free one,
    another number is binding. Free means that nobody else has claimed it, or listens there on any of `hosts`.
    Raises: Terminal (DRTP-7007) if a binding or persisted port is taken.
    """
    earlier = msgspec.json.decode(path.read_bytes(), type=dict[str, int]) if path.exists() else {}
    chosen: dict[str, int] = {}
    free = _free_ports(hosts, {*earlier.values(), *(port for port in asked.values() if port)}, claims)
    for name, preferred in PREFERRED.items():
        wanted = asked.get(name)
        binding = wanted or earlier.get(name)
        if binding:
            _require(hosts, binding, name, claims)
            chosen[name] = binding
        elif wanted is None and preferred not in chosen.values() and _can_have(hosts, preferred, claims):
            chosen[name] = preferred
        else:
            chosen[name] = next(free)
    if chosen != earlier:
        write_atomic(path, msgspec.json.encode(chosen))
    return chosen


def is_free(host: str, port: int) -> bool:
    """Whether a listener could be bound now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: ports in TIME_WAIT are free, listening ones are not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as fault:
            if fault.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _can_have(hosts: tuple[str, ...], port: int, claims: Claims) -> bool:
    """Claimed first: a look at a port is a listener for a moment, and would be in the way of whose it is."""
    if not claims.take(port):
        return False
    if all(is_free(host, port) for host in hosts):
        return True
    claims.release(port)
    return False


def _require(hosts: tuple[str, ...], port: int, name: str, claims: Claims) -> None:
    if not _can_have(hosts, port, claims):
        raise Terminal("DRTP-7007", f"Port {port} on {hosts[0]}, which {name} needs, is used by another program.")


def _free_ports(hosts: tuple[str, ...], avoid: set[int], claims: Claims) -> Iterator[int]:
    span = _LAST - _FIRST + 1
    start = os.getpid() * len(PREFERRED) * 7 % span
    for step in range(span):
        port = _FIRST + (start + step) % span
        if port not in avoid and port not in PREFERRED.values() and _can_have(hosts, port, claims):
            yield port
    raise Terminal("DRTP-7007", f"No port between {_FIRST} and {_LAST} is free on {hosts[0]}.")
