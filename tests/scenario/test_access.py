"""`edgeAllowlist` holds at accept, and a change cuts what is no longer allowed."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import time
from typing import Any

import pytest

from scenario.bed import Bed, eventually, tcp_service
from scenario.proxy import read_proxy_v2


def test_denied_visitor_reaches_neither_the_service_nor_its_banner(bed: Bed) -> None:
    visited: queue.Queue[Any] = queue.Queue()

    def banner(visitor: socket.socket, _peer: Any) -> None:
        # The agent's own probe of the service brings no PROXY header; every visitor does.
        visited.put(read_proxy_v2(visitor)[0])
        visitor.sendall(b"SSH-2.0-banner\r\n")
        visitor.recv(10)

    with tcp_service(banner) as port:
        serving = bed.serve(
            f"tcp://localhost:{port}", "--name", "banner", "--allow", "127.0.0.2/32", "--proxy-protocol", "v2"
        )
        with socket.create_connection(serving.endpoint, timeout=10, source_address=("127.0.0.2", 0)) as allowed:
            assert allowed.recv(100) == b"SSH-2.0-banner\r\n"
        assert visited.get(timeout=5) == "127.0.0.2"
        # The denied one says nothing, as a scanner waiting for a banner does.
        with (
            socket.create_connection(serving.endpoint, timeout=10, source_address=("127.0.0.3", 0)) as denied,
            contextlib.suppress(ConnectionResetError),
        ):
            assert denied.recv(100) == b""
        assert visited.empty()
        serving.stop()


def test_removing_a_cidr_cuts_a_live_connection_within_a_second(bed: Bed) -> None:
    def talk(visitor: socket.socket, _peer: Any) -> None:
        visitor.sendall(b"connected")
        while visitor.recv(100):
            pass

    with tcp_service(talk) as port:
        serving = bed.serve(
            f"tcp://localhost:{port}", "--name", "revoked", "--allow", "127.0.0.2/32", "--allow", "127.0.0.4/32"
        )
        kept = socket.create_connection(serving.endpoint, timeout=10, source_address=("127.0.0.2", 0))
        cut = socket.create_connection(serving.endpoint, timeout=10, source_address=("127.0.0.4", 0))
        assert kept.recv(100) == cut.recv(100) == b"connected"
        patch = json.dumps({"spec": {"edgeAllowlist": ["127.0.0.2/32"]}})
        bed.kubectl("patch", "drtpservice", serving.service, "-n", serving.namespace, "--type=merge", "-p", patch)
        begin = time.monotonic()
        cut.settimeout(5)
        with pytest.raises(ConnectionResetError):
            assert cut.recv(100) != b""
        assert time.monotonic() - begin <= 1.0
        kept.setblocking(False)
        with pytest.raises(BlockingIOError):
            kept.recv(1)
        kept.close()
        cut.close()

        def refused() -> bool:
            with socket.create_connection(serving.endpoint, timeout=5, source_address=("127.0.0.4", 0)) as again:
                try:
                    return again.recv(100) == b""
                except ConnectionResetError:
                    return True

        assert eventually(refused, 5)
        serving.stop()


def test_http_visitors_outside_the_list_are_refused(bed: Bed) -> None:
    visited: queue.Queue[Any] = queue.Queue()

    def answer(visitor: socket.socket, peer: Any) -> None:
        # The agent's own probe of the service says nothing.
        if not visitor.recv(65536):
            return
        visited.put(peer)
        visitor.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with tcp_service(answer) as port:
        serving = bed.serve(f"localhost:{port}", "--name", "private-web", "--allow", "127.0.0.2/32")
        denied = bed.curl(serving.address, "--write-out", " %{http_code}")
        assert denied.stdout.endswith(b" 403"), denied
        assert visited.empty()
        host, http = bed.http
        with socket.create_connection((host, http), timeout=10, source_address=("127.0.0.2", 0)) as allowed:
            allowed.sendall(f"GET / HTTP/1.1\r\nHost: {serving.host}\r\nX-Forwarded-For: 127.0.0.3\r\n\r\n".encode())
            assert allowed.recv(65536).startswith(b"HTTP/1.1 200")
        with socket.create_connection((host, http), timeout=10, source_address=("127.0.0.3", 0)) as liar:
            liar.sendall(f"GET / HTTP/1.1\r\nHost: {serving.host}\r\nX-Forwarded-For: 127.0.0.2\r\n\r\n".encode())
            assert liar.recv(65536).startswith(b"HTTP/1.1 403")
        serving.stop()
