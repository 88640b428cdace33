"""What holds where the gateway's own rules do not: the POP alone, and the agent's state directory."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
from pathlib import Path

from scenario.bed import Bed, Serving, echo, eventually, read_exactly, tcp_service
from scenario.proxy import header

HALF_WRITTEN = shutil.ignore_patterns(".*.tmp")
"""Gone again before they can be copied."""
ALLOWED, DENIED = "203.0.113.7", "198.51.100.7"


class Endpoint:
    """One connection's endpoint on one POP, dialled past the gateway, with certificates that the product made."""

    def __init__(self, bed: Bed, serving: Serving) -> None:
        told = json.loads(bed.kubectl("get", "drtpconnections", "-n", serving.namespace, "-o", "json"))["items"]
        mine = next(one for one in told if one["spec"]["serviceRef"]["name"] == serving.service)
        server = mine["status"]["servers"][0]
        self.place = (server["podAddress"], server["podPort"])
        self.name = f"{server['serverRef']['name']}.tunnel.prism.localhost"

    def visit(self, identity: Path, preface: bytes) -> bytes:
        """What a visitor gets who is brought with this identity; b"" if the POP lets it go."""
        trust = ssl.create_default_context(cafile=str(identity / "bundle.pem"))
        trust.load_cert_chain(identity / "chain.pem", identity / "key.pem")
        with contextlib.suppress(OSError, EOFError), socket.create_connection(self.place, timeout=5) as raw:
            raw.settimeout(5)
            with trust.wrap_socket(raw, server_hostname=self.name) as visitor:
                visitor.sendall(preface + b"are you there")
                return read_exactly(visitor, 13)  # pyright: ignore[reportArgumentType] - an SSL socket is one, too
        return b""


def identity_in(state: Path) -> Path:
    return state / "identity" / "current"


def test_the_pop_alone_denies_and_lets_in_nobody_but_the_gateway(bed: Bed, tmp_path: Path) -> None:
    with tcp_service(echo) as port:
        state = tmp_path / "own"
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "alone", "--allow", "203.0.113.0/24",
                            "--state-dir", str(state))  # fmt: skip
        other = tmp_path / "other"
        neighbour = bed.serve(f"tcp://localhost:{port}", "--name", "other", "--state-dir", str(other))
        endpoint = Endpoint(bed, serving)
        gateway = identity_in(bed.data / "gateway")
        # The POP hears of the list at its own time.
        eventually(lambda: endpoint.visit(gateway, header(ALLOWED)) == b"are you there")
        assert endpoint.visit(gateway, header(DENIED)) == b""
        assert endpoint.visit(gateway, b"") == b""
        assert endpoint.visit(gateway, b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n") == b""
        assert endpoint.visit(gateway, header(ALLOWED, service="another")) == b""
        pops = sorted((bed.data / "pops").iterdir()) if (bed.data / "pops").exists() else []
        assert pops
        for foreign in (state, other, *pops):
            assert endpoint.visit(identity_in(foreign), header(ALLOWED)) == b"", foreign
        assert endpoint.visit(gateway, header(ALLOWED)) == b"are you there"
        for one in (serving, neighbour):
            assert one.stop() == 0


def test_a_second_process_with_a_copied_state_directory_is_refused_and_the_first_goes_on(
    bed: Bed, tmp_path: Path
) -> None:
    with tcp_service(echo) as port:
        first, copy = tmp_path / "first", tmp_path / "copy"
        command = (f"tcp://localhost:{port}", "--name", "copied")
        serving = bed.serve(*command, "--state-dir", str(first))
        with socket.create_connection(serving.endpoint, timeout=10) as visitor:
            visitor.sendall(b"before")
            assert read_exactly(visitor, 6) == b"before"
            shutil.copytree(first, copy, symlinks=True, ignore=HALF_WRITTEN)
            second = bed.run("serve", *command, "--state-dir", str(copy), "--output", "json")
            refusal = second.event("error")
            assert refusal["code"] == "DRTP-4040"
            assert str(first) in refusal["message"]
            assert second.process.wait(10) == 1
            visitor.sendall(b"after")
            assert read_exactly(visitor, 5) == b"after"
        assert not any("tunnel down" in line for line in serving.program.err.seen)
        assert serving.stop() == 0
        # Moved for good, and said so: it serves at the same address.
        shutil.rmtree(first)
        again = bed.serve(*command, "--state-dir", str(copy), "--moved")
        assert again.address == serving.address
        assert again.stop() == 0
