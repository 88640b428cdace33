"""The ports of one embedded instance: chosen once, kept in the data directory, the same at each start."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

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


def settle(path: Path, asked: Mapping[str, int | None], hosts: tuple[str, ...] = ("127.0.0.1",)) -> dict[str, int]:
    """Give every port of `PREFERRED`, and persist the choice before anybody uses it.

    `asked`: None keeps the earlier choice (or prefers the usual one), 0 keeps the earlier choice or picks a free one,
    another number is binding. Free means free on each of `hosts`.
    Raises: Terminal (DRTP-7007) if a binding or persisted port is taken.
    """
    earlier = msgspec.json.decode(path.read_bytes(), type=dict[str, int]) if path.exists() else {}
    chosen: dict[str, int] = {}
    free = _free_ports(hosts, {*earlier.values(), *(port for port in asked.values() if port)})
    for name, preferred in PREFERRED.items():
        wanted = asked.get(name)
        binding = wanted or earlier.get(name)
        if binding:
            _require(hosts, binding, name)
            chosen[name] = binding
        elif wanted is None and preferred not in chosen.values() and all(is_free(host, preferred) for host in hosts):
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


def _require(hosts: tuple[str, ...], port: int, name: str) -> None:
    for host in hosts:
        if not is_free(host, port):
            raise Terminal("DRTP-7007", f"Port {port} on {host}, which {name} needs, is used by another program.")


def _free_ports(hosts: tuple[str, ...], avoid: set[int]) -> Iterator[int]:
    # Instances that start at the same moment begin at different places, so that they do not pick the same port.
    span = _LAST - _FIRST + 1
    start = os.getpid() * len(PREFERRED) * 7 % span
    for step in range(span):
        port = _FIRST + (start + step) % span
        if port not in avoid and port not in PREFERRED.values() and all(is_free(host, port) for host in hosts):
            yield port
    raise Terminal("DRTP-7007", f"No port between {_FIRST} and {_LAST} is free on {hosts[0]}.")
