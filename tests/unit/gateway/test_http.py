from __future__ import annotations

import asyncio
import re
import uuid
from pathlib import Path

import aiohttp
import h2.config
import h2.connection
import h2.events

from drtp.api.drtp import AppProtocol, Protocol
from drtp.api.snapshots import (
    HeaderChange,
    HttpMatch,
    HttpRule,
    ListenerProtocol,
    PathMatch,
    PopEndpoint,
    Redirect,
    Rewrite,
    ValueMatch,
    WeightedBackend,
)
from drtp.kit.codes import CODES
from unit.gateway.gatewaykit import (
    ANYONE,
    DEADLINE_S,
    ELSEWHERE,
    Authority,
    EndpointMode,
    Visit,
    backend,
    free_port,
    gateway,
    http,
    listener,
    pop,
)

HTTP = ListenerProtocol.HTTP


async def service(visit: Visit) -> None:
    """Answers each request with its own head as the body; keeps the connection."""
    while True:
        head = await visit.reader.readuntil(b"\r\n\r\n")
        if b"upgrade: websocket" in head.lower():
            visit.writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            while data := await visit.reader.read(1000):
                visit.writer.write(data)
            return
        if b"/events" in head:
            visit.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: first\n\n")
            await visit.reader.read(1000)
            return
        body = head + f"SOURCE {visit.source}:{visit.source_port}".encode()
        visit.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nx-answer: yes\r\n\r\n" % len(body) + body)
        await visit.writer.drain()


def web_backend(endpoint: PopEndpoint, service: str = "s1", **more: object):
    return backend(endpoint, service=service, protocol=Protocol.HTTP, **more)


async def get(port: int, path: str = "/", host: str = "a.test", **headers: str) -> tuple[int, str, dict[str, str]]:
    chosen = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    url = f"http://127.0.0.1:{port}{path}"
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE_S)) as session,
        session.get(url, headers=chosen, allow_redirects=False) as answer,
    ):
        return answer.status, await answer.text(), {name.lower(): value for name, value in answer.headers.items()}


def rule(**more: object) -> HttpRule:
    fields: dict[str, object] = {
        "matches": (HttpMatch(),),
        "access": ANYONE,
        "backends": (WeightedBackend(service="s1"),),
    }
    return HttpRule(**{**fields, **more})  # pyright: ignore[reportArgumentType] - keyword fields of one struct


async def test_hostnames_route_and_the_visitor_cannot_forge_who_it_is(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed({**listener(port, HTTP), **http(port, "a.test"), **web_backend(endpoint.endpoint())})
        status, body, _headers = await get(
            port, host=f"a.test:{port}", X_Forwarded_For="6.6.6.6", traceparent=f"00-{'1' * 32}-{'2' * 16}-01",
            tracestate="evil=1", baggage="evil=1", X_Request_Id="evil", X_Envoy_Retry_On="5xx", X_B3_TraceId="evil",
            X_Forwarded_Host="evil", X_Forwarded_Proto="https", Forwarded="for=6.6.6.6", X_Real_Ip="6.6.6.6",
        )  # fmt: skip
        assert status == 200
        assert "evil" not in body
        assert "6.6.6.6" not in body
        assert "x-envoy" not in body
        assert "x-forwarded-for: 127.0.0.1\r\n" in body
        assert "x-forwarded-proto: http\r\n" in body
        assert f"host: a.test:{port}" in body
        request_id = re.search(r"x-request-id: ([0-9a-f-]{36})", body)
        traceparent = re.search(r"traceparent: 00-([0-9a-f]{32})-[0-9a-f]{16}-01", body)
        assert request_id
        assert traceparent
        assert traceparent[1] == request_id[1].replace("-", "")
        visit = endpoint.visits[0]
        assert visit.source == "127.0.0.1"
        assert visit.tlvs[0xE1] == b"s1"
        uuid.UUID(visit.tlvs[0xE0].decode())


async def test_a_header_spelt_with_underscores_forges_nothing_either(tmp_path: Path) -> None:
    """WSGI and CGI services read `X_Forwarded_For` as `X-Forwarded-For`."""
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed({**listener(port, HTTP), **http(port, "a.test"), **web_backend(endpoint.endpoint())})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        forged = ("X_Forwarded_For", "X-Forwarded_For", "x_drtp_user", "X_Real_IP", "X_B3_TraceId")
        lines = "".join(f"{name}: 6.6.6.6\r\n" for name in forged)
        writer.write(f"GET / HTTP/1.1\r\nHost: a.test\r\n{lines}My_Own: kept\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            body = (await reader.readuntil(b"SOURCE")).decode()
        assert "6.6.6.6" not in body
        assert "my_own: kept" in body
        writer.close()


def test_the_page_of_an_unreachable_service_is_true_of_each_cause() -> None:
    # Without endpoints a gateway knows none of them: disabled, without an agent, or silent on the agent's side.
    entry = CODES["DRTP-5002"]
    for cause in ("switched off", "no agent serves it", "does not answer its agent"):
        assert cause in entry.what
    for remedy in ("datumctl status", "datumctl enable", "datumctl serve", "start the service itself"):
        assert remedy in entry.remedy


async def test_each_visitor_has_its_own_upstream_connection(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed({**listener(port, HTTP), **http(port, "a.test"), **web_backend(endpoint.endpoint())})
        for _visitor in range(3):
            await get(port)
        assert len({visit.source_port for visit in endpoint.visits}) == 3


async def test_pages_of_the_gateway_carry_a_code(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed(
            {
                **listener(port, HTTP),
                **web_backend(endpoint.endpoint()),
                **backend(service="s2", protocol=Protocol.HTTP),
                **http(port, "shut.test", rule(access=ELSEWHERE)),
                **http(port, "empty.test", service="s2"),
                **http(port, "broken.test", service=""),
                **http(port, "part.test", rule(matches=(HttpMatch(path="/only"),))),
            }
        )
        status, body, headers = await get(port, host="unknown.test", Accept="text/html")
        assert (status, "DRTP-5001" in body) == (404, True)
        assert headers["content-type"].startswith("text/html")
        assert [(s, b[:9]) for s, b, _h in [await get(port, host="shut.test")]] == [(403, "DRTP-5003")]
        assert [(s, b[:9]) for s, b, _h in [await get(port, host="empty.test")]] == [(503, "DRTP-5002")]
        assert [(s, b[:9]) for s, b, _h in [await get(port, host="broken.test")]] == [(500, "DRTP-5004")]
        assert [(s, b[:9]) for s, b, _h in [await get(port, host="part.test")]] == [(404, "DRTP-5001")]
        assert endpoint.accepted == 0


async def test_rules_match_rewrite_and_redirect(tmp_path: Path) -> None:
    port = free_port()
    marked = HttpMatch(
        headers=(ValueMatch(name="x-kind", value="^b.*", regex=True),), query=(ValueMatch(name="q", value="1"),)
    )
    exact = HttpMatch(path_type=PathMatch.EXACT, path="/exact")
    elsewhere = Redirect(hostname="b.test", status=301, port=8443)
    rules = (
        rule(matches=(exact,), rewrite=Rewrite(hostname="inner", replace_full_path="/new")),
        rule(matches=(HttpMatch(path="/strip"),), rewrite=Rewrite(replace_prefix_match="/")),
        rule(matches=(HttpMatch(path="/old"),), rewrite=Rewrite(replace_prefix_match="/young")),
        rule(matches=(HttpMatch(path="/go"),), backends=(), redirect=elsewhere),
        rule(matches=(HttpMatch(path="/post", method="POST"),)),
        rule(
            matches=(marked,),
            request_headers=HeaderChange(set={"x-set": "50%"}, add={"x-kind": "two"}, remove=("x-drop",)),
            response_headers=HeaderChange(set={"x-out": "v"}, remove=("x-answer",)),
        ),
    )
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed(
            {**listener(port, HTTP), **http(port, "*.test", *rules), **web_backend(endpoint.endpoint())}
        )
        _status, body, _headers = await get(port, "/exact?x=1")
        assert body.startswith("GET /new?x=1 HTTP/1.1")
        assert "host: inner" in body
        assert "x-forwarded-host: a.test" in body
        assert (await get(port, "/strip"))[1].startswith("GET / ")
        assert (await get(port, "/strip/a/b"))[1].startswith("GET /a/b ")
        assert (await get(port, "/old/x"))[1].startswith("GET /young/x ")
        assert (await get(port, "/older"))[0] == 404
        status, _body, headers = await get(port, "/go/there")
        assert (status, headers["location"]) == (301, "http://b.test:8443/go/there")
        assert (await get(port, "/post"))[0] == 404
        status, body, headers = await get(port, "/?q=1", x_kind="blue", x_drop="yes")
        assert status == 200
        assert "x-set: 50%\r\n" in body
        assert "x-drop" not in body
        assert headers["x-out"] == "v"
        assert "x-answer" not in headers


async def test_backend_host_header_is_what_the_service_sees(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed(
            {
                **listener(port, HTTP),
                **http(port, "a.test"),
                **web_backend(endpoint.endpoint(), host_header="localhost:3000"),
            }
        )
        body = (await get(port))[1]
        assert "host: localhost:3000" in body
        assert "x-forwarded-host: a.test" in body


async def test_weights_share_the_traffic(tmp_path: Path) -> None:
    port = free_port()
    shared = rule(backends=(WeightedBackend(service="s1", weight=1), WeightedBackend(service="s2", weight=1)))
    async with pop("p1", service) as one, pop("p2", service) as two, gateway(tmp_path) as running:
        await running.programmed(
            {
                **listener(port, HTTP),
                **http(port, "a.test", shared),
                **web_backend(one.endpoint()),
                **web_backend(two.endpoint(), service="s2"),
            }
        )
        for _visitor in range(40):
            assert (await get(port))[0] == 200
        assert one.visits
        assert two.visits


async def test_websocket_and_event_stream_pass_at_once(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed({**listener(port, HTTP), **http(port, "a.test"), **web_backend(endpoint.endpoint())})
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"GET /ws HTTP/1.1\r\nhost: a.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
                b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(b"frame")
            assert await reader.readexactly(5) == b"frame"
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /events HTTP/1.1\r\nhost: a.test\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            assert b"data: first" in await reader.readuntil(b"\n\n")
            writer.close()


async def test_http2_with_prior_knowledge_reaches_an_h2c_service_through_mtls(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    tls = authority.server_context(tmp_path, "p1.tunnel.test")
    async with (
        pop("p1", h2c_service, mode=EndpointMode.MTLS, tls=tls) as endpoint,
        gateway(tmp_path / "g", authority.credentials()) as running,
    ):
        await running.programmed(
            {
                **listener(port, HTTP),
                **http(port, "a.test"),
                **web_backend(endpoint.endpoint(), app_protocol=AppProtocol.H2C),
            }
        )
        client = h2.connection.H2Connection()
        client.initiate_connection()
        client.send_headers(
            1, [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/pkg.Svc/Call"),
                ("content-type", "application/grpc"), ("te", "trailers")], end_stream=True,
        )  # fmt: skip
        headers, trailers = await _exchange(client, port)
        assert headers[b":status"] == b"200"
        assert trailers[b"grpc-status"] == b"0"


async def h2c_service(visit: Visit) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    visit.writer.write(connection.data_to_send())
    while data := await visit.reader.read(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.StreamEnded):
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                connection.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        visit.writer.write(connection.data_to_send())


async def _exchange(client: h2.connection.H2Connection, port: int) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers: dict[bytes, bytes] = {}
    trailers: dict[bytes, bytes] = {}
    async with asyncio.timeout(DEADLINE_S):
        while True:
            writer.write(client.data_to_send())
            for event in client.receive_data(await reader.read(65536)):
                match event:
                    case h2.events.ResponseReceived():
                        headers = dict(event.headers)
                    case h2.events.TrailersReceived():
                        trailers = dict(event.headers)
                    case h2.events.StreamEnded():
                        writer.close()
                        return headers, trailers
                    case _:
                        pass
