"""Everything HTTP, TLS passthrough and an https local service, through real Envoy and a POP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web

from scenario.bed import Bed, Serving, echo, eventually, read_all, require, tcp_service

GIB = 1 << 30
aio: Any = grpc.aio  # its stubs lag behind
CHUNK = hashlib.sha256(b"drtp").digest() * 2048


class LocalApp:
    """A local web service in its own thread and loop: what Sam has on localhost."""

    def __init__(self) -> None:
        self.app = web.Application(client_max_size=2 * GIB)
        self.app.router.add_get("/", self.hello)
        self.app.router.add_get("/headers", self.headers)
        self.app.router.add_get("/download", self.download)
        self.app.router.add_post("/upload", self.upload)
        self.app.router.add_get("/ws", self.websocket)
        self.app.router.add_get("/events", self.events)
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    async def hello(self, request: web.Request) -> web.Response:
        return web.Response(text=f"hello by {request.version}")

    async def headers(self, request: web.Request) -> web.Response:
        return web.json_response({name.lower(): request.headers.getall(name) for name in request.headers})

    async def download(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(GIB)})
        await answer.prepare(request)
        for _ in range(GIB // len(CHUNK)):
            await answer.write(CHUNK)
        await answer.write_eof()
        return answer

    async def upload(self, request: web.Request) -> web.Response:
        digest, count = hashlib.sha256(), 0
        async for part in request.content.iter_any():
            digest.update(part)
            count += len(part)
        return web.json_response({"sha256": digest.hexdigest(), "bytes": count})

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(message.data)
        return answer

    async def events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(20):
            await answer.write(f"data: {time.monotonic()}\n\n".encode())
            await asyncio.sleep(0.15)
        return answer

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self.app, access_log=None)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def __enter__(self) -> LocalApp:
        self._thread.start()
        self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture(scope="module")
def app() -> Iterator[LocalApp]:
    with LocalApp() as local:
        yield local


@pytest.fixture(scope="module")
def site(bed: Bed, app: LocalApp) -> Iterator[Serving]:
    serving = bed.serve(f"localhost:{app.port}", "--name", "site")
    yield serving
    serving.stop()


def test_http1_visitor_is_answered(bed: Bed, site: Serving) -> None:
    assert bed.get(site) == (200, b"hello by HttpVersion(major=1, minor=1)")


def test_http2_visitors_are_answered_in_the_clear_and_over_tls(bed: Bed, site: Serving) -> None:
    clear = bed.curl(f"http://{site.host}/", "--http2-prior-knowledge", "--write-out", " %{http_version}")
    assert clear.stdout.startswith(b"hello by") and clear.stdout.endswith(b" 2"), clear
    port = bed.https[1]
    tls = bed.curl(f"https://{site.name}:{port}/", "--http2", "--write-out", " %{http_version}")
    assert tls.stdout.startswith(b"hello by") and tls.stdout.endswith(b" 2"), tls


def test_an_ipv6_visitor_is_answered_and_told_apart(bed: Bed, site: Serving) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    seen = bed.curl(f"http://{site.host}/headers", "-6", "--header", "X-Forwarded-For: 6.6.6.6")
    assert json.loads(seen.stdout)["x-forwarded-for"] == ["::1"], seen


async def test_live_visitors_of_a_disabled_or_narrowed_service_are_cut(bed: Bed, app: LocalApp) -> None:
    serving = await asyncio.to_thread(bed.serve, f"localhost:{app.port}", "--name", "cut-web")
    host, port = bed.http

    def patch(spec: dict[str, Any]) -> None:
        change = json.dumps({"spec": spec})
        bed.kubectl("patch", "drtpservice", "cut-web", "-n", serving.namespace, "--type=merge", "-p", change)

    async with aiohttp.ClientSession(headers={"Host": serving.host}) as visitor:
        url = f"http://{host}:{port}"
        for cutting, mending, status, limit_s in (
            ({"enabled": False}, {"enabled": True}, 503, 2.0),
            ({"edgeAllowlist": ["127.0.0.2/32"]}, {"edgeAllowlist": None}, 403, 1.0),
        ):
            async with visitor.ws_connect(f"{url}/ws") as live:
                await live.send_str("before")
                assert (await live.receive(timeout=10)).data == "before"
                await asyncio.to_thread(patch, cutting)
                begin = time.monotonic()
                assert (await live.receive(timeout=10)).type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
                assert time.monotonic() - begin <= limit_s
            assert await asyncio.to_thread(eventually, lambda wanted=status: bed.get(serving)[0] == wanted)
            await asyncio.to_thread(patch, mending)
            assert await asyncio.to_thread(eventually, lambda: bed.get(serving)[0] == 200)
    await asyncio.to_thread(serving.stop)


def test_unknown_host_is_not_found(bed: Bed) -> None:
    answer = bed.curl(f"http://nobody-here.prism.localhost:{bed.http[1]}/", "--write-out", " %{http_code}")
    assert answer.stdout.endswith(b" 404"), answer


@pytest.mark.timeout(300)
async def test_one_gib_down_and_up_arrive_whole(bed: Bed, site: Serving) -> None:
    expected = hashlib.sha256()
    for _ in range(GIB // len(CHUNK)):
        expected.update(CHUNK)
    host, port = bed.http
    timeout = aiohttp.ClientTimeout(total=280)
    async with aiohttp.ClientSession(timeout=timeout, headers={"Host": site.host}) as visitor:
        digest, count = hashlib.sha256(), 0
        async with visitor.get(f"http://{host}:{port}/download") as answer:
            async for part in answer.content.iter_any():
                digest.update(part)
                count += len(part)
        assert (count, digest.hexdigest()) == (GIB, expected.hexdigest())

        async def body() -> AsyncIterator[bytes]:
            for _ in range(GIB // len(CHUNK)):
                yield CHUNK

        async with visitor.post(f"http://{host}:{port}/upload", data=body()) as answer:
            assert await answer.json() == {"sha256": expected.hexdigest(), "bytes": GIB}


async def test_websocket_echoes_ten_thousand_messages(bed: Bed, site: Serving) -> None:
    host, port = bed.http
    async with (
        aiohttp.ClientSession(headers={"Host": site.host}) as visitor,
        visitor.ws_connect(f"http://{host}:{port}/ws") as socket_,
    ):
        for number in range(10_000):
            await socket_.send_str(f"message {number}")
            assert (await socket_.receive(timeout=10)).data == f"message {number}"


async def test_each_server_sent_event_arrives_within_100_ms(bed: Bed, site: Serving) -> None:
    """cloudflared#199, #1095: nothing is buffered."""
    host, port = bed.http
    delays: list[float] = []
    async with (
        aiohttp.ClientSession(headers={"Host": site.host}) as visitor,
        visitor.get(f"http://{host}:{port}/events") as answer,
    ):
        async for line in answer.content:
            if line.startswith(b"data: "):
                delays.append(time.monotonic() - float(line[6:]))
    assert len(delays) == 20
    assert max(delays) < 0.1, delays


async def test_visitor_cannot_forge_address_or_trace(bed: Bed, site: Serving) -> None:
    host, port = bed.http
    forged = {
        "Host": site.host,
        "X-Forwarded-For": "6.6.6.6",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "traceparent": "00-66666666666666666666666666666666-6666666666666666-01",
        "X-Envoy-External-Address": "6.6.6.6",
    }
    async with (
        aiohttp.ClientSession() as visitor,
        visitor.get(f"http://{host}:{port}/headers", headers=forged) as answer,
    ):
        seen: dict[str, list[str]] = await answer.json()
    assert seen["x-forwarded-for"] == ["127.0.0.1"]
    assert "6666" not in str(seen) and "6.6.6.6" not in str(seen), seen


async def test_grpc_stream_flows_both_ways(bed: Bed) -> None:
    def raw(value: bytes) -> bytes:
        return value

    async def talk(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"re: " + request

    server = aio.server()
    method = grpc.stream_stream_rpc_method_handler(talk, request_deserializer=raw, response_serializer=raw)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("drtp.Test", {"Talk": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    serving = await asyncio.to_thread(bed.serve, f"h2c://localhost:{port}", "--name", "grpc")
    try:
        options = [("grpc.default_authority", serving.host), ("grpc.enable_http_proxy", 0)]
        async with aio.insecure_channel(f"127.0.0.1:{bed.http[1]}", options=options) as channel:
            call = channel.stream_stream("/drtp.Test/Talk", request_serializer=raw, response_deserializer=raw)()
            for number in range(200):
                await call.write(f"{number}".encode())
                assert await asyncio.wait_for(call.read(), 10) == f"re: {number}".encode()
            await call.done_writing()
            assert await asyncio.wait_for(call.read(), 10) == aio.EOF
    finally:
        await asyncio.to_thread(serving.stop)
        await server.stop(0)


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Make a self-signed certificate for a name, as an owner would: (certificate, key)."""
    openssl = require("openssl")

    def make(name: str) -> tuple[Path, Path]:
        cert, key = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-keyout", str(key), "-out", str(cert), "-subj", f"/CN={name}",
             "-addext", f"subjectAltName=DNS:{name}"],
            check=True, capture_output=True,
        )  # fmt: skip
        return cert, key

    return make


def test_tls_passes_through_by_server_name(bed: Bed, certificate: Callable[[str], tuple[Path, Path]]) -> None:
    name = "strongbox.prism.localhost"
    cert, key = certificate(name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    def handle(plain: socket.socket, peer: Any) -> None:
        with context.wrap_socket(plain, server_side=True) as visitor:
            echo_tls(visitor)

    def echo_tls(visitor: ssl.SSLSocket) -> None:
        while data := visitor.recv(65536):
            visitor.sendall(data)

    with tcp_service(handle) as port:
        serving = bed.serve(f"tls://localhost:{port}", "--name", "strongbox", "--hostname", name)
        assert serving.name == name
        trust = ssl.create_default_context(cafile=str(cert))
        with (
            socket.create_connection(bed.https, timeout=10) as plain,
            trust.wrap_socket(plain, server_hostname=name) as visitor,
        ):
            visitor.sendall(b"only the owner sees this")
            assert visitor.recv(100) == b"only the owner sees this"
        serving.stop()


class _Secure(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"over https at home"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def test_https_local_service_is_reached_with_its_own_trust(
    bed: Bed, certificate: Callable[[str], tuple[Path, Path]]
) -> None:
    cert, key = certificate("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Secure)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        serving = bed.serve(f"https://localhost:{server.server_port}", "--name", "secure", "--trust", str(cert))
        assert bed.get(serving) == (200, b"over https at home")
        serving.stop()
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def test_untrusted_https_local_service_is_not_believed(
    bed: Bed, certificate: Callable[[str], tuple[Path, Path]]
) -> None:
    cert, key = certificate("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    seen: list[bytes] = []

    def handle(plain: socket.socket, _peer: Any) -> None:
        with context.wrap_socket(plain, server_side=True) as visitor:
            seen.append(read_all(visitor))

    with tcp_service(handle) as port:
        program = bed.run("serve", f"https://localhost:{port}", "--name", "doubtful", "--output", "json")
        try:
            event = program.event("ready", 15.0)
        except AssertionError:
            event = None
        if event is not None:
            serving = Serving(program, "doubtful", "", event["address"], [], 0)
            assert bed.get(serving)[0] == 503
        assert not b"".join(seen)
        program.stop()


def test_plain_tcp_echo_is_whole(bed: Bed) -> None:
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "echo-plain")
        with socket.create_connection(serving.endpoint, timeout=10) as visitor:
            visitor.sendall(b"there and back")
            visitor.shutdown(socket.SHUT_WR)
            assert read_all(visitor) == b"there and back"
        serving.stop()
