"""From starting `datumctl serve` to the address on stdout and the first 200 by a visitor at that address.

Fresh state (a new name and state directory each time) and reused state alternate, so that both meet the same machine.
"""

from __future__ import annotations

import http.server
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from bench.figures import table
from scenario.bed import BIN, Bed


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer with a short page."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the table clean."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """The agent's probe and its end are no errors here."""


def _first_200(gateway: tuple[str, int], address: str, deadline: float) -> None:
    """Ask as a visitor does until the page is there; what it answers before is counted into the time."""
    host = address.split("//", 1)[1].rstrip("/")
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    while time.monotonic() < deadline:
        with socket.create_connection(gateway, timeout=5) as visitor:
            visitor.sendall(request)
            if visitor.recv(4096).startswith(b"HTTP/1.1 200"):
                return
    raise TimeoutError(f"no page at {address}")


def _once(bed: Bed, target: str, name: str, state: Path) -> tuple[float, float, float]:
    """(seconds to the address, seconds to the first 200, CPU seconds of the command)."""
    begin = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    argv = [str(BIN / "datumctl"), "--context", bed.ready["context"], "serve", target, "--name", name]
    process = subprocess.Popen(
        [*argv, "--state-dir", str(state)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=bed.env
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    told = time.monotonic() - begin
    if not address:
        raise RuntimeError(f"datumctl serve ended with {process.wait()}")
    _first_200(bed.http, address, begin + 30)
    served = time.monotonic() - begin
    process.send_signal(signal.SIGINT)
    process.wait(30)
    process.stdout.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return told, served, cpu


def run(bed: Bed, count: int) -> str:
    """Half of `count` rounds fresh, half reused, alternating A B B A."""
    server = _Server(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    target = f"localhost:{server.server_port}"
    kept = bed.directory / "kept"
    _once(bed, target, "bench-kept", kept)
    rows: dict[str, list[float]] = {
        f"{state} state: {what}": []
        for state in ("fresh", "reused")
        for what in ("address", "first 200", "CPU of the command")
    }
    try:
        for number in range(count):
            fresh = number % 4 in (0, 3)
            name, state = (f"bench-{number}", bed.directory / f"state-{number}") if fresh else ("bench-kept", kept)
            figures = _once(bed, target, name, state)
            for what, seconds in zip(("address", "first 200", "CPU of the command"), figures, strict=True):
                rows[f"{'fresh' if fresh else 'reused'} state: {what}"].append(seconds)
    finally:
        server.shutdown()
        server.server_close()
    return table(f"datumctl serve to the first page ({os.cpu_count()} cores)", rows, "seconds")
