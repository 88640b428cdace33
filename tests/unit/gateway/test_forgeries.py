"""What a visitor may write into a request, and what it must not become: another route, a page, a second request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from drtp.api.snapshots import HttpMatch, ValueMatch, WeightedBackend
from unit.gateway.gatewaykit import DEADLINE_S, ELSEWHERE, Visit, free_port, gateway, http, listener, pop
from unit.gateway.test_http import HTTP, get, rule, service, web_backend

SCRIPT = "<script>alert(1)</script>"


async def raw(port: int, request: str) -> bytes:
    """The whole answer to `request`, up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.encode())
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


HOSTS = [
    "Host: open.test\r\nHost: shut.test",
    "Host: shut.test\r\nHost: open.test",
    "Host: open.test\r\nX-Forwarded-Host: shut.test",
    "Host: open.test\r\nX-Host: shut.test\r\nX-Original-Host: shut.test\r\nForwarded: host=shut.test",
    "Host: open.test\r\n:authority: shut.test",
    "Host: shut.test, open.test",
    "Host: shut.test:80@open.test",
    "Host: open.test\r\nHost : shut.test",
    "Host: shut.test\r\nX-Forwarded-Host: open.test\r\nX-Original-URL: http://open.test/",
    " Host: open.test\r\nHost: shut.test",
]


@pytest.mark.parametrize("hosts", HOSTS)
async def test_no_second_host_leads_past_the_list_cve_2026_40910_cve_2026_55430(tmp_path: Path, hosts: str) -> None:
    """The header that chooses the route chooses the list: no mixture of names reaches the service that is shut."""
    port = free_port()
    async with pop("p1", service) as opened, pop("p2", service) as shut, gateway(tmp_path) as running:
        await running.programmed(
            {
                **listener(port, HTTP),
                **web_backend(opened.endpoint()),
                **web_backend(shut.endpoint(), service="s2"),
                **http(port, "open.test"),
                **http(port, "shut.test", rule(access=ELSEWHERE, backends=(WeightedBackend(service="s2"),))),
            }
        )
        for target in ("/", "http://open.test/", "http://shut.test/"):
            answer = await raw(port, f"GET {target} HTTP/1.1\r\n{hosts}\r\nConnection: close\r\n\r\n")
            assert shut.accepted == 0, answer
            assert b"x-forwarded-host: shut" not in answer.lower()
        assert (await get(port, host="open.test"))[0] == 200


async def test_a_header_in_several_lines_forges_nothing_cve_2026_26308(tmp_path: Path) -> None:
    """One value removed and the next one believed would be a forgery again; a match looks at every value there is."""
    port = free_port()
    only = HttpMatch(headers=(ValueMatch(name="x-kind", value="blue"),))
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed(
            {
                **listener(port, HTTP),
                **web_backend(endpoint.endpoint()),
                **http(port, "a.test"),
                **http(port, "m.test", rule(matches=(only,))),
            }
        )
        names = ("X-Forwarded-For", "x-forwarded-for", "X-Real-IP", "Forwarded", "X-Forwarded-Proto", "X-Envoy-Peer")
        lines = "".join(f"{name}: 6.6.6.{n}\r\n" for name in names for n in (1, 2, 3))
        answer = await raw(port, f"GET / HTTP/1.1\r\nHost: a.test\r\n{lines}Connection: close\r\n\r\n")
        assert b" 200 " in answer
        assert b"6.6.6." not in answer
        assert answer.lower().count(b"x-forwarded-for: 127.0.0.1\r\n") == 1
        for kinds, status in (("blue", b"200"), ("red,blue", b"200"), ("blue,red", b"200"), ("red,green", b"404")):
            lines = "".join(f"X-Kind: {kind}\r\n" for kind in kinds.split(","))
            answer = await raw(port, f"GET / HTTP/1.1\r\nHost: m.test\r\n{lines}Connection: close\r\n\r\n")
            assert answer.split(b" ", 2)[1] == status, kinds


async def test_a_refused_upgrade_is_no_tunnel_cve_2024_23326(tmp_path: Path) -> None:
    """What follows an upgrade that the service answered with 200 is a request like any other, and judged as one."""
    port = free_port()
    heard = bytearray()

    async def stubborn(visit: Visit) -> None:
        heard.extend(await visit.reader.readuntil(b"\r\n\r\n"))
        visit.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno")
        while data := await visit.reader.read(1000):
            heard.extend(data)

    async with pop("p1", stubborn) as endpoint, gateway(tmp_path) as running:
        shut = rule(matches=(HttpMatch(path="/shut"),), access=ELSEWHERE)
        await running.programmed(
            {**listener(port, HTTP), **http(port, "a.test", shut, rule()), **web_backend(endpoint.endpoint())}
        )
        upgrade = (
            "GET /open HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: {kind}\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        smuggled = "GET /shut HTTP/1.1\r\nHost: a.test\r\nX-Smuggled: yes\r\nConnection: close\r\n\r\n"
        for kind in ("websocket", "h2c", "tls/1.0", "anything"):
            heard.clear()
            answer = await raw(port, upgrade.format(kind=kind) + smuggled)
            assert b"/shut" not in heard, kind
            assert b"smuggled" not in heard.lower(), kind
            assert b" 101 " not in answer


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
async def test_pages_repeat_nothing_of_what_was_asked_cve_2026_40302(tmp_path: Path, accept: str) -> None:
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed(
            {
                **listener(port, HTTP),
                **web_backend(endpoint.endpoint()),
                **http(port, "shut.test", rule(access=ELSEWHERE)),
                **http(port, "broken.test", service=""),
            }
        )
        marked = f"X-Request-Id: {SCRIPT}\r\nCookie: a={SCRIPT}\r\nReferer: {SCRIPT}\r\nUser-Agent: {SCRIPT}\r\n"
        for host in ("shut.test", "broken.test", "unknown.test", SCRIPT, f"shut.test{SCRIPT}"):
            for line in (f"GET /{SCRIPT}?{SCRIPT} HTTP/1.1", "GET /%3Cscript%3E HTTP/1.1", f"GET / {SCRIPT}"):
                head = f"{line}\r\nHost: {host}\r\nAccept: {accept}\r\n{marked}Connection: close\r\n\r\n"
                answer = await raw(port, head)
                assert answer, (host, line)
                assert b"<script" not in answer.lower(), (host, line)
        assert endpoint.accepted == 0


async def test_a_flood_of_cookies_ends_its_own_request_cve_2026_40303(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed({**listener(port, HTTP), **http(port, "a.test"), **web_backend(endpoint.endpoint())})
        floods = (f"Cookie: {'a=1; ' * 20_000}", "\r\n".join(f"Cookie: c{n}=1" for n in range(300)))
        for flood in floods:
            answer = await raw(port, f"GET / HTTP/1.1\r\nHost: a.test\r\n{flood}\r\nConnection: close\r\n\r\n")
            assert answer.split(b" ", 2)[1] == b"431", answer[:200]
        assert endpoint.accepted == 0
        assert (await get(port))[0] == 200
