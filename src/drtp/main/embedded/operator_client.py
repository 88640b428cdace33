"""The operator's side of the control plane's socket. Standard library only: `drtp up` starts with it."""

from __future__ import annotations

import asyncio
import http.client
import socket
from pathlib import Path
from typing import Any

import msgspec

from drtp.kit.codes import CODES
from drtp.kit.errors import DrtpError, Retryable, Terminal

_TIMEOUT_S = 10.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Over the socket file instead of TCP."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class OperatorClient:
    """Calls over a socket that only this user may open."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def call(self, method: str, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request. Raises: Retryable (DRTP-7011) if nobody listens, Terminal with the answer's own words."""
        return await asyncio.to_thread(self._call, method, target, body)

    def _call(self, method: str, target: str, body: dict[str, Any] | None) -> dict[str, Any]:
        connection = _UnixConnection(self.path)
        try:
            content = None if body is None else msgspec.json.encode(body)
            connection.request(method, target, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            raw = answer.read()
        except OSError as fault:
            raise Retryable("DRTP-7011", f"Nobody answers at {self.path} ({fault}).") from fault
        finally:
            connection.close()
        decoded = msgspec.json.decode(raw, type=dict[str, Any]) if raw else {}
        if answer.status >= 400:
            raise _refused(answer.status, decoded)
        return decoded


def _refused(status: int, answer: dict[str, Any]) -> DrtpError:
    """The control plane's own sentence, under its code if this version knows it."""
    code = str(answer.get("code"))
    what = str(answer.get("message") or f"The control plane answered {status}.")
    kind = Retryable if status == 503 else Terminal
    return kind(code if code in CODES else "DRTP-7011", what, str(answer.get("remedy") or ""))
