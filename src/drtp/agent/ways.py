"""The ways by which the core may reach each POP, in order, and what worked in which network.

By a proxy that a variable names: the proxy first, and straight only where the proxy is not there. By a proxy that was
chosen for this program: by it alone. Each as itself first, then inside a WebSocket. What worked last in this network
goes before; the core looks for a better one by itself. docs/decisions/0041. QUIC, where it is asked for, comes before
all others, but never where a proxy is in force: it would go around it. docs/decisions/0058.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from drtp.api.snapshots import PlanServer
from drtp.client.proxies import Proxies, Proxy
from drtp.kit.errors import Terminal
from drtp.kit.files import read_private, write_atomic
from drtp.kit.observe import logger
from drtp.tunnel import ProxyHop, Way, Ways

log = logger("agent")

FILE = "ways.json"
NETWORKS_MAX = 32
"""A laptop's networks; the one that was left longest ago is forgotten."""


def ways_to(host: str, port: int, rules: Proxies, *, quic: bool = False) -> tuple[Way, ...]:
    """All ways to a POP, the preferred one first."""
    proxy = rules.to(host, port)
    hops = [None] if proxy is None else [_hop(proxy)] if rules.chosen else [_hop(proxy), None]
    by_quic = (Way(quic=True),) if quic and proxy is None else ()
    return by_quic + tuple(Way(hop, web_socket) for hop in hops for web_socket in (False, True))


def ways_of(
    servers: Iterable[PlanServer], rules: Proxies, worked: str | None, *, quic: bool = False
) -> dict[str, Ways]:
    """By server uid; `worked` is the kind of way to begin with."""
    found: dict[str, Ways] = {}
    for server in servers:
        ways = ways_to(server.address, server.port, rules, quic=quic)
        kinds = [way.kind for way in ways]
        found[server.server] = Ways(ways, kinds.index(worked) if worked in kinds else 0)
    return found


def _hop(proxy: Proxy) -> ProxyHop:
    pair = (proxy.user, proxy.password.reveal()) if proxy.password is not None else None
    return ProxyHop(proxy.kind.value, proxy.host, proxy.port, pair)


class WayMemory:
    """Network -> the kind of way that worked last there, in the state directory. Losing it costs a slower start."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._known = self._load()

    def worked(self, network: str) -> str | None:
        """The kind of way that worked last in `network`."""
        return self._known.get(network)

    def remember(self, network: str, kind: str) -> None:
        """It worked just now."""
        if self._known.get(network) == kind:
            return
        self._known.pop(network, None)
        self._known[network] = kind
        while len(self._known) > NETWORKS_MAX:
            del self._known[next(iter(self._known))]
        try:
            write_atomic(self._path, msgspec.json.encode(self._known))
        except OSError as error:
            log.warning("way not remembered", error=str(error))

    def _load(self) -> dict[str, str]:
        with contextlib.suppress(OSError, msgspec.DecodeError, Terminal):
            return msgspec.json.decode(read_private(self._path), type=dict[str, str])
        return {}


def place(network: str, rules: Proxies) -> str:
    """The key of a network's memory: another proxy makes another place of it."""
    return f"{network} by {rules.proxy.host}:{rules.proxy.port}" if rules.proxy else network
