"""A database in MaxMind's format, as small as a test needs: networks, and the country that each is in.

`python tests/mmdb.py` writes `tests/vectors/countries.mmdb`, which the core's tests read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COUNTRIES = {"203.0.113.0/24": "DE", "198.51.100.0/25": "FR", "2001:db8::/32": "DE", "127.0.0.0/8": "DE"}
FILE = Path(__file__).parent / "vectors" / "countries.mmdb"

_Node = list[Any]


def database(countries: Mapping[str, str]) -> bytes:
    """The file's bytes: an IPv6 tree with IPv4 below ::/96, records of 24 bits, the data, and the metadata."""
    root: _Node = [None, None]
    for written, code in countries.items():
        network = ipaddress.ip_network(written)
        above = 96 if network.version == 4 else 0
        number, length = int(network.network_address), network.prefixlen + above
        node = root
        for depth in range(length - 1):
            bit = number >> (127 - depth) & 1
            node[bit] = node[bit] or [None, None]
            node = node[bit]
        node[number >> (128 - length) & 1] = code
    nodes = _listed(root)
    data, places = b"", dict[str, int]()
    for code in sorted(set(countries.values())):
        places[code] = len(data)
        data += _encoded({"country": {"iso_code": code}})
    tree = b"".join(_record(side, nodes, places).to_bytes(3, "big") for node in nodes for side in node)
    about = {
        "binary_format_major_version": ("u16", 2),
        "binary_format_minor_version": ("u16", 0),
        "build_epoch": ("u64", 1_700_000_000),
        "database_type": "Test-Country",
        "description": {"en": "for tests"},
        "ip_version": ("u16", 6),
        "languages": ["en"],
        "node_count": ("u32", len(nodes)),
        "record_size": ("u16", 24),
    }
    return tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + _encoded(about)


def _listed(root: _Node) -> list[_Node]:
    found: list[_Node] = [root]
    for node in found:
        found.extend(side for side in node if isinstance(side, list))
    return found


def _record(side: Any, nodes: list[_Node], places: Mapping[str, int]) -> int:
    if side is None:
        return len(nodes)
    if isinstance(side, str):
        return len(nodes) + 16 + places[side]
    return next(index for index, node in enumerate(nodes) if node is side)


_UNSIGNED = {"u16": 5, "u32": 6, "u64": 9}


def _encoded(value: Any) -> bytes:
    match value:
        case str():
            return _control(2, len(value)) + value.encode()
        case dict():
            return _control(7, len(value)) + b"".join(_encoded(key) + _encoded(one) for key, one in value.items())
        case list():
            return _control(11, len(value)) + b"".join(map(_encoded, value))
        case (kind, number):
            raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
            return _control(_UNSIGNED[kind], len(raw)) + raw
        case _:
            raise TypeError(value)


def _control(kind: int, size: int) -> bytes:
    assert size < 285
    small, more = (size, b"") if size < 29 else (29, bytes([size - 29]))
    return bytes([kind << 5 | small]) + more if kind < 8 else bytes([small, kind - 7]) + more


if __name__ == "__main__":
    FILE.write_bytes(database(COUNTRIES))
