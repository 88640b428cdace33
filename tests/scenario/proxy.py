"""A reader of PROXY protocol v2 as a service would write it, from the specification."""

from __future__ import annotations

import ipaddress
import socket
import struct

from scenario.bed import read_exactly

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def read_proxy_v2(visitor: socket.socket) -> tuple[str, int, dict[int, bytes]]:
    """The header's source address, port and TLVs, read as the specification has it."""
    head = read_exactly(visitor, 16)
    assert head[:12] == SIGNATURE, head
    assert head[12] == 0x21, head
    body = read_exactly(visitor, struct.unpack("!H", head[14:16])[0])
    width = {0x11: 4, 0x21: 16}[head[13]]
    source = str(ipaddress.ip_address(body[:width]))
    port = struct.unpack("!H", body[2 * width : 2 * width + 2])[0]
    rest, tlvs = body[2 * width + 4 :], {}
    while rest:
        kind, size = rest[0], struct.unpack("!H", rest[1:3])[0]
        tlvs[kind] = rest[3 : 3 + size]
        rest = rest[3 + size :]
    return source, port, tlvs


def header(visitor: str, service: str = "", gateway: str = "") -> bytes:
    """PROXY v2, as the gateway writes it."""
    addresses = ipaddress.ip_address(visitor).packed + ipaddress.ip_address("192.0.2.1").packed
    body = addresses + struct.pack("!HH", 4711, 80)
    for kind, value in ((0xE1, service), (0xE2, gateway)):
        if value:
            body += struct.pack("!BH", kind, len(value)) + value.encode()
    return SIGNATURE + struct.pack("!BBH", 0x21, 0x11, len(body)) + body
