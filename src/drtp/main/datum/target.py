"""What `serve` is given on the command line: `8080`, `localhost:8080`, `https://intranet`, `tcp://db:5432`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from drtp.api.drtp import AppProtocol, LocalService, LocalTls, Protocol
from drtp.kit.errors import Invalid

_SCHEMES: dict[str, tuple[Protocol, int | None]] = {
    "http": (Protocol.HTTP, 80),
    "h2c": (Protocol.HTTP, 80),
    "https": (Protocol.HTTPS, 443),
    "tcp": (Protocol.TCP, None),
    "tls": (Protocol.TLS, 443),
    "udp": (Protocol.UDP, None),
}
"""Scheme -> protocol of the service, and the port meant when none is written. TCP and UDP have no usual port."""

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """A local service as the agent reaches it. `written` is what the user typed, in full form."""

    protocol: Protocol
    local: LocalService

    @property
    def written(self) -> str:
        """`http://localhost:8080`: the canonical form, equal for equal targets."""
        scheme = "h2c" if self.local.app_protocol is AppProtocol.H2C else self.protocol.value.lower()
        return f"{scheme}://{host_port(self.local.host, self.local.port)}"


def host_port(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 literal."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_target(text: str) -> Target:
    """Read one target. A bare port means HTTP on localhost, `host:port` means HTTP.

    Raises: Invalid (DRTP-7004) with a sentence that names the fault.
    """
    written = text.strip()
    if re.fullmatch(r"\d+", written):
        written = f"localhost:{written}"
    if "://" not in written:
        written = f"http://{written}"
    try:
        parts = urlsplit(written)
        port = parts.port
    except ValueError as fault:
        raise _not_understood(text, str(fault)) from fault
    if parts.scheme not in _SCHEMES:
        raise _not_understood(text, f"the scheme {parts.scheme} is not known")
    protocol, usual_port = _SCHEMES[parts.scheme]
    _refuse_extras(text, parts)
    port = port if port is not None else usual_port
    if not port:
        raise _not_understood(text, "a port is missing")
    host = _host(text, parts.hostname or "")
    return Target(
        protocol,
        LocalService(
            host=host,
            port=port,
            app_protocol=AppProtocol.H2C if parts.scheme == "h2c" else AppProtocol.HTTP1,
            tls=LocalTls() if protocol is Protocol.HTTPS else None,
        ),
    )


def _refuse_extras(text: str, parts: SplitResult) -> None:
    if parts.username is not None or parts.password is not None:
        raise _not_understood(text, "a user or password has no place in it")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _not_understood(text, "only a whole host and port can be served, not a path below it")


def _host(text: str, host: str) -> str:
    if not host:
        raise _not_understood(text, "a host is missing")
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        if host.rpartition(".")[2].isdecimal():
            # No top-level domain is a number, so no resolver can make an address of it.
            raise _not_understood(text, f"{host} is no IP address; four numbers up to 255 are one") from None
        if not _HOST.fullmatch(host):
            raise _not_understood(text, f"{host!r} is not a host name") from None
        return host.lower()


def _not_understood(text: str, why: str) -> Invalid:
    return Invalid("DRTP-7004", f"Cannot serve {text!r}: {why}.")
