"""What an embedded instance is made of: the command line of each part."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from drtp.api.probing import LONGEST_SOCKET
from drtp.kit.files import private_directory
from drtp.kit.secret import Secret
from drtp.kit.sockets import socket_directory
from drtp.main.embedded.child import OnDeath, Part
from drtp.main.embedded.layout import Layout
from drtp.main.embedded.operator_client import OperatorClient
from drtp.main.shell import Misused

HOST = "127.0.0.1"
"""An embedded instance listens on loopback only."""
HOST_V6 = "::1"
"""Its gateway on this one too, where the machine has it: browsers try it first for `*.localhost`."""

GATEWAY_NAME = "gateway-1"
HELLO = "hello"
HELLO_NAMESPACE = "default"

CONTROLPLANE, GATEWAY, HELLO_PAGE, HELLO_AGENT = "controlplane", "gateway", "hello-page", "hello"
HELLO_AGENTS = (HELLO_AGENT, "hello-other")
"""The hello service has one agent; while that is replaced, two. Each of these has a state directory of its name."""
USUAL_HOP = "mtls"
"""From gateway to POP: the one that fails no new visitor when a POP freezes."""
DRAIN_S = 5.0
"""What visitors of a part get that stops: long enough for a page, short enough for Ctrl-C."""


@dataclass(frozen=True)
class Place:
    """One POP: `label` in files and options, `server` as DRTPServer name, where it stands (WGS 84)."""

    label: str
    server: str
    pop: str
    failure_domain: str
    latitude: str
    longitude: str


PLACES = (
    Place("pop-1", "worker-001-nyc-ac.embedded", "nyc", "us-east-nyc", "40.7128", "-74.0060"),
    Place("pop-2", "worker-002-fra-ab.embedded", "fra", "eu-central-fra", "50.1109", "8.6821"),
)
"""Two cities that would not fail together."""


def public_addresses() -> tuple[str, ...]:
    """Loopback addresses of this machine: IPv4, and IPv6 where there is one."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((HOST_V6, 0))
    except OSError:
        return (HOST,)
    return (HOST, HOST_V6)


def death_rule(names: tuple[str, ...]) -> Callable[[str], OnDeath]:
    """Which parts stay dead: `--no-restart` names them; `pop` means every POP, a server's name that one.

    Raises: Misused (DRTP-7002) for a name that no part has.
    """
    known = {CONTROLPLANE, GATEWAY, HELLO_PAGE, HELLO_AGENT, "pop"}
    aliases = {place.server: place.label for place in PLACES}
    known |= {*aliases, *aliases.values()}
    unknown = sorted({*names} - known)
    if unknown:
        raise Misused("DRTP-7002", f"No part is called {', '.join(unknown)}.", f"Parts: {', '.join(sorted(known))}.")
    left = {aliases.get(name, name) for name in names}
    if "pop" in left:
        left |= {place.label for place in PLACES}
    return lambda name: OnDeath.LEAVE if name in left else OnDeath.RESTART


@dataclass(frozen=True)
class Composition:
    """Everything needed to write the parts' command lines.

    `suffix` is where hostnames are vended, `public` the addresses of the gateway's listeners, `balancers` the networks
    of what stands in front of them, `hop` the mode of endpoints. `moved`: the data directory was, and the original is
    gone.
    """

    layout: Layout
    ports: dict[str, int]
    public: tuple[str, ...]
    suffix: str
    on_death: Callable[[str], OnDeath]
    operator: OperatorClient
    balancers: tuple[str, ...] = ()
    hop: str = USUAL_HOP
    moved: bool = False
    drain_s: float = DRAIN_S
    controlplane_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it has said that it is ready, the first time: nobody asks it for anything before."""

    @property
    def api(self) -> str:
        """Where the control plane's API answers."""
        return f"https://{HOST}:{self.ports['api']}"

    def controlplane(self) -> Part:
        """API, edge door, controllers, authority."""
        options = [
            *("--data-dir", str(self.layout.root)),
            *("--api-port", str(self.ports["api"])),
            *("--edge-port", str(self.ports["edge"])),
            *("--http-port", str(self.ports["http"])),
            *("--https-port", str(self.ports["https"])),
            *("--suffix", self.suffix),
            *("--hop", self.hop),
            *("--output", "json"),
        ]
        return self._part(CONTROLPLANE, _drtp("controlplane", *options))

    def pop(self, place: Place) -> Part:
        """A tunnel server. Each has a loopback address of its own for endpoints, so that ports never collide."""
        directory = self.layout.pop(place.label)
        options = [
            *("--data-dir", str(directory)),
            *("--name", place.server),
            *("--pop", place.pop),
            *("--failure-domain", place.failure_domain),
            *("--location", f"{place.latitude},{place.longitude}"),
            *("--address", HOST),
            *("--port", str(self.ports[place.label])),
            *("--health-port", str(self.ports[f"{place.label}-health"])),
            *("--endpoint-address", self._endpoint_address(place)),
            *("--endpoint-sockets", str(self._sockets(place))),
            *("--drain", str(self.drain_s)),
            *("--output", "json"),
        ]
        return self._part(place.label, _drtp("pop", *options, *self._moved), join=("pop", place.server))

    def gateway(self) -> Part:
        """The gateway host, with Envoy under it."""
        options = [
            *("--data-dir", str(self.layout.gateway)),
            *("--name", GATEWAY_NAME),
            *(option for address in self.public for option in ("--address", address)),
            *(option for network in self.balancers for option in ("--proxy-protocol-from", network)),
            *(option for place in PLACES for option in ("--pop-sockets", str(self._sockets(place)))),
            *("--drain", str(self.drain_s)),
            *("--output", "json"),
        ]
        return self._part(GATEWAY, _drtp("gateway", *options, *self._moved), join=("gateway", GATEWAY_NAME))

    def hello_page(self) -> Part:
        """The local service of the hello service."""
        options = ("--port", str(self.ports["hello"]), "--context", str(self.layout.context))
        return self._part(HELLO_PAGE, _python("drtp.main.embedded.hello_page", *options))

    def hello_agent(self, name: str = HELLO_AGENT) -> Part:
        """Its agent: the same command that anybody would type. `name`: one of `HELLO_AGENTS`."""
        options = [
            *("--context", str(self.layout.context)),
            "serve",
            f"http://localhost:{self.ports['hello']}",
            *("--name", HELLO),
            *("--namespace", HELLO_NAMESPACE),
            *("--hostname", f"hello.{self.suffix}"),
            *("--state-dir", str(self.layout.agents / name)),
            "--no-inspector",
            *("--drain", str(self.drain_s)),
            *("--output", "json"),
        ]
        part = self._part(HELLO_AGENT, _python("drtp.main.datumctl", *options, *self._moved))
        return replace(part, name=name)

    @property
    def _moved(self) -> tuple[str, ...]:
        return ("--moved",) if self.moved else ()

    def _sockets(self, place: Place) -> Path:
        return socket_directory(private_directory(self.layout.pop(place.label)) / "endpoints", LONGEST_SOCKET, "pop")

    def _endpoint_address(self, place: Place) -> str:
        if not sys.platform.startswith("linux"):
            return HOST
        # All of 127.0.0.0/8 is loopback on Linux: an address that follows from a port of this instance is its own.
        port = self.ports[place.label]
        return f"127.{64 + (port >> 8)}.{port & 255}.1"

    def _part(self, name: str, argv: tuple[str, ...], join: tuple[str, str] | None = None) -> Part:
        return Part(
            name,
            argv,
            self.on_death(name),
            # Its parts trust no public authority; not reading the system's hundreds saves each 80 ms at its start.
            environment={"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull},
            join=None if join is None else lambda: self._join_secret(*join),
        )

    async def _join_secret(self, role: str, name: str) -> Secret[str] | None:
        directory = (
            self.layout.gateway
            if role == "gateway"
            else next(self.layout.pop(place.label) for place in PLACES if place.server == name)
        )
        if has_identity(directory):
            return None
        await self.controlplane_up.wait()
        answer = await self.operator.call("POST", "/v1/secrets", {"role": role, "name": name})
        return Secret(str(answer["secret"]))


def has_identity(directory: Path) -> bool:
    """Whether an edge's directory holds an identity (drtp.client.identity), so that it needs no secret.

    Looked at without importing that module: the supervisor starts quickly without cryptography.
    """
    return (directory / "identity" / "current").is_symlink()


def _drtp(*arguments: str) -> tuple[str, ...]:
    return _python("drtp.main.operator", *arguments)


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    # -P: the working directory is not a place to import from.
    return (sys.executable, "-P", "-m", module, *arguments)
