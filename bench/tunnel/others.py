"""Two HAProxy, and `ssh -L`: what people use today instead of a tunnel."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Generator
from pathlib import Path

from bench.tunnel.load import Address
from bench.tunnel.ways import Opens, Way, answers, free_port, listens, running


def haproxy_pair(program: str) -> Opens:
    """Two HAProxy in TCP mode, one behind the other: what two relays cost without a tunnel's protocol."""

    @contextlib.contextmanager
    def open_path(service: Address, scratch: Path) -> Generator[Way]:
        ports = [free_port(), free_port()]
        hops = [(ports[0], ports[1]), (ports[1], service[1])]
        with contextlib.ExitStack() as stack:
            pids: list[int] = []
            for number, (listen, forward) in enumerate(hops):
                config = scratch / f"haproxy-{number}.cfg"
                config.write_text(
                    "global\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n"
                    f"  timeout server 60s\nlisten relay\n  bind 127.0.0.1:{listen}\n"
                    f"  server next 127.0.0.1:{forward}\n"
                )
                argv = [program, "-db", "-f", config]
                pids.append(stack.enter_context(running(argv, scratch / f"haproxy-{number}.log")).pid)
            answers(("127.0.0.1", ports[0]))
            yield Way(("127.0.0.1", ports[0]), tuple(pids))

    return open_path


def ssh_forward(ssh: str, sshd: str) -> Opens:
    """`ssh -L` through an sshd of its own, both on loopback."""

    @contextlib.contextmanager
    def open_path(service: Address, scratch: Path) -> Generator[Way]:
        port, endpoint = free_port(), free_port()
        scratch.chmod(0o700)
        for key in ("host", "user"):
            if not (scratch / key).exists():
                make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(scratch / key)]
                subprocess.run(make, check=True, capture_output=True)
        (scratch / "authorized").write_text((scratch / "user.pub").read_text())
        (scratch / "sshd.conf").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {scratch / 'host'}\n"
            f"AuthorizedKeysFile {scratch / 'authorized'}\n"
            f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxSessions 4000\n"
        )
        forward = f"127.0.0.1:{endpoint}:127.0.0.1:{service[1]}"
        options = [
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "ExitOnForwardFailure=yes",
        ]
        client = [ssh, "-N", "-i", scratch / "user", "-p", str(port), *options, "-L", forward, "127.0.0.1"]
        with running([sshd, "-D", "-e", "-f", scratch / "sshd.conf"], scratch / "sshd.log") as one:
            listens(("127.0.0.1", port))
            with running(client, scratch / "ssh.log") as other:
                answers(("127.0.0.1", endpoint))
                yield Way(("127.0.0.1", endpoint), (one.pid, other.pid))

    return open_path
