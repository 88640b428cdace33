"""Where `connect` presents services: from the command line's words, or a file's, to places."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drtp.main.shell import Misused

UDP = "udp://"
"""Says that a port takes datagrams; without it the service's protocol does."""


@dataclass(frozen=True)
class Place:
    """Where a service is to be presented; `namespace` None: the context's project. `datagrams`: at a UDP port."""

    namespace: str | None
    name: str
    address: str = "127.0.0.1"
    port: int = 0
    path: Path | None = None
    allow: tuple[str, ...] = ()
    datagrams: bool = False


def place_of(service: str, local: str | None, unix: Path | None, allow: Sequence[str]) -> Place:
    """`[NAMESPACE/]SERVICE[=PORT]` at `[udp://][ADDR:]PORT`, or at a Unix path. Raises: Misused."""
    if local is not None and unix:
        raise Misused("DRTP-7002", "--local and --unix exclude each other.")
    nets = tuple(_network(text) for text in allow)
    datagrams = local is not None and local.startswith(UDP)
    local = local and local.removeprefix(UDP)
    address, port = address_of(local, "--local") if local is not None else ("127.0.0.1", 0)
    _check_reach(address, nets)
    whole, _, own = service.partition("=")
    namespace, _, name = whole.rpartition("/")
    if not name or "/" in namespace or (own and not own.isdecimal()) or int(own or 0) > 65535:
        raise Misused("DRTP-7002", f"{service} is not [NAMESPACE/]SERVICE[=PORT].", "Such as joe/postgres=5432.")
    if own and port:
        raise Misused("DRTP-7002", f"{service} and --local {local} both say a port.", "Leave one of them out.")
    return Place(namespace or None, name, address, int(own) if own else port, unix, nets, datagrams)


def check_apart(places: Sequence[Place]) -> None:
    """Raises: Misused where two services have one port."""
    taken = [(place.address, place.port, place.datagrams) for place in places if place.port]
    if len(taken) != len(set(taken)):
        raise Misused("DRTP-7002", "Two services were given one port.")


def address_of(written: str, option: str) -> tuple[str, int]:
    """`[ADDR:]PORT`. Raises: Misused."""
    host, _, port = written.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise Misused("DRTP-7002", f"{option} {written} is not [address:]port.", "Such as 5432 or 127.0.0.1:5432.")
    return host.strip("[]") or "127.0.0.1", int(port)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as fault:
        raise Misused("DRTP-7002", f"--allow-remote {text} is no network: {fault}.", "Such as 10.1.0.0/16.") from None


def _check_reach(address: str, allow: tuple[str, ...]) -> None:
    """A place that others can reach is asked for by address and by who may use it, never by the way."""
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise Misused("DRTP-7002", f"--local {address} is no address.", "Such as 127.0.0.1:5432.") from None
    if not loopback and not allow:
        raise Misused("DRTP-4068", f"{address} can be reached by other machines.")
    if loopback and allow:
        raise Misused("DRTP-7002", "--allow-remote is for an address that others can reach.", "Name it with --local.")
