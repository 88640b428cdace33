"""A real PostgreSQL on this machine, with one role `joe`, password `secret`, and what its clients ask of it."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

from scenario.bed import eventually, free_port, require

PASSWORD = {"PGPASSWORD": "secret", "PGCONNECT_TIMEOUT": "10"}


def unprivileged(*names: str) -> dict[str, object]:
    """As whom `subprocess` starts what refuses to be root, where this is root: the first of these accounts."""
    if os.geteuid() != 0:
        return {}
    for name in (*names, "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise AssertionError("there is no account without privileges")


def given_to(who: dict[str, object], *paths: Path) -> None:
    """Make paths theirs."""
    for path in paths if who else ():
        os.chown(path, who["user"], who["group"])  # type: ignore[arg-type]


@contextlib.contextmanager
def postgresql() -> Generator[int]:
    """A server while the block runs; gives its port."""
    initdb, server = require("initdb"), require("postgres")
    who = unprivileged("postgres")
    # Not under a private directory of a test: the server's account must reach it.
    with tempfile.TemporaryDirectory(prefix="drtp-pg-") as name:
        home = Path(name)
        home.chmod(0o755)
        data, password = home / "data", home / "password"
        data.mkdir()
        password.write_text(PASSWORD["PGPASSWORD"])
        given_to(who, data, password)
        subprocess.run(
            [initdb, "-D", str(data), "-U", "joe", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync"],
            check=True, capture_output=True, cwd=home, **who,  # type: ignore[call-overload]
        )  # fmt: skip
        port = free_port()
        options = ["-p", str(port), "-k", "", "-h", "127.0.0.1", "-c", "fsync=off", "-c", "max_connections=60"]
        process = subprocess.Popen(
            [server, "-D", str(data), *options],
            cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who,  # type: ignore[call-overload]
        )  # fmt: skip
        try:
            eventually(lambda: query(port, "select 1") == "1")
            yield port
        finally:
            process.terminate()
            process.wait(20)


def client(program: str, port: int, *argv: str) -> list[str]:
    """The command line of `psql` or `pgbench` at a port of this machine; the password is in `PASSWORD`."""
    return [require(program), "-h", "127.0.0.1", "-p", str(port), "-U", "joe", *argv]


def query(port: int, sql: str) -> str:
    """One value. Raises: CalledProcessError."""
    done = subprocess.run(
        client("psql", port, "-d", "postgres", "-tA", "-c", sql),
        env={**os.environ, **PASSWORD}, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return done.stdout.strip()
