"""A load balancer in front of a whole DRTP: `drtp up --proxy-protocol-from`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from scenario.bed import Bed, read_all


def _ask(bed: Bed, name: str, head: bytes, source: str) -> bytes:
    """The answer's first line to a GET that this comes before; b"" if nobody answers."""
    request = f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(bed.http, timeout=10, source_address=(source, 0)) as visitor,
    ):
        visitor.sendall(head + request)
        return read_all(visitor)
    return b""


def test_the_page_shows_the_visitor_that_the_balancer_names_and_nobody_else_is_let_in(
    new_bed: Callable[..., Bed],
) -> None:
    bed = new_bed("--proxy-protocol-from", "127.0.0.1/32")
    name = bed.ready["hello"].split("//")[1].strip("/")
    header = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"
    page = _ask(bed, name, header, "127.0.0.1")
    assert page.startswith(b"HTTP/1.1 200")
    assert b"203.0.113.7" in page
    assert _ask(bed, name, header, "127.0.0.2") == b""
