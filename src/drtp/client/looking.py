"""Looks at a place as an agent would come to it, and says what is there: for people whose network is in the way.

Nothing secret is sent: TLS here believes nobody, and is only asked which certificate is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from drtp.client.dialling import believing_anybody, connected, consent, reach
from drtp.client.proxies import Proxies
from drtp.kit.clock import Clock
from drtp.kit.observe import printable
from drtp.kit.webway import PATH

LOOK_S = 6.0
"""For each step: what answers later is as good as away."""
ANSWER_BYTES_MAX = 16 << 10


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate that was shown: `issuer` in words, `trusted` by the roots asked about, else why not."""

    issuer: str
    trusted: bool
    fault: str = ""


async def addresses_of(host: str) -> list[str]:
    """What the resolver says. Raises: OSError (TimeoutError among it)."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LOOK_S):
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@contextlib.asynccontextmanager
async def way_to(host: str, port: int, rules: Proxies) -> AsyncGenerator[socket.socket]:
    """A connected socket, by the proxy in force. Raises: DrtpError for the proxy's part, OSError for the rest."""
    proxy = rules.to(host, port)
    if proxy is None:
        async with asyncio.timeout(LOOK_S):
            way = await connected(host, port)
    else:
        way = await reach(proxy)
    try:
        if proxy is not None:
            await consent(proxy, way, host, port)
        yield way
    finally:
        way.close()


async def round_trip_ms(host: str, port: int, rules: Proxies, clock: Clock) -> float:
    """Until a connection stands. Raises: as `way_to`."""
    began = clock.monotonic()
    async with way_to(host, port, rules):
        return (clock.monotonic() - began) * 1000


async def certificate_at(host: str, port: int, rules: Proxies, *, name: str, roots_pem: bytes, alpn: str) -> Shown:
    """The certificate shown to whoever asks for `name`. Raises: as `way_to`, ssl.SSLError if there is no TLS."""
    leaf = await _handshake(host, port, rules, name, believing_anybody(alpn))
    issuer = _issuer(leaf) if leaf else "nobody"
    careful = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    careful.load_verify_locations(cadata=roots_pem.decode())
    careful.set_alpn_protocols([alpn])
    try:
        await _handshake(host, port, rules, name, careful)
    except ssl.SSLCertVerificationError as error:
        return Shown(issuer, trusted=False, fault=error.verify_message)
    return Shown(issuer, trusted=True)


async def _handshake(host: str, port: int, rules: Proxies, name: str, context: ssl.SSLContext) -> bytes | None:
    async with way_to(host, port, rules) as way, asyncio.timeout(LOOK_S):
        _, writer = await asyncio.open_connection(sock=way, ssl=context, server_hostname=name)
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        leaf = tls.getpeercert(binary_form=True)
        writer.transport.abort()
        return leaf


def _issuer(leaf: bytes) -> str:
    issuer = x509.load_der_x509_certificate(leaf).issuer
    names = issuer.get_attributes_for_oid(NameOID.COMMON_NAME) or issuer.get_attributes_for_oid(
        NameOID.ORGANIZATION_NAME
    )
    return printable(str(names[0].value)) if names else "a nameless authority"


async def web_socket_answer(host: str, port: int, rules: Proxies, name: str) -> str:
    """The status line of the answer to a WebSocket's opening; 101 is the good one. Raises: as `certificate_at`."""
    lines = (
        f"GET {PATH} HTTP/1.1",
        f"Host: {name}" if port == 443 else f"Host: {name}:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: ZGF0dW1jdGwgZGlhZ25vcw==",
        "",
        "",
    )
    async with way_to(host, port, rules) as way, asyncio.timeout(LOOK_S):
        reader, writer = await asyncio.open_connection(
            sock=way, ssl=believing_anybody(), server_hostname=name, limit=ANSWER_BYTES_MAX
        )
        try:
            writer.write("\r\n".join(lines).encode())
            await writer.drain()
            try:
                line = await reader.readline()
            except ValueError as error:
                raise OSError("an answer without end") from error
        finally:
            writer.transport.abort()
    return printable(line.decode("latin-1").strip()[:80])
