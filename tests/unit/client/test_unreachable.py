"""Why a place cannot be connected to, as aiohttp really fails."""

from __future__ import annotations

import socket

import aiohttp
import pytest

from drtp.client.unreachable import reason_of


async def test_a_closed_port_and_an_unknown_name_are_told_in_plain_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else answers there meanwhile
        port = taken.getsockname()[1]
        async with aiohttp.ClientSession() as web:
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                await web.get(f"https://127.0.0.1:{port}")
            with pytest.raises(aiohttp.ClientConnectorError) as unknown:
                await web.get("https://nowhere.invalid:1")
    assert reason_of(refused.value) == f"127.0.0.1:{port}: Connection refused"
    told = reason_of(unknown.value)
    assert told.startswith("nowhere.invalid:1: ")
    assert "ssl" not in told and "[" not in told
