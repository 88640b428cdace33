"""rathole's server and client as a way, in plain text or in its TLS mode, for connections or for datagrams."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

from bench.tunnel.load import Address
from bench.tunnel.ways import Carries, Opens, Way, answers, answers_datagrams, between, free_port, running


def rathole(program: str, transport: str, carries: Carries) -> Opens:
    """Rathole server and client, `transport` tcp (plain) or tls; `carries` connections or datagrams."""

    @contextlib.contextmanager
    def open_path(service: Address, scratch: Path) -> Generator[Way]:
        control, endpoint = free_port(), free_port()
        common, path = 'default_token = "bench"\n', between.get()
        server = (
            f'[server]\nbind_addr = "{path.listens}:{control}"\n{common}{_rathole_tls(transport, scratch, server=True)}'
        )
        client = (
            f'[client]\nremote_addr = "{path.dialled}:{control}"\n{common}'
            f"{_rathole_tls(transport, scratch, server=False)}"
        )
        kind = f'type = "{carries.value}"\n'
        visited = f'[server.services.s]\n{kind}bind_addr = "127.0.0.1:{endpoint}"\n'
        served = f'[client.services.s]\n{kind}local_addr = "127.0.0.1:{service[1]}"\n'
        (scratch / "server.toml").write_text(server + visited)
        (scratch / "client.toml").write_text(client + served)
        quiet = os.environ | {"RUST_LOG": "error"}
        with (
            running([program, "--server", scratch / "server.toml"], scratch / "server.log", env=quiet) as one,
            running([program, "--client", scratch / "client.toml"], scratch / "client.log", env=quiet) as other,
        ):
            (answers if carries is Carries.STREAM else answers_datagrams)(("127.0.0.1", endpoint))
            yield Way(("127.0.0.1", endpoint), (one.pid, other.pid))

    return open_path


def _rathole_tls(transport: str, scratch: Path, *, server: bool) -> str:
    if transport == "tcp":
        side = "server" if server else "client"
        return f'[{side}.transport]\ntype = "tcp"\n[{side}.transport.tcp]\nnodelay = true\n'
    authority = _tls_files(scratch)
    if server:
        return (
            '[server.transport]\ntype = "tls"\n[server.transport.tls]\n'
            f'pkcs12 = "{authority / "identity.pfx"}"\npkcs12_password = "bench"\n'
        )
    return (
        '[client.transport]\ntype = "tls"\n[client.transport.tls]\n'
        f'trusted_root = "{authority / "root.pem"}"\nhostname = "localhost"\n'
    )


def _tls_files(scratch: Path) -> Path:
    """A root and a PKCS 12 identity of `localhost`, made by openssl once for both sides."""
    if not (scratch / "identity.pfx").exists():
        _openssl(
            scratch,
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=bench-root -keyout root.key -out root.pem",
            "req -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost "
            "-keyout leaf.key -out leaf.csr",
            "x509 -req -in leaf.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 -copy_extensions copy "
            "-out leaf.pem",
            "pkcs12 -export -legacy -inkey leaf.key -in leaf.pem -certfile root.pem -passout pass:bench "
            "-out identity.pfx",
        )
    return scratch


def _openssl(where: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run(["openssl", *command.split(" ")], cwd=where, capture_output=True, check=True)
