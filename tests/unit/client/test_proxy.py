"""Through a corporate proxy: enrolment and feed go by HTTP CONNECT, as the environment says (R11, cloudflared#350)."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from drtp.api.feed import EdgeRole
from drtp.client.feed import FeedPhase
from unit.edgeserver.edgebed import edge_bed, until


class Proxy:
    """A CONNECT proxy that counts, and may refuse."""

    def __init__(self) -> None:
        self.tunnels = 0
        self.refuses = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        assert method == "CONNECT", "bytes would go in the clear"
        if self.refuses:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()
            return
        self.tunnels += 1
        host, _, port = target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    finally:
        sink.close()


@contextlib.asynccontextmanager
async def proxied(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Proxy]:
    proxy = Proxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield proxy
    server.close()


async def test_enrolment_and_feed_go_through_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with proxied(monkeypatch) as proxy, edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        before = proxy.tunnels
        assert before > 0
        async with bed.running(bed.feed("agent")) as feed:
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            bed.snapshots.publish(EdgeRole.AGENT, identity.uid, {})
            await until(lambda: feed.snapshot.value)
        assert proxy.tunnels > before


async def test_refusing_proxy_is_named_as_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with edge_bed(tmp_path) as bed:
        await bed.enrolled("agent")
        async with proxied(monkeypatch) as proxy:
            proxy.refuses = True
            async with bed.running(bed.feed("agent")) as feed:
                await until(lambda: feed.state.value.code == "DRTP-3009")
