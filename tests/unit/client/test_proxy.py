"""Through a corporate proxy: enrolment and feed go by HTTP CONNECT, as the environment says (R11, cloudflared#350)."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from drtp.api.feed import EdgeRole
from drtp.client import dialling
from drtp.client import proxies as proxies_module
from drtp.client.dialling import consent, reach
from drtp.client.feed import FeedPhase
from drtp.client.proxies import parse_proxy
from drtp.kit.errors import DrtpError
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
    # The bed is on loopback, which variables leave alone.
    monkeypatch.setenv("DRTP_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
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
                await until(lambda: feed.state.value.code == "DRTP-4050")
                assert not feed.state.value.terminal, "visitors go on, and passwords are corrected"


@pytest.mark.parametrize(
    ("scheme", "answer", "code"),
    [
        ("http", b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\n\r\n", "DRTP-4050"),
        ("http", b"HTTP/1.1 403 Forbidden\r\n\r\n", "DRTP-4051"),
        ("http", b"HTTP/1.1 503 Unavailable\r\n\r\n", "DRTP-4053"),
        ("http", b"SSH-2.0-OpenSSH\r\n", "DRTP-4052"),
        ("http", b"HTTP/1.1 OK\r\n\r\n", "DRTP-4052"),
        ("http", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "DRTP-4052"),
        ("http", b"", "DRTP-4052"),
        ("socks5", b"\x05\xff", "DRTP-4050"),
        ("socks5", b"\x05\x02", "DRTP-4052"),
        ("socks5", b"\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", "DRTP-4051"),
        ("socks5", b"\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", "DRTP-4053"),
        ("socks5", b"\x05\x00\x05\x00\x00\x07\x00\x00\x00\x00\x00\x00", "DRTP-4052"),
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n", "DRTP-4052"),
    ],
)
async def test_whatever_a_proxy_answers_has_a_name(scheme: str, answer: bytes, code: str):
    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
            writer.write(answer)
            await writer.drain()
            writer.write_eof()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answering, "127.0.0.1", 0)
    async with server:
        proxy = parse_proxy(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", "DRTP_PROXY")
        way = await reach(proxy)
        with pytest.raises(DrtpError) as refusal:
            await consent(proxy, way, "pop.test", 443)
        way.close()
    assert refusal.value.code == code


async def test_a_silent_proxy_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dialling, "TALK_S", 0.1)

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        proxy = parse_proxy(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", "DRTP_PROXY")
        way = await reach(proxy)
        with pytest.raises(DrtpError) as refusal:
            await consent(proxy, way, "pop.test", 443)
        way.close()
    assert refusal.value.code == "DRTP-4054"


async def test_a_variables_proxy_that_is_not_there_is_passed_by_and_a_chosen_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """tailscale#15555: a laptop at home keeps the variables of the network at work."""
    async with edge_bed(tmp_path) as bed:
        await bed.enrolled("agent")
        monkeypatch.setattr(proxies_module, "_is_loopback", lambda _host: False)
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        async with bed.running(bed.feed("agent")) as feed:
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
        monkeypatch.setenv("DRTP_PROXY", "http://127.0.0.1:9")
        async with bed.running(bed.feed("agent")) as feed:
            await until(lambda: feed.state.value.code == "DRTP-4054")
