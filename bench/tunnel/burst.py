"""Visitors who all come at once, each with a word of its own that must come back."""

from __future__ import annotations

import os
import selectors
import socket
import time

from bench.tunnel.load import Address

WORD_BYTES = 16
PAUSE_S = 0.3
"""Between two bursts: what the one before left behind is over."""
DEADLINE_S = 10.0


def bursts(at: Address, visitors: int, seconds: float) -> list[float]:
    """Bursts for so long, at least one: of each visitor, seconds from dialling to the first byte of its answer.

    Raises: RuntimeError for an answer that is wrong or does not come.
    """
    times: list[float] = []
    end = time.monotonic() + seconds
    while not times or time.monotonic() < end:
        times += _burst(at, visitors)
        time.sleep(PAUSE_S)
    return times


def _burst(at: Address, visitors: int) -> list[float]:
    times: list[float] = []
    waiting: dict[int, tuple[socket.socket, float, bytes, bytearray]] = {}
    with selectors.DefaultSelector() as selector:
        for _ in range(visitors):
            visitor = socket.socket()
            visitor.setblocking(False)
            visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting[visitor.fileno()] = (visitor, time.perf_counter(), os.urandom(WORD_BYTES), bytearray())
            visitor.connect_ex(at)
            selector.register(visitor, selectors.EVENT_WRITE)
        end = time.monotonic() + DEADLINE_S
        while waiting:
            ready = selector.select(end - time.monotonic())
            now = time.perf_counter()
            if not ready:
                raise RuntimeError(f"{len(waiting)} of {visitors} visitors got no answer in {DEADLINE_S:.0f} s")
            for key, events in ready:
                visitor, began, word, answer = waiting[key.fd]
                if events & selectors.EVENT_WRITE:
                    visitor.send(b"e" + word)
                    selector.modify(visitor, selectors.EVENT_READ)
                    continue
                heard = visitor.recv(WORD_BYTES)
                if not answer and heard:
                    times.append(now - began)
                answer += heard
                if len(answer) < WORD_BYTES and heard:
                    continue
                selector.unregister(visitor)
                visitor.close()
                del waiting[key.fd]
                if bytes(answer) != word:
                    raise RuntimeError(f"an answer was {bytes(answer)!r} and not {word!r}")
    return times
