"""Who is measured: DRTP, and each peer that is on this machine.

Programs are looked for in the environment (RATHOLE, HAPROXY, SSH, SSHD), then on PATH; an absent one is skipped and
named.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bench.tunnel.others import haproxy_pair, ssh_forward
from bench.tunnel.ours import direct, drtp
from bench.tunnel.rathole import rathole
from bench.tunnel.ways import Opens


def found() -> tuple[dict[str, Opens], list[str]]:
    """(peers on this machine by name, what is missing and how to name it)."""
    peers: dict[str, Opens] = {"direct": direct, "drtp": drtp}
    missing: list[str] = []
    if program := _program("RATHOLE", "rathole"):
        peers |= {"rathole": rathole(program, "tcp"), "rathole-tls": rathole(program, "tls")}
    else:
        missing.append("rathole (RATHOLE=path)")
    if program := _program("HAPROXY", "haproxy"):
        peers["haproxy-pair"] = haproxy_pair(program)
    else:
        missing.append("haproxy (HAPROXY=path)")
    ssh, sshd = _program("SSH", "ssh"), _program("SSHD", "sshd") or _existing("/usr/sbin/sshd")
    if ssh and sshd:
        peers["ssh-forward"] = ssh_forward(ssh, sshd)
    else:
        missing.append("ssh and sshd (SSH=path, SSHD=path)")
    return peers, missing


def _program(variable: str, name: str) -> str | None:
    return os.environ.get(variable) or shutil.which(name)


def _existing(path: str) -> str | None:
    return path if Path(path).exists() else None
