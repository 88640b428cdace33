"""Real proxies as networks have them: tinyproxy, squid, microsocks, and squid that looks into TLS."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scenario.bed import eventually, free_port, require


@dataclass(frozen=True)
class RealProxy:
    """A running proxy. `log` tells what it passed on."""

    port: int
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@contextlib.contextmanager
def tinyproxy(*, user: str = "", password: str = "") -> Generator[RealProxy]:
    """Debian's tinyproxy: HTTP CONNECT, Basic."""
    program = require("tinyproxy")
    with _home() as home:
        port, log = free_port(), home / "log"
        auth = f"BasicAuth {user} {password}\n" if user else ""
        (home / "conf").write_text(
            f'Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 200\nLogFile "{log}"\nLogLevel Connect\n{auth}'
        )
        with _running([program, "-d", "-c", str(home / "conf")], port):
            yield RealProxy(port, log)


@contextlib.contextmanager
def socks(*, user: str = "", password: str = "") -> Generator[RealProxy]:
    """Debian's microsocks: SOCKS5 with user name and password; it resolves names."""
    program = require("microsocks")
    with _home() as home:
        port, log = free_port(), home / "log"
        auth = ["-u", user, "-P", password] if user else []
        with _running([program, "-i", "127.0.0.1", "-p", str(port), *auth], port, log):
            yield RealProxy(port, log)


@contextlib.contextmanager
def squid(*, roots: Path | None = None, inspecting: bool = False, extra: Sequence[str] = ()) -> Generator[RealProxy]:
    """HTTP CONNECT. `inspecting`: it ends TLS with certificates of its own, and trusts `roots` beyond."""
    program = require("squid")
    with _home() as home:
        port, log = free_port(), home / "access.log"
        lines = [
            f"http_port 127.0.0.1:{port}" + (_bumping(home) if inspecting else ""),
            *extra,
            "http_access allow all",
            f"access_log stdio:{log}",
            f"cache_log {home}/cache.log",
            f"pid_filename {home}/pid",
            f"coredump_dir {home}",
            "cache deny all",
            "shutdown_lifetime 0 seconds",
            "visible_hostname proxy.corp",
            "pinger_enable off",
        ]
        if inspecting:
            lines += [
                f"sslcrtd_program /usr/lib/squid/security_file_certgen -s {home}/certificates -M 4MB",
                "acl first at_step SslBump1",
                "ssl_bump peek first",
                "ssl_bump bump all",
                f"tls_outgoing_options cafile={roots}" if roots else "sslproxy_cert_error allow all",
                # What squid passes on after an upgrade is what it is told to.
                "request_header_access Upgrade allow all",
                "http_upgrade_request_protocols websocket allow all",
            ]
        (home / "squid.conf").write_text("\n".join([*lines, ""]))
        if inspecting:
            _prepare_certificates(home)
        _give_away(home)
        with _running([program, "-N", "-f", str(home / "squid.conf")], port):
            yield RealProxy(port, log)


def _bumping(home: Path) -> str:
    return f" ssl-bump tls-cert={home}/corporate.pem generate-host-certificates=on dynamic_cert_mem_cache_size=4MB"


def _prepare_certificates(home: Path) -> None:
    openssl = require("openssl")
    key, certificate = home / "corporate.key", home / "corporate.crt"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=Corporate Inspection CA",
            "-keyout", str(key), "-out", str(certificate), "-addext", "basicConstraints=critical,CA:TRUE",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    (home / "corporate.pem").write_text(certificate.read_text() + key.read_text())
    certgen = Path("/usr/lib/squid/security_file_certgen")
    if not certgen.exists():
        require("security_file_certgen")
    subprocess.run([certgen, "-c", "-s", str(home / "certificates"), "-M", "4MB"], check=True, capture_output=True)


@contextlib.contextmanager
def _home() -> Generator[Path]:
    # Not under pytest's own 0700 directory: proxies give up root for an account of their own.
    with tempfile.TemporaryDirectory(prefix="drtp-proxy-") as name:
        home = Path(name)
        home.chmod(0o755)
        yield home


def _give_away(home: Path) -> None:
    """Squid works as `proxy` when it is started by root."""
    if os.geteuid() != 0:
        return
    account = pwd.getpwnam("proxy")
    for path in (home, *home.rglob("*")):
        shutil.chown(path, account.pw_uid, account.pw_gid)


@contextlib.contextmanager
def _running(argv: list[str], port: int, log: Path | None = None) -> Generator[None]:
    with (log or Path(os.devnull)).open("wb") as sink:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
        try:
            eventually(lambda: _accepts(process, port), 20)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def _accepts(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, f"{process.args} ended with {process.returncode}"
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
