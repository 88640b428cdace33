"""TCP to the control plane: straight, or by a proxy (HTTP CONNECT, SOCKS5), as the environment says.

The same words with proxies as the tunnel's core has (`through/proxy.rs`), for the few connections that Python makes.
Where something on the way looks into TLS, ours goes inside a WebSocket over what is shown there.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import socket
import ssl
from typing import Any

import aiohttp
from yarl import URL

from drtp.client.proxies import Proxies, Proxy, ProxyKind, proxies
from drtp.kit.errors import DrtpError, Invalid, Refused, Retryable
from drtp.kit.observe import printable
from drtp.kit.webway import MESSAGE_BYTES_MAX, PATH, carry, pair

REACH_S = 5.0
"""To the proxy itself."""
TALK_S = 10.0
"""Until it consents: it must reach the other end first."""
HEAD_BYTES_MAX = 16 << 10
WORDS_MAX = 80
_SOCKS_TEXT_MAX = 255


class ProxyFailure(aiohttp.ClientConnectionError):
    """A proxy on the way does not let us through; `error` says why."""

    def __init__(self, error: DrtpError) -> None:
        super().__init__(str(error))
        self.error = error


CONNECTIONS_MAX = 12
"""Of one client at once. A door takes up to 64 strangers of an address, and 16 with few descriptors, and resets more:
whoever has a hundred things to ask asks them a dozen at a time."""


def web_session(tls: ssl.SSLContext, **options: Any) -> aiohttp.ClientSession:
    """An HTTP client that dials as the environment says. Raises: Invalid DRTP-3013."""
    return aiohttp.ClientSession(connector=_Connector(proxies(), ssl=tls, limit=CONNECTIONS_MAX), **options)


class _Connector(aiohttp.TCPConnector):
    """aiohttp's own connector, but for the first hop, and for what looks into TLS."""

    def __init__(self, rules: Proxies, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType] -- partly without types
        self._rules = rules
        self._context: ssl.SSLContext = options["ssl"]
        self._carrying: set[asyncio.Task[None]] = set()

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        try:
            return await self._dial(req, traces, timeout)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            if self._context.verify_mode is ssl.CERT_NONE:
                raise
            return await self._inside(req, error)

    async def _inside(self, req: Any, why: aiohttp.ClientConnectorError) -> Any:
        """By WebSocket, with the same trust as ever inside. Raises: `why` where none is taken."""
        host, port = str(req.url.raw_host), int(req.url.port or 443)
        outer = aiohttp.ClientSession(connector=_Connector(self._rules, ssl=believing_anybody(), limit=1))
        try:
            async with asyncio.timeout(TALK_S):
                web_socket = await outer.ws_connect(
                    URL.build(scheme="https", host=host, port=port, path=PATH), max_msg_size=MESSAGE_BYTES_MAX
                )
        except (aiohttp.ClientError, OSError, TimeoutError):
            await outer.close()
            raise why from None
        except BaseException:
            await outer.close()
            raise
        here, there = pair()
        carrying = asyncio.create_task(_carried(outer, web_socket, there))  # noqa: TID251 -- as long as the connection
        self._carrying.add(carrying)
        carrying.add_done_callback(self._carrying.discard)
        return await self._secured(here, req)

    async def _dial(self, req: Any, traces: Any, timeout: Any) -> Any:
        host, port = str(req.url.raw_host), int(req.url.port or 443)
        proxy = self._rules.to(host, port)
        if proxy is None:
            return await super()._create_connection(req, traces, timeout)
        try:
            way = await reach(proxy)
        except Retryable as error:
            if self._rules.chosen:
                raise ProxyFailure(error) from error
            # A variable is for the network at work; at home its proxy is not there.
            return await super()._create_connection(req, traces, timeout)
        return await self._through(proxy, way, req)

    async def _through(self, proxy: Proxy, way: socket.socket, req: Any) -> Any:
        try:
            await consent(proxy, way, str(req.url.raw_host), int(req.url.port or 443))
        except DrtpError as error:
            way.close()
            raise ProxyFailure(error) from error
        except BaseException:
            way.close()
            raise
        return await self._secured(way, req)

    async def _secured(self, way: socket.socket, req: Any) -> Any:
        """What is asked for on a connection that stands."""
        loop = asyncio.get_running_loop()
        tls = self._context if req.url.scheme in ("https", "wss") else None
        try:
            _, protocol = await loop.create_connection(
                self._factory, sock=way, ssl=tls, server_hostname=str(req.url.raw_host) if tls else None
            )
        except ssl.SSLCertVerificationError as error:
            raise aiohttp.ClientConnectorCertificateError(req.connection_key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(req.connection_key, error) from error
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        except BaseException:
            way.close()
            raise
        return protocol


async def _carried(
    outer: aiohttp.ClientSession, web_socket: aiohttp.ClientWebSocketResponse, way: socket.socket
) -> None:
    async with outer:
        await carry(web_socket, way)


def believing_anybody(alpn: str = "http/1.1") -> ssl.SSLContext:
    """Takes any certificate: for a look at what is shown, and for what is proven by other means."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


async def connected(host: str, port: int) -> socket.socket:
    """TCP to the first address that answers. Raises: OSError, the last address's or the resolver's."""
    loop = asyncio.get_running_loop()
    failure = OSError("no address")
    for family, kind, number, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        way = socket.socket(family, kind, number)
        way.setblocking(False)
        try:
            await loop.sock_connect(way, address)
        except OSError as error:
            way.close()
            failure = error
        except BaseException:
            way.close()
            raise
        else:
            return way
    raise failure


async def reach(proxy: Proxy) -> socket.socket:
    """TCP to the proxy itself. Raises: Retryable DRTP-4054."""
    try:
        async with asyncio.timeout(REACH_S):
            return await connected(proxy.host, proxy.port)
    except TimeoutError:
        reason = "no answer in time"
    except OSError as error:
        reason = error.strerror or str(error)
    raise Retryable("DRTP-4054", f"The proxy {proxy.host}:{proxy.port} cannot be reached: {reason}.")


async def consent(proxy: Proxy, way: socket.socket, host: str, port: int) -> None:
    """Ask the proxy for `host:port`; when this returns, what follows goes there.

    Raises: Refused (DRTP-4050 credentials, DRTP-4051 not allowed), Retryable (4052 unreadable, 4053 beyond, 4054
    silent).
    """
    talk = _connect if proxy.kind is ProxyKind.CONNECT else _socks
    try:
        async with asyncio.timeout(TALK_S):
            await talk(_Words(proxy, way), host, port)
    except TimeoutError:
        raise Retryable("DRTP-4054", f"The proxy {proxy.host}:{proxy.port} does not answer.") from None
    except OSError as error:
        said = f"The proxy {proxy.host}:{proxy.port} ended the connection without an answer: {error.strerror or error}."
        raise Retryable("DRTP-4052", said) from error


class _Words:
    """What is said on one connection to a proxy."""

    def __init__(self, proxy: Proxy, way: socket.socket) -> None:
        self.proxy = proxy
        self._way = way
        self._loop = asyncio.get_running_loop()

    async def say(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._way, data)

    async def hear(self, count: int) -> bytes:
        """Exactly so many bytes. Raises: Retryable DRTP-4052 at an early end."""
        heard = b""
        while len(heard) < count:
            piece = await self._loop.sock_recv(self._way, count - len(heard))
            if not piece:
                raise self.unreadable("it ended early")
            heard += piece
        return heard

    async def head(self) -> bytes:
        """Up to the blank line, and not a byte more: what follows is not the proxy's."""
        heard = b""
        while not heard.endswith((b"\r\n\r\n", b"\n\n")):
            if len(heard) >= HEAD_BYTES_MAX:
                raise self.unreadable(f"its head is longer than {HEAD_BYTES_MAX} bytes")
            heard += await self.hear(1)
            if len(heard) == 5 and heard != b"HTTP/":
                raise self.unreadable("it is not HTTP")
        return heard

    def unreadable(self, why: str) -> Retryable:
        return Retryable("DRTP-4052", f"The answer of the proxy {self._name} cannot be read: {why}.")

    def beyond(self, said: str) -> Retryable:
        return Retryable("DRTP-4053", f"The proxy {self._name} cannot reach the control plane: {said}.")

    def refused(self, said: str) -> Refused:
        return Refused("DRTP-4051", f"The proxy {self._name} refused the connection: {said}.")

    def credentials(self, said: str) -> Refused:
        return Refused("DRTP-4050", f"The proxy {self._name} {said}.")

    @property
    def _name(self) -> str:
        return f"{self.proxy.host}:{self.proxy.port}"


async def _connect(words: _Words, host: str, port: int) -> None:
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if words.proxy.password is not None:
        pair = f"{words.proxy.user}:{words.proxy.password.reveal()}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    await words.say("\r\n".join([*lines, "", ""]).encode())
    head = (await words.head()).decode("latin-1")
    status, *headers = head.splitlines()
    _, _, said = status.partition(" ")
    code, said = said[:3], printable(said[:WORDS_MAX]).strip()
    if not code.isdecimal():
        raise words.unreadable("it has no status")
    match int(code):
        case number if 200 <= number < 300:
            return
        # 401 is a web server's word for it, and tinyproxy's.
        case 401 | 407:
            raise words.credentials(_wanted(headers, given=words.proxy.password is not None))
        case 502 | 503 | 504:
            raise words.beyond(said)
        case _:
            raise words.refused(said)


def _wanted(headers: list[str], *, given: bool) -> str:
    schemes: list[str] = []
    for header in headers:
        name, _, value = header.partition(":")
        if name.strip().lower() == "proxy-authenticate" and value.split():
            schemes.append(printable(value.split()[0][:WORDS_MAX]))
    if schemes and "basic" not in (scheme.lower() for scheme in schemes):
        return f"takes {' or '.join(schemes)} only, and Basic is all that is spoken here"
    if given:
        return "refused the user name or password"
    return "wants a user name and a password, and none were given"


_BEYOND = {
    1: "general failure",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
}


async def _socks(words: _Words, host: str, port: int) -> None:
    password = words.proxy.password
    await words.say(b"\x05\x02\x00\x02" if password else b"\x05\x01\x00")
    version, method = await words.hear(2)
    if version != 5:
        raise words.unreadable(f"it begins with {version}, and this is SOCKS5")
    if method == 2 and password is not None:
        await _sign_in(words, password.reveal())
    elif method == 0xFF:
        raise words.credentials(_wanted([], given=password is not None))
    elif method != 0:
        raise words.unreadable(f"it chose method {method}, which was not offered")
    await words.say(b"\x05\x01\x00" + _socks_address(host) + port.to_bytes(2, "big"))
    version, code = await words.hear(2)
    if version != 5:
        raise words.unreadable(f"it begins with {version}, and this is SOCKS5")
    if code in _BEYOND:
        raise words.beyond(_BEYOND[code])
    if code != 0:
        raise words.refused("not allowed by its rules" if code == 2 else f"SOCKS reply {code}")
    _, kind = await words.hear(2)
    length = {1: 4, 4: 16}.get(kind)
    if kind == 3:
        length = (await words.hear(1))[0]
    if length is None:
        raise words.unreadable(f"an address of type {kind}")
    await words.hear(length + 2)


async def _sign_in(words: _Words, password: str) -> None:
    user, secret = words.proxy.user.encode(), password.encode()
    if not (0 < len(user) <= _SOCKS_TEXT_MAX and 0 < len(secret) <= _SOCKS_TEXT_MAX):
        raise words.credentials("takes user names and passwords of 1 to 255 bytes")
    await words.say(b"\x01" + bytes([len(user)]) + user + bytes([len(secret)]) + secret)
    _, verdict = await words.hear(2)
    if verdict != 0:
        raise words.credentials("refused the user name or password")


def _socks_address(host: str) -> bytes:
    """By name where it is one: the proxy resolves it. Raises: Invalid for a name that cannot be asked for."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.strip("[]"))
        return (b"\x01" if address.version == 4 else b"\x04") + address.packed
    name = host.encode("idna") if not host.isascii() else host.encode()
    if len(name) > _SOCKS_TEXT_MAX:
        raise Invalid("DRTP-3013", f"{host[:WORDS_MAX]}… is too long for SOCKS.")
    return b"\x03" + bytes([len(name)]) + name
