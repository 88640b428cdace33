"""What a POP is started with, parsed once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from drtp.api.probing import LONGEST_SOCKET
from drtp.kit.errors import Invalid
from drtp.kit.sockets import PATH_BYTES_MAX

EPHEMERAL_FIRST = 32768
"""From here on the system hands ports out to outgoing connections, which then block a listener."""


@dataclass(frozen=True, slots=True)
class PopSettings:
    """`directory` holds identity (enrolled before the host starts), snapshot and ports; one process may use it.

    `name` is the DRTPServer's (`worker-001-nyc-ac.instance-xyz`). `listeners` are `address:port` where agents dial in;
    `listener_port` is what they are told if it differs from the bound one. Endpoints take ports from `endpoint_ports`
    (first, last) on the first of `endpoint_addresses` that has one free. Port 0 of `health_address` takes a free one.
    `endpoint_sockets`: private directory for the sockets of `unix` endpoints; None: one in `directory`.

    Raises: Invalid DRTP-4022 for a range that reaches into the ephemeral ports or has none, or for a bad address,
    DRTP-5020 for a directory whose sockets would have too long paths.
    """

    directory: Path
    name: str
    pop: str
    latitude: str
    longitude: str
    server_ip: str
    listeners: tuple[str, ...] = ("0.0.0.0:443", "[::]:443")
    listener_port: int | None = None
    quic: bool = False
    """Agents may also come by QUIC, by UDP on the listeners' numbers."""
    endpoint_addresses: tuple[str, ...] = ("127.0.0.1",)
    endpoint_ports: tuple[int, int] = (20000, 29999)
    endpoint_sockets: Path | None = None
    web_certificate: tuple[Path, Path] | None = None
    """Chain and key that the WebSocket at the agents' door shows, PEM files, read at the start."""
    health_address: tuple[str, int] = ("127.0.0.1", 0)
    metrics_address: tuple[str, int] | None = None
    failure_domain: str | None = None
    region: str | None = None
    country: str | None = None
    country_database: Path | None = None
    """Says in which country a visitor is: MaxMind's format, read at the start. Without it nobody's country is known."""
    node_name: str | None = None
    instance_id: str | None = None
    max_connections: int | None = None
    version: str = ""
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        first, last = self.endpoint_ports
        if not 1024 <= first <= last < EPHEMERAL_FIRST:
            raise Invalid("DRTP-4022", f"Endpoint ports {first}-{last} are not within 1024-{EPHEMERAL_FIRST - 1}.")
        if self.endpoint_sockets is not None:
            longest = self.endpoint_sockets / LONGEST_SOCKET
            if len(os.fsencode(longest)) > PATH_BYTES_MAX:
                raise Invalid("DRTP-5020", f"{longest} would be longer than {PATH_BYTES_MAX} bytes.")
        if not self.endpoint_addresses:
            raise Invalid("DRTP-4022", "No address for endpoints is given.")
        for address in self.endpoint_addresses:
            try:
                unspecified = ip_address(address).is_unspecified
            except ValueError:
                raise Invalid("DRTP-4022", f"{address!r} is not an IP address.") from None
            if unspecified:
                raise Invalid("DRTP-4022", f"Gateways cannot dial {address}: name the addresses of the pod network.")
