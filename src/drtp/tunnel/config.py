"""What the core starts with. Defaults that are left out are the core's own, described in drtp-core's `config.rs`."""

from __future__ import annotations

from typing import NamedTuple

from drtp.api.drtp import AppProtocol
from drtp.api.meta import Model
from drtp.kit.secret import Secret

TUNNEL_ALPN = "drtp/1"
"""What a lane's TLS offers; who comes to a POP's door without it is offered a WebSocket."""


class TunnelIdentity(NamedTuple):
    """Leaf first, then intermediates; its key; and the private roots that peers must chain to. All PEM."""

    chain_pem: bytes
    key_pem: Secret[bytes]
    roots_pem: bytes


class Liveness(Model, frozen=True, omit_defaults=False):
    """How soon a silent peer counts as dead, milliseconds: with visitors there, and when idle."""

    ping_ms: int = 800
    dead_ms: int = 2_500
    idle_ping_ms: int = 2_000
    idle_dead_ms: int = 2_500


class CoreLimits(Model, frozen=True, omit_defaults=False):
    """Caps on strangers. `pre_auth_max`: connections of each kind of door that have not yet shown who they are."""

    pre_auth_max: int = 2_048


class WebIdentity(Model, frozen=True):
    """What a POP's WebSocket shows instead of the POP's own certificate. PEM."""

    chain_pem: str
    key_pem: str

    def __repr__(self) -> str:
        """Without the key."""
        return "WebIdentity(****)"


class ServerConfig(Model, frozen=True):
    """A POP's core. `listeners` are `address:port` (`[v6]:port`) where agents dial in; port 0 takes a free one.

    `pulse`: path of a Unix socket at which the driver answers whoever asks whether it runs.
    """

    listeners: tuple[str, ...]
    liveness: Liveness = Liveness()
    limits: CoreLimits = CoreLimits()
    web: WebIdentity | None = None
    country_database: str | None = None
    """The file that says in which country an address is; unknown where absent."""
    pulse: str | None = None
    quic: bool = False
    """Agents may also come by QUIC: UDP on the numbers of `listeners`."""


class TargetTls(Model, frozen=True):
    """Trust in an `https` target, decided on the agent's own side: its roots (PEM; the system's when absent), or
    exactly one leaf (base64 of DER).
    """

    server_name: str | None = None
    roots_pem: str | None = None
    pinned_leaf_der: str | None = None


class Target(Model, frozen=True):
    """The one place that the agent dials for a service. `tls` present: it originates TLS."""

    host: str
    port: int
    tls: TargetTls | None = None
    app_protocol: AppProtocol = AppProtocol.HTTP1


class ProxyHop(Model, frozen=True):
    """A proxy as the core speaks to it: `connect` or `socks5`. `credentials` are user name and password."""

    kind: str
    host: str
    port: int
    credentials: tuple[str, str] | None = None

    def __repr__(self) -> str:
        """Without credentials."""
        return f"ProxyHop({self.kind} {self.host}:{self.port})"


class Way(Model, frozen=True):
    """How a POP is reached: straight or by a proxy, as itself or inside a WebSocket; or straight by QUIC."""

    proxy: ProxyHop | None = None
    web_socket: bool = False
    quic: bool = False

    @property
    def kind(self) -> str:
        """As the core names it in `TunnelUp`."""
        if self.quic:
            return "quic"
        hop = self.proxy.kind if self.proxy else "direct"
        return f"{hop}+websocket" if self.web_socket else hop


class Ways(Model, frozen=True):
    """The ways to one POP, in the order of preference. `first`: the one to begin with, for it worked last."""

    ways: tuple[Way, ...]
    first: int = 0


class GatewayConfig(Model, frozen=True):
    """A gateway's core, which brings UDP flows, or a connector's, which brings streams. `epoch` as an agent's."""

    epoch: int
    liveness: Liveness = Liveness()


class AgentConfig(Model, frozen=True):
    """An agent's core. `targets` by `<namespace>/<name>` of the service; `allow_target` lets the plan name one."""

    epoch: int
    targets: dict[str, Target] = {}
    allow_target: bool = False
    liveness: Liveness = Liveness()
    lanes: int = 1
