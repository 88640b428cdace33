"""OpenSSH through `connect --stdio`, as its ProxyCommand, and as many at once as people open."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scenario.bed import BIN, Bed, eventually, free_port, require
from scenario.database import given_to, unprivileged
from scenario.sshd import account, config, keys


class Host:
    """An sshd that lets in whoever has its client's key, as the account that it runs as."""

    def __init__(self, home: Path, port: int, account: str) -> None:
        self.home = home
        self.port = port
        self._account = account

    def sftp(self, bed: Bed, service: str) -> list[str]:
        """The client's command line, by way of `connect`."""
        proxy = f"{BIN / 'datumctl'} --context {bed.ready['context']} connect {service} --stdio"
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", f"ProxyCommand={proxy}")
        chosen = [word for option in options for word in ("-o", option)]
        return [require("sftp"), "-q", "-i", str(self.home / "user"), *chosen, f"{self._account}@behind.example"]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    sshd, _ = require("sshd"), require("ssh-keygen")
    who, port = unprivileged("daemon"), free_port()
    with tempfile.TemporaryDirectory(prefix="drtp-sshd-") as name:
        home = Path(name)
        home.chmod(0o755)
        keys(home)
        (home / "words").write_text("behind the tunnel\n")
        given_to(who, home, *(home / one for one in ("host", "authorized")))
        settings = home / "sshd.conf"
        settings.write_text(config(home, port))
        with (home / "sshd.log").open("w") as log:
            server = subprocess.Popen([sshd, "-D", "-e", "-f", str(settings)], stderr=log, cwd=home, **who)  # type: ignore[call-overload]
        try:
            yield Host(home, port, account(who))
        finally:
            server.terminate()
            server.wait(10)


def test_two_sessions_of_ssh_at_once_each_have_a_way_of_their_own(bed: Bed, host: Host, tmp_path: Path) -> None:
    serving = bed.run("serve", f"tcp://localhost:{host.port}", "--name", "sx-ssh", "--no-expose", "--output", "json")
    serving.event("ready", 30.0)
    line = host.sftp(bed, "default/sx-ssh")
    log = (tmp_path / "first.log").open("w+")
    first = subprocess.Popen(
        [*line[:1], "-b", "-", *line[1:]], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=bed.env
    )
    assert first.stdin is not None
    first.stdin.write(f"get {host.home}/words {tmp_path}/one\n")
    first.stdin.flush()
    with contextlib.suppress(AssertionError):  # its log says more
        eventually(lambda: _has(tmp_path / "one") or first.poll() is not None, 15)
    assert _has(tmp_path / "one"), Path(log.name).read_text()
    for number in range(2):  # the second finds the directory that the first has left
        batch = f"get {host.home}/words {tmp_path}/two-{number}\n"
        second = subprocess.run(
            [*line[:1], "-b", "-", *line[1:]],
            input=batch, capture_output=True, text=True, env=bed.env, timeout=60, check=False,
        )  # fmt: skip
        assert second.returncode == 0, second.stderr
        assert _has(tmp_path / f"two-{number}")
    first.stdin.write(f"get {host.home}/words {tmp_path}/three\n")
    first.stdin.close()
    assert first.wait(60) == 0, Path(log.name).read_text()
    assert _has(tmp_path / "three")
    log.close()


def _has(path: Path) -> bool:
    return path.exists() and path.read_text() == "behind the tunnel\n"
