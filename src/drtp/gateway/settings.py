"""What one gateway host is told at its start, parsed once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from drtp.kit.files import private_directory
from drtp.kit.sockets import socket_directory

LONGEST_SOCKET = "h_udp_parent_9999999990"
"""Of the sockets in `run`; Envoy names those of its hot restarts."""
BASE_IDS = 99_999_999
"""Ten times as many are still numbers to Envoy."""


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """directory: private, holds identity, snapshot, sockets and logs. name and addresses are registered as they stand.

    envoy: path of a binary; None: ENVOY, else the one installed with the package. metrics_port: on loopback, 0 picks,
    None: none. concurrency: Envoy's worker threads, 0: one for each core. connections_max: visitors at a time, 0: what
    the descriptors allow. heap_bytes_max: of Envoy, 0: half of this machine's memory. drain_timeout_s: for visitors of
    an Envoy that stops or is replaced. proxy_protocol_from: networks of load balancers in front, if any
    (`balancers_of`). pop_sockets: directories in which POPs of this machine may have their endpoints' sockets.
    conceal_visitors: who comes is said inside TLS only, at the price of `clusters.front_cluster`'s second proxy.
    """

    directory: Path
    name: str
    addresses: tuple[str, ...] = ()
    envoy: Path | None = None
    metrics_port: int | None = None
    concurrency: int = 0
    connections_max: int = 0
    heap_bytes_max: int = 0
    drain_timeout_s: float = 5.0
    proxy_protocol_from: tuple[str, ...] = ()
    pop_sockets: tuple[Path, ...] = ()
    conceal_visitors: bool = False
    probe_interval_s: float = 1.0
    access_log_bytes_max: int = 64 * 2**20
    access_logs_kept: int = 5


class Paths(msgspec.Struct, frozen=True):
    """Where things are. Sockets stand in `run`, which is short enough for the kernel however long the directory is."""

    directory: Path
    run: Path

    @property
    def ads_socket(self) -> Path:
        """Discovery and access logs."""
        return self.run / "xds.sock"

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin: it can stop Envoy, so it is 0600 and no port."""
        return self.run / "admin.sock"

    @property
    def hot_socket(self) -> Path:
        """How the names of Envoy's sockets for hot restarts begin: over them it hands its listeners to the next one."""
        return self.run / "h"

    @property
    def base_id(self) -> int:
        """Names what Envoys of one directory share, and nobody else: a little memory, and the sockets above."""
        digest = hashlib.blake2b(f"{os.getuid()}:{self.directory}".encode(), digest_size=8).digest()
        return 1 + int.from_bytes(digest, "big") % (BASE_IDS - 1)

    @property
    def bootstrap(self) -> Path:
        """Envoy's bootstrap."""
        return self.directory / "envoy.json"

    @property
    def process(self) -> Path:
        """Which Envoy is ours: pid and start time."""
        return self.directory / "envoy.process.json"

    @property
    def envoy_log(self) -> Path:
        """What Envoy says of itself."""
        return self.directory / "envoy.log"

    @property
    def access_log(self) -> Path:
        """Access log, written by the host."""
        return self.directory / "access.jsonl"

    @property
    def audit_log(self) -> Path:
        """Access log, written by Envoy, complete also while no host runs."""
        return self.directory / "audit.jsonl"

    @property
    def epoch(self) -> Path:
        """The newest epoch of this gateway's core."""
        return self.directory / "epoch"

    @property
    def lock(self) -> Path:
        """One host for each directory."""
        return self.directory / "gateway.lock"


def paths(directory: Path) -> Paths:
    """Paths for this directory, made private. Sockets move to the temporary directory if it is too long for them."""
    directory = private_directory(directory.absolute())
    return Paths(directory=directory, run=socket_directory(directory / "run", LONGEST_SOCKET, "gateway"))
