"""`datumctl serve`: its options, a file, a host CLI, a terminal and Ctrl-C, as visitors and people see them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from scenario.bed import BIN, Bed, Program, Serving, echo, eventually, free_port, killed, tcp_service


class _Mirror(BaseHTTPRequestHandler):
    """Answers with the Host header that it got."""

    def do_GET(self) -> None:
        body = self.headers.get("Host", "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """The test's output is no place for it."""


@pytest.fixture(scope="module")
def mirror() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Mirror)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(5)


def _service(bed: Bed, name: str) -> dict[str, Any]:
    return json.loads(bed.kubectl("get", "drtpservice", name, "-n", "default", "-o", "json"))


def _condition(obj: dict[str, Any], kind: str) -> str:
    found = [one["status"] for one in obj.get("status", {}).get("conditions", []) if one["type"] == kind]
    return found[0] if found else ""


def test_host_header_is_what_the_service_sees(bed: Bed, mirror: int) -> None:
    plain = bed.serve(f"localhost:{mirror}", "--name", "host-plain")
    own = bed.serve(f"localhost:{mirror}", "--name", "host-own", "--host-header", "intranet.corp.example")
    assert bed.get(plain) == (200, plain.host.encode())
    assert bed.get(own) == (200, b"intranet.corp.example")
    plain.stop()
    own.stop()


def test_a_service_that_waits_for_enable_is_seen_connected_and_reached_only_then(bed: Bed) -> None:
    with tcp_service(echo) as port:
        program = bed.run("serve", f"tcp://localhost:{port}", "--name", "held", "--wait-for-enable", "-o", "json")
        held = eventually(
            lambda: (found := _service(bed, "held")) and _condition(found, "Connected") == "True" and found
        )
        assert held["spec"]["enabled"] is False
        assert _condition(held, "Ready") == "False"
        address = eventually(lambda: _service(bed, "held")["status"].get("addresses"))[0]
        endpoint = (address["ip"], address["port"])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(endpoint, timeout=5)
        assert not program.out.seen
        bed.datumctl("enable", "held")
        program.event("ready")
        with socket.create_connection(endpoint, timeout=10) as visitor:
            visitor.sendall(b"now")
            assert visitor.recv(10) == b"now"
        assert program.stop(signal.SIGINT) == 0, program.story()


def test_no_expose_has_a_tunnel_and_no_public_place(bed: Bed) -> None:
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "inward", "--no-expose")
        assert serving.address is None
        assert len(serving.pops) >= 1
        found = _service(bed, "inward")
        assert "expose" not in found["spec"]
        assert not found["status"].get("addresses")
        routes = json.loads(bed.kubectl("get", "tcproutes,listenersets", "-n", "default", "-o", "json"))["items"]
        assert not [one for one in routes if "inward" in json.dumps(one["metadata"])]
        serving.stop()


def test_a_file_is_several_services_in_one_agent(bed: Bed, mirror: int, tmp_path: Path) -> None:
    with tcp_service(echo) as port:
        file = tmp_path / "services.yaml"
        file.write_text(
            "services:\n"
            f"- {{target: {mirror}, name: filed-web, host-header: filed.example}}\n"
            f'- {{target: "tcp://localhost:{port}", name: filed-db, allow: [127.0.0.2/32]}}\n'
        )
        program = bed.run("serve", "--file", str(file), "--output", "json")
        events = [program.event("ready"), program.event("ready")]
        by_name = {event["service"]: event for event in events}
        assert by_name.keys() == {"filed-web", "filed-db"}
        web, database = (
            Serving(program, name, "default", by_name[name]["address"], [], 0) for name in ("filed-web", "filed-db")
        )
        assert bed.get(web) == (200, b"filed.example")
        with socket.create_connection(database.endpoint, timeout=10, source_address=("127.0.0.2", 0)) as allowed:
            allowed.sendall(b"x")
            assert allowed.recv(10) == b"x"
        with (
            socket.create_connection(database.endpoint, timeout=10, source_address=("127.0.0.3", 0)) as denied,
            contextlib.suppress(ConnectionResetError),
        ):
            assert denied.recv(10) == b""
        listed = json.loads(bed.kubectl("get", "drtpconnections", "-n", "default", "-o", "json"))["items"]
        agents = {one["spec"]["client"]["agentID"] for one in listed if one["spec"]["serviceRef"]["name"] in by_name}
        assert len(agents) == 1
        assert program.stop(signal.SIGINT) == 0, program.story()


def test_a_file_read_again_adds_and_leaves_services_and_keeps_visitors(bed: Bed, tmp_path: Path) -> None:
    with tcp_service(echo) as port:
        file = tmp_path / "services.yaml"

        def write(*names: str) -> None:
            file.write_text("".join(f'- {{target: "tcp://localhost:{port}", name: {name}}}\n' for name in names))

        def visit(address: str) -> socket.socket:
            host, number = address.rsplit(":", 1)
            visitor = socket.create_connection((host, int(number)), timeout=10)
            visitor.sendall(b"hello")
            assert visitor.recv(5, socket.MSG_WAITALL) == b"hello"
            return visitor

        write("re-one", "re-two")
        program = bed.run("serve", "--file", str(file), "--output", "json")
        places = {event["service"]: event["address"] for event in (program.event("ready"), program.event("ready"))}
        staying = visit(places["re-one"])
        write("re-one", "re-three")
        program.process.send_signal(signal.SIGHUP)
        added = program.event("ready")
        assert added["service"] == "re-three"
        visit(added["address"]).close()
        eventually(lambda: len(bed.connections("re-three")) == 1 and bed.connections("re-two") == [])
        file.write_text("services: nonsense")
        program.process.send_signal(signal.SIGHUP)
        eventually(lambda: any("DRTP-7013" in line for line in program.err.seen))
        staying.sendall(b"again")
        assert staying.recv(5, socket.MSG_WAITALL) == b"again"
        staying.close()
        (connection,) = bed.connections("re-one")
        assert program.stop(signal.SIGINT) == 0, program.story()
        write("re-one", "re-two")
        program = bed.run("serve", "--file", str(file), "--output", "json")
        again = {event["service"]: event["address"] for event in (program.event("ready"), program.event("ready"))}
        assert again == places
        assert [one["metadata"]["uid"] for one in bed.connections("re-one")] == [connection["metadata"]["uid"]]
        assert program.stop(signal.SIGINT) == 0, program.story()


def test_a_file_read_again_while_the_control_plane_is_away_is_taken_when_it_is_back(bed: Bed, tmp_path: Path) -> None:
    with tcp_service(echo) as port:
        file = tmp_path / "services.yaml"
        entry = f'- {{target: "tcp://localhost:{port}", name: %s}}\n'
        file.write_text(entry % "away-one")
        program = bed.run("serve", "--file", str(file), "--output", "json")
        program.event("ready")
        file.write_text(entry % "away-one" + entry % "away-two")
        killed(bed.part("controlplane"))
        program.process.send_signal(signal.SIGHUP)
        eventually(lambda: any("file not taken yet" in line for line in program.err.seen))
        assert program.event("ready", 60)["service"] == "away-two"
        assert program.stop(signal.SIGINT) == 0, program.story()


@pytest.mark.parametrize(("location", "nearest"), [("40.7,-74.0", "worker-001-nyc"), ("50.1,8.7", "worker-002-fra")])
def test_the_nearest_pop_is_the_primary(bed: Bed, location: str, nearest: str) -> None:
    with tcp_service(echo) as port:
        name = f"near-{nearest[-3:]}"
        serving = bed.serve(f"tcp://localhost:{port}", "--name", name, "--location", location)
        listed = json.loads(bed.kubectl("get", "drtpconnections", "-n", "default", "-o", "json"))["items"]
        (connection,) = (one for one in listed if one["spec"]["serviceRef"]["name"] == name)
        roles = {one["role"]: one["serverRef"]["name"] for one in connection["spec"]["servers"]}
        assert roles["Primary"].startswith(nearest)
        assert len(set(roles.values())) == 2
        serving.stop()


def test_a_host_cli_gives_api_project_and_token(bed: Bed, tmp_path: Path) -> None:
    """The plugin has no context file: everything comes from its host's variables and credentials helper."""
    token = json.loads(Path(bed.ready["context"]).read_text())["token"]
    (tmp_path / "token").write_text(token)
    helper = tmp_path / "host-cli"
    helper.write_text(
        f'#!/bin/sh\ntest "$1 $2" = "auth get-token" && echo asked >> {tmp_path}/asked && cat {tmp_path}/token\n'
    )
    helper.chmod(0o700)
    host = {
        "DATUM_API_HOST": bed.ready["api"],
        "DATUM_ORG": "example",
        "DATUM_PROJECT": "default",
        "DATUM_CREDENTIALS_HELPER": str(helper),
        "DATUM_PLUGIN_API_VERSION": "1",
        "SSL_CERT_FILE": bed.ready["ca"],
    }
    with tcp_service(echo) as port:
        argv = [BIN / "datumctl-serve", f"tcp://localhost:{port}", "--name", "plugged", "--output", "json"]
        program = Program([*argv, "--state-dir", tmp_path / "state"], {**bed.env, **host})
        bed.programs.append(program)
        event = program.event("ready")
        serving = Serving(program, event["service"], event["namespace"], event["address"], event["pops"], 0)
        with socket.create_connection(serving.endpoint, timeout=10) as visitor:
            visitor.sendall(b"x")
            assert visitor.recv(10) == b"x"
        assert (tmp_path / "asked").read_text().startswith("asked\n")
        assert program.stop(signal.SIGINT) == 0, program.story()


def _page(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def test_ready_and_metrics_tell_of_the_local_service(bed: Bed) -> None:
    pages = f"http://127.0.0.1:{free_port()}"
    with tcp_service(echo) as port:
        where = pages.removeprefix("http://")
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "watched", "--inspector", where)
        status, text = _page(f"{pages}/ready")
        assert (status, json.loads(text)["ready"]) == (200, True)
        with socket.create_connection(serving.endpoint, timeout=10) as visitor:
            visitor.sendall(b"x")
            assert visitor.recv(10) == b"x"
            metrics = eventually(
                lambda: (
                    'drtp_agent_streams{service="default/watched"} 1.0' in (text := _page(f"{pages}/metrics")[1])
                    and text
                )
            )
        assert "drtp_agent_ready 1.0" in metrics
        assert metrics.count("drtp_agent_pop_connected{") == 2
    status, text = eventually(lambda: (page := _page(f"{pages}/ready"))[0] == 503 and page)
    assert json.loads(text)["services"][0]["ready"] is False
    assert serving.program.event("local")["state"] == "Unreachable"
    serving.stop()


def test_every_change_is_an_event(bed: Bed) -> None:
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "told")
        bed.datumctl("disable", "told")
        assert serving.program.event("disabled") == {"event": "disabled", "service": "told", "namespace": "default"}
        bed.datumctl("enable", "told")
        serving.program.event("enabled")
        bed.kubectl("delete", "drtpservice", "told", "-n", "default")
        assert serving.program.event("gone")["service"] == "told"
        assert serving.program.event("error")["code"] == "DRTP-2017"
        assert serving.program.process.wait(10) == 77


def test_a_second_ctrl_c_does_not_wait_for_visitors(bed: Bed) -> None:
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "hurried")
        with socket.create_connection(serving.endpoint, timeout=10) as visitor:
            visitor.sendall(b"x")
            assert visitor.recv(10) == b"x"
            serving.program.process.send_signal(signal.SIGINT)
            eventually(lambda: any('"Draining"' in line for line in serving.program.out.seen))
            assert serving.program.process.poll() is None
            visitor.sendall(b"y")
            assert visitor.recv(10) == b"y"
            serving.program.process.send_signal(signal.SIGINT)
            assert serving.program.process.wait(5) == 0, serving.program.story()
            with pytest.raises(ConnectionResetError):
                assert visitor.recv(10) != b""


def _until(terminal: int, screen: bytearray, sign: str, deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while sign not in _words(screen):
        assert time.monotonic() < end, f"no {sign!r} in {_words(screen)}"
        if select.select([terminal], [], [], 0.1)[0]:
            screen += os.read(terminal, 65536)


def _words(screen: bytearray) -> str:
    """What was drawn, without the escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode(errors="replace"))


def test_a_terminal_gets_a_live_screen(bed: Bed, mirror: int) -> None:
    master, slave = pty.openpty()
    argv = [BIN / "datumctl", "--context", bed.ready["context"], "serve", f"localhost:{mirror}", "--name", "screened"]
    env = {**bed.env, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40"}
    process = subprocess.Popen([str(part) for part in argv], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    screen = bytearray()
    try:
        _until(master, screen, f"-> http://localhost:{mirror}")
        _until(master, screen, "Status     ready")
        lines = _words(screen).replace("\r", "").splitlines()
        (address,) = {line for line in lines if re.fullmatch(r"http://[a-z0-9.-]+:\d+/?", line)}
        assert any(line.startswith(f"Forwarding {address} -> ") for line in lines), lines
        for sign in ("worker-001-nyc-ac.embedded", "Connected", "reachable", "Inspect"):
            _until(master, screen, sign)
        assert bed.curl(address, "--write-out", " %{http_code}").stdout.endswith(b" 200")
        _until(master, screen, "1 in all")
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal ends with its last program
            _until(master, screen, "Stopped.")
        assert process.wait(20) == 0
        assert "Traceback" not in _words(screen)
    finally:
        process.kill()
        process.wait(5)
        os.close(master)


def test_manifests_are_applied_described_and_deleted(bed: Bed, tmp_path: Path) -> None:
    manifest = tmp_path / "service.yaml"
    manifest.write_text(
        "apiVersion: datumapis.com/v1alpha\n"
        "kind: DRTPService\n"
        "metadata: {name: declared, namespace: default}\n"
        "spec: {protocol: TCP, local: {host: localhost, port: 9}, expose: {}}\n"
    )
    bed.datumctl("apply", "-f", str(manifest))
    described: Callable[[], str] = lambda: bed.datumctl("describe", "drtpservice", "declared").stdout  # noqa: E731
    assert eventually(lambda: "NoAgent" in (text := described()) and text)
    assert json.loads(bed.datumctl("get", "drtpservice", "declared", "-o", "json").stdout)["spec"]["protocol"] == "TCP"
    bed.datumctl("delete", "-f", str(manifest))
    gone = bed.datumctl("get", "drtpservice", "declared", check=False)
    assert gone.returncode == 1
    assert "DRTP-" in gone.stderr
