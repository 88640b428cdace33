"""Which network this machine is on, as far as it can tell: so that a laptop remembers what works in each."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from pathlib import Path

_ROUTES, _NEIGHBOURS = Path("/proc/net/route"), Path("/proc/net/arp")
_DEFAULT = "00000000"
_ANYWHERE = ("192.0.2.1", 9)
"""No packet goes there: only the kernel is asked by which address it would go."""


def present_network() -> str:
    """The default gateway with its hardware address where the system tells (Linux), else our own address' network.

    Two networks with the same words are taken for one: then a wrong way is tried first, and another one after it.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        if gateway := default_gateway(_ROUTES.read_text()):
            return f"gateway {gateway} {_hardware_address(gateway)}".rstrip()
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_ANYWHERE)
        return f"network {ipaddress.ip_network(f'{probe.getsockname()[0]}/24', strict=False)}"
    return "none"


def default_gateway(routes: str) -> str | None:
    """The address of the default route in what Linux says of its routes; the one with the least metric."""
    rows = [line.split() for line in routes.splitlines()[1:]]
    defaults = [row for row in rows if len(row) > 7 and row[1] == _DEFAULT and row[7] == _DEFAULT]
    if not defaults:
        return None
    best = min(defaults, key=lambda row: int(row[6]))
    return str(ipaddress.IPv4Address(int(best[2], 16).to_bytes(4, "little")))


def _hardware_address(gateway: str) -> str:
    for line in _NEIGHBOURS.read_text().splitlines()[1:]:
        row = line.split()
        if row[0] == gateway:
            return row[3]
    return ""
