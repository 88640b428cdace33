"""`ssh -L` as a way: a client and an sshd of its own, on loopback, neither of them root."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from bench.tunnel.load import Address
from bench.tunnel.ways import Opens, Way, answers, free_port, listens, running
from scenario.database import given_to, unprivileged

_SSHD = "/usr/sbin/sshd"
"""Where it is usually, outside of most people's PATH."""
_CLIENT = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ExitOnForwardFailure=yes")


def programs() -> tuple[str, str] | None:
    """(ssh, sshd) by SSH and SSHD, else on PATH; None where one of them is not here."""
    ssh = os.environ.get("SSH") or shutil.which("ssh")
    sshd = os.environ.get("SSHD") or shutil.which("sshd") or (_SSHD if os.access(_SSHD, os.X_OK) else None)
    return (ssh, sshd) if ssh and sshd else None


def ssh_forward(ssh: str, sshd: str, ready: Callable[[Address], None] = answers) -> Opens:
    """`ready` waits until a visitor is served at the client's end."""

    @contextlib.contextmanager
    def open_path(service: Address, scratch: Path) -> Generator[Way]:
        port, endpoint = free_port(), ("127.0.0.1", free_port())
        who = unprivileged("daemon")  # which has no password that sshd could take for locked
        # Not under `scratch`, which may be closed to them.
        with tempfile.TemporaryDirectory(prefix="drtp-ssh-") as name:
            home = Path(name)
            given_to(who, home, *_keys(home))
            (home / "sshd.conf").write_text(_config(home, port))
            (home / "sshd.conf").chmod(0o644)
            forward = f"{endpoint[0]}:{endpoint[1]}:{service[0]}:{service[1]}"
            options = [word for option in _CLIENT for word in ("-o", option)]
            login = ["-l", _account(who), "-i", home / "user", "-p", str(port), *options, "127.0.0.1"]
            with running([sshd, "-D", "-e", "-f", home / "sshd.conf"], scratch / "sshd.log", cwd=home, **who) as daemon:
                listens(("127.0.0.1", port))
                with running([ssh, "-N", "-L", forward, *login], scratch / "ssh.log", cwd=home, **who) as client:
                    ready(endpoint)
                    yield Way(endpoint, (daemon.pid, client.pid))

    return open_path


def _keys(home: Path) -> list[Path]:
    """Of the daemon and of the client; who has the client's is let in."""
    for key in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / key)]
        subprocess.run(make, check=True, capture_output=True)
    (home / "authorized").write_text((home / "user.pub").read_text())
    return [home / name for name in ("host", "user", "authorized")]


def _account(who: dict[str, object]) -> str:
    """An sshd that is not root lets in nobody but its own account."""
    return pwd.getpwuid(int(str(who.get("user", os.geteuid())))).pw_name


def _config(home: Path, port: int) -> str:
    return (
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home / 'host'}\nAuthorizedKeysFile {home / 'authorized'}\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxSessions 4000\n"
    )
