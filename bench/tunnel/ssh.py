"""`ssh` as a way: clients and an sshd of their own, on loopback, none of them root."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from bench.tunnel.load import Address
from bench.tunnel.ways import Opens, Way, answers, free_port, listens, running
from scenario.database import given_to, unprivileged
from scenario.sshd import account, config, keys

_SSHD = "/usr/sbin/sshd"
"""Where it is usually, outside of most people's PATH."""
_CLIENT = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ExitOnForwardFailure=yes")


def programs() -> tuple[str, str] | None:
    """(ssh, sshd) by SSH and SSHD, else on PATH; None where one of them is not here."""
    ssh = os.environ.get("SSH") or shutil.which("ssh")
    sshd = os.environ.get("SSHD") or shutil.which("sshd") or (_SSHD if os.access(_SSHD, os.X_OK) else None)
    return (ssh, sshd) if ssh and sshd else None


def ssh_forward(ssh: str, sshd: str, ready: Callable[[Address], None] = answers) -> Opens:
    """`ssh -L` to an sshd that reaches the service. `ready` waits until a visitor is served at the client's end."""

    @contextlib.contextmanager
    def open_path(service: Address, scratch: Path) -> Generator[Way]:
        endpoint = ("127.0.0.1", free_port())
        with _daemon(sshd, scratch) as host, host.client(ssh, scratch / "ssh.log", "-L", endpoint, service) as client:
            ready(endpoint)
            yield Way(endpoint, (host.pid, client))

    return open_path


def ssh_bastion(ssh: str, sshd: str, ready: Callable[[Address], None] = answers) -> Opens:
    """Both ends dial out, as agent and connector do: `ssh -R` from the service to a bastion, `ssh -L` to it."""

    @contextlib.contextmanager
    def open_path(service: Address, scratch: Path) -> Generator[Way]:
        middle, endpoint = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
        with (
            _daemon(sshd, scratch) as host,
            host.client(ssh, scratch / "serving.log", "-R", middle, service) as serving,
            host.client(ssh, scratch / "calling.log", "-L", endpoint, middle) as calling,
        ):
            ready(endpoint)
            yield Way(endpoint, (host.pid, serving, calling))

    return open_path


@dataclass(frozen=True)
class _Daemon:
    """A running sshd and how to log in there."""

    pid: int
    port: int
    home: Path
    who: dict[str, object]

    @contextlib.contextmanager
    def client(self, ssh: str, log: Path, way: str, here: Address, there: Address) -> Generator[int]:
        """A client that forwards (`-L`, `-R`) from `here` to `there` while the block runs; gives its pid."""
        options = [word for option in _CLIENT for word in ("-o", option)]
        login = ["-l", account(self.who), "-i", self.home / "user", "-p", str(self.port), *options, "127.0.0.1"]
        forward = f"{here[0]}:{here[1]}:{there[0]}:{there[1]}"
        with running([ssh, "-N", way, forward, *login], log, cwd=self.home, **self.who) as process:
            yield process.pid


@contextlib.contextmanager
def _daemon(sshd: str, scratch: Path) -> Generator[_Daemon]:
    port = free_port()
    who = unprivileged("daemon")  # which has no password that sshd could take for locked
    # Not under `scratch`, which may be closed to them.
    with tempfile.TemporaryDirectory(prefix="drtp-ssh-") as name:
        home = Path(name)
        given_to(who, home, *keys(home))
        settings = home / "sshd.conf"
        settings.write_text(config(home, port))
        settings.chmod(0o644)
        with running([sshd, "-D", "-e", "-f", settings], scratch / "sshd.log", cwd=home, **who) as process:
            listens(("127.0.0.1", port))
            yield _Daemon(process.pid, port, home, who)
