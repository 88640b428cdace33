"""Who is measured: DRTP, and each peer that is on this machine.

Programs are looked for in the environment (RATHOLE, HAPROXY, SSH, SSHD), then on PATH; an absent one is skipped and
named. Some carry connections alone.
"""

from __future__ import annotations

import os
import shutil

from bench.tunnel.others import haproxy_pair
from bench.tunnel.ours import direct, drtp, drtp_by_quic, drtp_datagrams, envoy_alone, whole
from bench.tunnel.rathole import rathole
from bench.tunnel.ssh import programs, ssh_forward
from bench.tunnel.ways import Carries, Opens
from drtp.api.drtp import EndpointMode

Peers = dict[tuple[str, Carries], Opens]
"""By name, and by what they carry."""


def found() -> tuple[Peers, list[str]]:
    """(peers on this machine, what is missing and how to name it)."""
    stream, datagrams = Carries.STREAM, Carries.DATAGRAMS
    peers: Peers = {
        ("direct", stream): direct,
        ("direct", datagrams): direct,
        ("drtp", stream): drtp,
        ("drtp", datagrams): drtp_datagrams,
        ("drtp by QUIC", stream): drtp_by_quic,
        ("whole path, Unix hop", stream): whole(EndpointMode.UNIX),
        ("whole path, mutual-TLS hop", stream): whole(EndpointMode.MTLS),
        ("Envoy alone", stream): envoy_alone,
    }
    missing: list[str] = []
    if program := _program("RATHOLE", "rathole"):
        peers |= {("rathole", kind): rathole(program, "tcp", kind) for kind in Carries}
        peers |= {("rathole-tls", kind): rathole(program, "tls", kind) for kind in Carries}
    else:
        missing.append("rathole (RATHOLE=path)")
    if program := _program("HAPROXY", "haproxy"):
        peers["haproxy-pair", stream] = haproxy_pair(program)
    else:
        missing.append("haproxy (HAPROXY=path)")
    if both := programs():
        peers["ssh-forward", stream] = ssh_forward(*both)
    else:
        missing.append("ssh and sshd (SSH=path, SSHD=path)")
    return peers, missing


def _program(variable: str, name: str) -> str | None:
    return os.environ.get(variable) or shutil.which(name)
