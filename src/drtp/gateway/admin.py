"""Envoy's admin interface over its Unix socket, as far as the host uses it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import msgspec

DEADLINE_S = 2.0


class _Options(msgspec.Struct):
    restart_epoch: int = 0


class _ServerInfo(msgspec.Struct):
    version: str
    state: str = ""
    command_line_options: _Options = msgspec.field(default_factory=_Options)


class Admin:
    """Short questions and commands, each with its own connection and deadline."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)

    async def ready(self) -> bool:
        """Envoy serves."""
        answer = await self._ask("GET", "/ready")
        return answer is not None and answer[0] == 200

    async def epoch(self) -> int | None:
        """Which Envoy answers, by its count of hot restarts; None if none does."""
        info = await self._info()
        return None if info is None else info.command_line_options.restart_epoch

    async def serves(self, epoch: int) -> bool:
        """The Envoy of this epoch has all it needs, has taken the listeners, and the one before it drains."""
        info = await self._info()
        return info is not None and info.state == "LIVE" and info.command_line_options.restart_epoch == epoch

    async def _info(self) -> _ServerInfo | None:
        answer = await self._ask("GET", "/server_info")
        if answer is None or answer[0] != 200:
            return None
        try:
            return msgspec.json.decode(answer[1], type=_ServerInfo)
        except msgspec.DecodeError:
            return None

    async def connections(self) -> int | None:
        """Visitors' connections now; None if Envoy does not say."""
        answer = await self._ask("GET", "/stats?filter=^listener\\.public\\.downstream_cx_active$")
        if answer is None or answer[0] != 200:
            return None
        _name, _, value = answer[1].strip().partition(": ")
        return int(value) if value.isdigit() else 0

    async def metrics(self) -> str:
        """Prometheus text; "" if Envoy does not answer."""
        answer = await self._ask("GET", "/stats/prometheus")
        return answer[1] if answer is not None and answer[0] == 200 else ""

    async def drain(self) -> None:
        """Stop accepting; tell HTTP visitors to go elsewhere."""
        await self._ask("POST", "/healthcheck/fail")
        await self._ask("POST", "/drain_listeners")

    async def quit(self) -> None:
        """Stop."""
        await self._ask("POST", "/quitquitquit")

    async def reopen_logs(self) -> bool:
        """Write on into a new file where the old one was renamed. Gives whether Envoy has done it."""
        answer = await self._ask("POST", "/reopen_logs")
        return answer is not None and answer[0] == 200

    async def _ask(self, method: str, path: str) -> tuple[int, str] | None:
        try:
            async with (
                asyncio.timeout(DEADLINE_S),
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._socket)) as session,
                session.request(method, f"http://envoy{path}") as response,
            ):
                return response.status, await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
