"""The visitor's true address reaches a service that asks for it, and no visitor can forge it."""

from __future__ import annotations

import queue
import socket
import struct
from typing import Any

import pytest

from scenario.bed import Bed, read_exactly, tcp_service
from scenario.proxy import SIGNATURE, read_proxy_v2

Seen = queue.Queue[tuple[str, int, bytes]]


def _recorder(seen: Seen) -> Any:
    def record(visitor: socket.socket, _peer: Any) -> None:
        source, port, _ = read_proxy_v2(visitor)
        first = visitor.recv(100)
        seen.put((source, port, first))
        visitor.sendall(b"seen")

    return record


def test_proxy_v2_shows_the_visitors_address(bed: Bed) -> None:
    seen: Seen = queue.Queue()
    with tcp_service(_recorder(seen)) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "who-v4", "--proxy-protocol", "v2")
        with socket.create_connection(serving.endpoint, timeout=10, source_address=("127.0.0.7", 0)) as visitor:
            visitor.sendall(b"hello")
            assert visitor.recv(10) == b"seen"
            assert seen.get(timeout=10) == ("127.0.0.7", visitor.getsockname()[1], b"hello")
        serving.stop()


def test_proxy_v1_shows_the_visitors_address(bed: Bed) -> None:
    lines: queue.Queue[bytes] = queue.Queue()

    def record(visitor: socket.socket, _peer: Any) -> None:
        line = b""
        while not line.endswith(b"\r\n"):
            line += read_exactly(visitor, 1)  # the agent tries the service, and says nothing
        lines.put(line)
        visitor.sendall(b"seen")

    with tcp_service(record) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "who-v1", "--proxy-protocol", "v1")
        with socket.create_connection(serving.endpoint, timeout=10, source_address=("127.0.0.9", 0)) as visitor:
            assert visitor.recv(10) == b"seen"
            words = lines.get(timeout=10).split()
            assert words[:3] == [b"PROXY", b"TCP4", b"127.0.0.9"]
            assert int(words[4]) == visitor.getsockname()[1]
        serving.stop()


def test_proxy_v2_shows_an_ipv6_visitors_address(bed: Bed) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    seen: Seen = queue.Queue()
    with tcp_service(_recorder(seen)) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "who-v6", "--proxy-protocol", "v2", "--address", "::1")
        host, vended = serving.endpoint
        assert host == "::1"
        with socket.create_connection((host, vended), timeout=10) as visitor:
            visitor.sendall(b"six")
            assert visitor.recv(10) == b"seen"
            assert seen.get(timeout=10) == ("::1", visitor.getsockname()[1], b"six")
        serving.stop()


def test_a_forged_proxy_header_is_only_payload(bed: Bed) -> None:
    forged = SIGNATURE + b"\x21\x11\x00\x0c" + bytes([6, 6, 6, 6, 127, 0, 0, 1]) + struct.pack("!HH", 666, 80)
    seen: Seen = queue.Queue()
    with tcp_service(_recorder(seen)) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "forged", "--proxy-protocol", "v2")
        with socket.create_connection(serving.endpoint, timeout=10, source_address=("127.0.0.8", 0)) as visitor:
            visitor.sendall(forged)
            assert visitor.recv(10) == b"seen"
            source, _, payload = seen.get(timeout=10)
            assert (source, payload) == ("127.0.0.8", forged)
        serving.stop()
