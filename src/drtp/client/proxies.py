"""Which proxy leads to a place: `--proxy` or `DRTP_PROXY`, else the variables that every tool reads. Pure.

Lower-case names go before upper-case ones, `https_proxy` before `all_proxy`, and `no_proxy` exempts, as curl and Go
have it. Loopback is never behind a proxy of a variable, which is made for the whole machine; `DRTP_PROXY` is meant.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote, urlsplit

from drtp.kit.errors import Invalid
from drtp.kit.secret import Secret

VARIABLE = "DRTP_PROXY"
DIRECT = "direct"
"""The value of `DRTP_PROXY` that asks for no proxy, whatever other variables say."""
_STANDARD = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_EXEMPT = ("no_proxy", "NO_PROXY")
_HTTP_PORT, _SOCKS_PORT = 80, 1080


class ProxyKind(Enum):
    """How a proxy is spoken to. SOCKS5 always resolves names itself."""

    CONNECT = "connect"
    SOCKS5 = "socks5"


_SCHEMES = {"http": ProxyKind.CONNECT, "socks5": ProxyKind.SOCKS5, "socks5h": ProxyKind.SOCKS5}


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it is, and who we are there. `str` is for people: without credentials."""

    kind: ProxyKind
    host: str
    port: int
    user: str = ""
    password: Secret[str] | None = None

    def __str__(self) -> str:
        """A URL; that there are credentials shows, they do not."""
        scheme = "http" if self.kind is ProxyKind.CONNECT else "socks5"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{'****@' if self.password else ''}{host}:{self.port}"

    def __repr__(self) -> str:
        """Masked."""
        return f"Proxy({self})"


@dataclass(frozen=True, slots=True)
class Proxies:
    """What is in force. `chosen`: it was meant for this program, so nothing else is tried. `source`: the variable."""

    proxy: Proxy | None = None
    source: str = ""
    chosen: bool = False
    exempt: tuple[str, ...] = ()

    def to(self, host: str, port: int) -> Proxy | None:
        """The proxy that leads to `host:port`; None: straight."""
        if self.proxy is None or (not self.chosen and (_is_loopback(host) or self.exempts(host, port))):
            return None
        return self.proxy

    def exempts(self, host: str, port: int) -> bool:
        """Whether `no_proxy` names it: by name, domain, address, network or `*`, each with a port or without."""
        return any(_matches(entry, host.lower().rstrip("."), port) for entry in self.exempt)


def proxies(environment: Mapping[str, str] | None = None) -> Proxies:
    """What the environment says. Raises: Invalid DRTP-3013 for a value that is no proxy, without repeating it."""
    environment = os.environ if environment is None else environment
    own = environment.get(VARIABLE, "").strip()
    if own == DIRECT:
        return Proxies(source=VARIABLE, chosen=True)
    if own:
        return Proxies(parse_proxy(own, VARIABLE), VARIABLE, chosen=True)
    source = next((name for name in _STANDARD if environment.get(name, "").strip()), None)
    if source is None:
        return Proxies()
    exempt = next((value for name in _EXEMPT if (value := environment.get(name, "").strip())), "")
    return Proxies(
        parse_proxy(environment[source].strip(), source), source, exempt=tuple(exempt.replace(",", " ").split())
    )


def parse_proxy(written: str, source: str) -> Proxy:
    """A proxy's URL; without a scheme it is HTTP. Raises: Invalid DRTP-3013, without repeating what may be a secret."""
    url = written if "://" in written else f"http://{written}"
    try:
        parts = urlsplit(url)
        kind, host, port = _SCHEMES.get(parts.scheme.lower()), parts.hostname, parts.port
    except ValueError:
        kind, host, port = None, None, None
        parts = urlsplit("")
    if kind is None or not host or port == 0:
        scheme = f" ({parts.scheme}://)" if parts.scheme and kind is None else ""
        raise Invalid("DRTP-3013", f"{source} names no proxy that can be used{scheme}.")
    usual = _HTTP_PORT if kind is ProxyKind.CONNECT else _SOCKS_PORT
    password = Secret(unquote(parts.password or "")) if parts.username is not None else None
    return Proxy(kind, host, port or usual, unquote(parts.username or ""), password)


def has_credentials(written: str) -> bool:
    """Whether a proxy's URL carries some: such a one is no argument, which every user of the machine may read."""
    return "@" in written


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, its_port = _split(entry.lower())
    if its_port is not None and its_port != port:
        return False
    address = _address(host)
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        domain = name.removeprefix("*").strip(".")
        return address is None and bool(domain) and (host == domain or host.endswith(f".{domain}"))
    return address is not None and address.version == network.version and address in network


def _split(entry: str) -> tuple[str, int | None]:
    """`name:port`, `[v6]:port`, or the name alone."""
    name, colon, port = entry.rpartition(":")
    if colon and port.isdecimal() and (":" not in name or name.endswith("]")):
        return name.strip("[]"), int(port)
    return entry.strip("[]"), None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host.lower().rstrip(".") == "localhost" if address is None else address.is_loopback
