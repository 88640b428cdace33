"""What `serve` was asked for, parsed once."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from drtp.agent.settings import LocalAddress
from drtp.api.drtp import Protocol, ProxyProtocol
from drtp.client.joining import EdgeAddress
from drtp.kit.secret import Secret
from drtp.main.commands.options import OutputForm
from drtp.main.datum.target import Target
from drtp.main.shell import Misused


@dataclass(frozen=True)
class ServeRequest:
    """One service to serve. None means "not said": what exists is kept.

    `name` is the service's; `predefined`: it must exist already, and is not changed. `allow` empty means not said.
    """

    name: str
    namespace: str | None
    target: Target | None
    predefined: bool = False
    hostname: str | None = None
    port: int | None = None
    address: str | None = None
    allow: tuple[str, ...] = ()
    proxy_protocol: ProxyProtocol | None = None
    host_header: str | None = None
    expose: bool = True
    wait_for_enable: bool = False
    trust: Path | None = None


@dataclass(frozen=True)
class ServeSettings:
    """How to go about it. `state_dir` None: derived from the service; `inspector` None: no local status pages."""

    requests: tuple[ServeRequest, ...]
    file: Path | None = None
    """Where the requests were read from, and are read again at SIGHUP."""
    secret: Secret[str] | None = None
    identity_token: Path | None = None
    """A file in which whoever runs this workload keeps a fresh ID token of it."""
    control_plane: EdgeAddress | None = None
    """Where to enrol; None: where the context's API says."""
    state_dir: Path | None = None
    location: tuple[str, str] | None = None
    once: bool = False
    allow_target: bool = False
    moved: bool = False
    """The state directory was moved, and the original is gone."""
    inspector: LocalAddress | None = None
    drain_s: float = 30.0
    quic: bool = False
    """By QUIC where it gets through."""
    output: OutputForm = OutputForm.TEXT


def networks(written: tuple[str, ...]) -> tuple[str, ...]:
    """CIDRs in canonical form; a bare address means itself. Raises: Misused (DRTP-7002) naming the wrong one."""
    parts = (part.strip() for text in written for part in text.split(","))
    return tuple(dict.fromkeys(str(_network(part)) for part in parts))


def _network(written: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Host bits are not forgiven: `10.0.0.7/8` may mean one machine or sixteen million."""
    try:
        return ipaddress.ip_network(written)
    except ValueError as fault:
        said = f"--allow {written!r} is no network."
        advice = "Give networks such as 203.0.113.0/24 or 2001:db8::/32; 0.0.0.0/0 is any IPv4 visitor."
        with contextlib.suppress(ValueError):
            meant = ipaddress.ip_interface(written)
            said = f"--allow {written!r} is one address and a network at once."
            advice = f"Give {meant.network} for the whole network, or {meant.ip} for the one machine."
        raise Misused("DRTP-7002", said, advice) from fault


def check(request: ServeRequest) -> ServeRequest:
    """Refuse combinations that cannot mean anything. Raises: Misused (DRTP-7002)."""
    protocol = request.target.protocol if request.target else None
    if not request.expose and (request.hostname or request.port or request.address):
        raise Misused("DRTP-7002", "--no-expose leaves no place for --hostname, --port or --address.", "Drop one side.")
    if protocol is Protocol.UDP and request.proxy_protocol is ProxyProtocol.V1:
        raise Misused("DRTP-7002", "Version 1 of the PROXY protocol has no UDP.", "Use --proxy-protocol v2.")
    if request.hostname and protocol in (Protocol.TCP, Protocol.UDP):
        raise Misused(
            "DRTP-7002",
            f"{protocol.value} visitors do not say which host they want, so --hostname cannot select the service.",
            "Use --port, or tls:// if visitors speak TLS.",
        )
    if (request.port or request.address) and protocol not in (None, Protocol.TCP, Protocol.UDP):
        raise Misused(
            "DRTP-7002",
            "HTTP and TLS visitors come to the gateway's own ports, so --port and --address select nothing.",
            "Use --hostname, or tcp:// or udp:// for a port of its own.",
        )
    if request.host_header and protocol not in (None, Protocol.HTTP, Protocol.HTTPS):
        raise Misused("DRTP-7002", "--host-header is for HTTP services.", "Drop it.")
    if request.trust and protocol is not Protocol.HTTPS:
        raise Misused("DRTP-7002", "--trust is for https:// targets.", "Name the target with https://.")
    return request
