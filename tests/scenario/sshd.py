"""What an sshd on loopback is started with, which is not root and lets in whoever has its client's key."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path


def keys(home: Path) -> list[Path]:
    """Of the daemon and of the client, `user`; who has the client's is let in. Gives what the daemon reads."""
    for key in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / key)]
        subprocess.run(make, check=True, capture_output=True)
    (home / "authorized").write_text((home / "user.pub").read_text())
    return [home / name for name in ("host", "user", "authorized")]


def account(who: dict[str, object]) -> str:
    """An sshd that is not root lets in nobody but its own account."""
    return pwd.getpwuid(int(str(who.get("user", os.geteuid())))).pw_name


def config(home: Path, port: int) -> str:
    """Its configuration, for the keys in `home`."""
    return (
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home / 'host'}\nAuthorizedKeysFile {home / 'authorized'}\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxSessions 4000\n"
        "Subsystem sftp internal-sftp\n"
    )
