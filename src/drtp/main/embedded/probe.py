"""Whether a public HTTP address answers through the whole way."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

_TIMEOUT_S = 2.0
PROXY_LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
"""A PROXY v2 header as load balancers send it before their own health checks: nobody else is meant."""


def answers(url: str, address: str, preface: bytes = b"") -> bool:
    """Whether `url` gives 200 when dialled at `address`: its `*.localhost` name need not resolve for us.

    `preface` goes before the request.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(address, parts.port or 80, timeout=_TIMEOUT_S)
    try:
        connection.connect()
        connection.sock.sendall(preface)
        connection.request("GET", parts.path or "/", headers={"Host": parts.netloc, "User-Agent": "drtp-up"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
