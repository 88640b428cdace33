"""Half-close, resets and back-pressure go through the whole path exactly."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from typing import Any

import pytest

from scenario.bed import Bed, echo, read_all, read_exactly, tcp_service

RST = struct.pack("ii", 1, 0)


def reset(sock: socket.socket) -> None:
    """Close with a reset, as a crashed program does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    sock.close()


def test_visitor_may_end_its_half_and_read_on(bed: Bed) -> None:
    """cloudflared#97: each direction ends by itself."""

    def sum_up(visitor: socket.socket, _peer: Any) -> None:
        count = len(read_all(visitor))
        for _ in range(50):
            visitor.sendall(f"{count}\n".encode())
        visitor.shutdown(socket.SHUT_WR)

    with tcp_service(sum_up) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "half-visitor")
        with socket.create_connection(serving.endpoint, timeout=15) as visitor:
            visitor.sendall(b"x" * 3_000_000)
            visitor.shutdown(socket.SHUT_WR)
            assert read_all(visitor) == b"3000000\n" * 50
        serving.stop()


def test_service_may_end_its_half_and_read_on(bed: Bed) -> None:
    got: queue.Queue[int] = queue.Queue()

    def speak_first(visitor: socket.socket, _peer: Any) -> None:
        visitor.sendall(b"that is all")
        visitor.shutdown(socket.SHUT_WR)
        got.put(len(read_all(visitor)))

    with tcp_service(speak_first) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "half-service")
        with socket.create_connection(serving.endpoint, timeout=15) as visitor:
            assert read_all(visitor) == b"that is all"
            visitor.sendall(b"y" * 2_000_000)
            visitor.shutdown(socket.SHUT_WR)
            assert got.get(timeout=15) == 2_000_000
        serving.stop()


def test_visitors_reset_reaches_the_service_as_reset(bed: Bed) -> None:
    fate: queue.Queue[str] = queue.Queue()

    def wait_for_end(visitor: socket.socket, _peer: Any) -> None:
        if visitor.recv(13) != b"I am no probe":
            return
        visitor.sendall(b"hi")
        try:
            visitor.recv(10)
            fate.put("clean end")
        except ConnectionResetError:
            fate.put("reset")

    with tcp_service(wait_for_end) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "reset-visitor")
        visitor = socket.create_connection(serving.endpoint, timeout=15)
        visitor.sendall(b"I am no probe")
        assert visitor.recv(10) == b"hi"
        reset(visitor)
        assert fate.get(timeout=10) == "reset"
        serving.stop()


def test_services_reset_reaches_the_visitor_as_reset(bed: Bed) -> None:
    def crash(visitor: socket.socket, _peer: Any) -> None:
        visitor.sendall(b"hi")
        visitor.recv(10)
        reset(visitor)

    with tcp_service(crash) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "reset-service")
        with socket.create_connection(serving.endpoint, timeout=15) as visitor:
            assert visitor.recv(10) == b"hi"
            visitor.sendall(b"now")
            with pytest.raises(ConnectionResetError):
                visitor.recv(10)
        serving.stop()


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_a_reader_that_stops_does_not_hold_up_a_hundred_others(bed: Bed) -> None:
    """One visitor stops reading for 30 s in the middle of a download; a hundred others go on meanwhile."""
    size = 64 << 20
    poured: list[int] = []

    def pour_or_echo(visitor: socket.socket, peer: Any) -> None:
        if visitor.recv(1) == b"D":
            block = b"d" * 65536
            for _ in range(size // len(block)):
                visitor.sendall(block)
                poured.append(len(block))
            visitor.shutdown(socket.SHUT_WR)
            read_all(visitor)
        else:
            echo(visitor, peer)

    with tcp_service(pour_or_echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "stalled")
        with socket.create_connection(serving.endpoint, timeout=60) as stalled:
            stalled.sendall(b"D")
            assert len(read_exactly(stalled, 100_000)) == 100_000
            end = time.monotonic() + 30
            slowest: list[float] = []
            failed: list[BaseException] = []

            def one() -> None:
                worst = 0.0
                try:
                    with socket.create_connection(serving.endpoint, timeout=10) as visitor:
                        visitor.sendall(b"E")
                        while time.monotonic() < end:
                            begin = time.monotonic()
                            visitor.sendall(b"ping" * 16)
                            assert read_exactly(visitor, 64) == b"ping" * 16
                            worst = max(worst, time.monotonic() - begin)
                            time.sleep(0.1)
                except BaseException as error:  # reported by the test itself
                    failed.append(error)
                slowest.append(worst)

            threads = [threading.Thread(target=one) for _ in range(100)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(90)
            assert not failed, failed[:3]
            assert len(slowest) == 100
            assert max(slowest) < 2.0, max(slowest)
            assert sum(poured) < size, "the path held it all: nothing was held back"
            rest = 0
            while data := stalled.recv(1 << 20):
                rest += len(data)
            assert rest == size - 100_000
        serving.stop()


def test_forty_visitors_at_once_see_their_own_bytes(bed: Bed) -> None:
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "crowd")
        failed: list[object] = []

        def one(number: int) -> None:
            mine = f"visitor {number} ".encode() * 5000
            with contextlib.closing(socket.create_connection(serving.endpoint, timeout=15)) as visitor:
                sender = threading.Thread(target=lambda: (visitor.sendall(mine), visitor.shutdown(socket.SHUT_WR)))
                sender.start()
                got = read_all(visitor)
                sender.join()
                if got != mine:
                    failed.append((number, len(got)))

        threads = [threading.Thread(target=one, args=(n,)) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failed
        serving.stop()
