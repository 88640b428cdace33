"""The running supervisor's own door: a Unix socket that only its user may open. Standard library only.

One line of JSON comes in, `{"restart": [PART, …]}`; lines of JSON go out, one for each part as soon as it serves again,
and `{"event": "done"}` or `{"event": "failed", "code", "message", "remedy"}` at the end. One request at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from drtp.kit.errors import DrtpError, Terminal
from drtp.kit.observe import logger
from drtp.main.embedded.restarts import Restarts

log = logger("up")

_REQUEST_BYTES_MAX = 4096
_REQUEST_WITHIN_S = 5.0


class _Request(msgspec.Struct):
    restart: tuple[str, ...]


async def answer_operator(path: Path, restarts: Restarts) -> None:
    """Serve until cancelled. A socket left by a killed supervisor is replaced: whoever calls holds the lock."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(16)
        listener.setblocking(False)
        try:
            while True:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                with connection:
                    await _serve(connection, restarts)
        finally:
            path.unlink(missing_ok=True)


async def _serve(connection: socket.socket, restarts: Restarts) -> None:
    try:
        request = await _read(connection)
        async for done in restarts.run(request.restart):
            await _say(connection, done.event())
        await _say(connection, {"event": "done"})
    except DrtpError as fault:
        log.warning("restart failed", code=fault.code, reason=fault.what)
        await _say(connection, {"event": "failed", "code": fault.code, "message": fault.what, "remedy": fault.remedy})
    except (OSError, TimeoutError, msgspec.MsgspecError) as fault:
        log.warning("operator not understood", reason=str(fault))


async def _read(connection: socket.socket) -> _Request:
    loop, line = asyncio.get_running_loop(), b""
    async with asyncio.timeout(_REQUEST_WITHIN_S):
        while not line.endswith(b"\n") and len(line) < _REQUEST_BYTES_MAX:
            more = await loop.sock_recv(connection, _REQUEST_BYTES_MAX)
            if not more:
                break
            line += more
    return msgspec.json.decode(line, type=_Request)


async def _say(connection: socket.socket, event: dict[str, Any]) -> None:
    """Who has hung up hears nothing; what was asked for is done all the same."""
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(connection, msgspec.json.encode(event) + b"\n")


def ask_supervisor(path: Path, parts: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The operator's side: events as they come, without the last one.

    Raises: Terminal DRTP-7041 if nobody answers, or as the supervisor says.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
        except OSError as fault:
            raise Terminal("DRTP-7041", f"No `drtp up` answers at {path} ({fault.strerror or fault}).") from fault
        connection.sendall(msgspec.json.encode({"restart": parts}) + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                event = msgspec.json.decode(line, type=dict[str, Any])
                if event["event"] == "done":
                    return
                if event["event"] == "failed":
                    raise Terminal(str(event["code"]), str(event["message"]), str(event["remedy"]))
                yield event
    raise Terminal("DRTP-7041", "The supervisor stopped before everything was restarted.")
