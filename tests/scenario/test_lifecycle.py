"""Start and stop, delete and disable, names that stay."""

from __future__ import annotations

import errno
import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, tcp_service


def _refused(endpoint: tuple[str, int]) -> bool:
    """Whether a new visitor gets nothing: refused, reset or closed at once."""
    try:
        with socket.create_connection(endpoint, timeout=2) as visitor:
            visitor.sendall(b"?")
            return visitor.recv(10) == b""
    except OSError:
        return True


def _closed(endpoint: tuple[str, int]) -> bool:
    """Whether nothing listens there."""
    with socket.socket() as visitor:
        visitor.settimeout(2)
        return visitor.connect_ex(endpoint) == errno.ECONNREFUSED


AGAIN_S = 3.0
"""A second start, everything running and the page answering. Measured: 1.7 to 2.3."""


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_up_shows_a_page_stops_clean_and_starts_again_at_once(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed()
    page = bed.curl(bed.ready["hello"], "--write-out", " %{http_code}")
    assert page.stdout.endswith(b" 200") and b"<html" in page.stdout.lower(), page
    first = bed.ready
    assert bed.up is not None
    # Envoy has no parent: it outlives any of them, but not its instance.
    parts = [*psutil.Process(bed.up.pid).children(recursive=True), psutil.Process(first["gateway"]["envoyPid"])]
    assert {first["gateway"]["pid"], first["controlplane"]["pid"]} <= {p.pid for p in parts}
    assert bed.up.stop(signal.SIGTERM, 30) == 0
    eventually(lambda: not bed.processes(), 5)
    assert not [part for part in parts if part.is_running() and part.status() != psutil.STATUS_ZOMBIE]

    # What it needs, not what the machine was doing beside: the quickest of three.
    took = [_started_again(bed)]
    while min(took) > AGAIN_S and len(took) < 3:
        assert bed.up.stop(signal.SIGTERM, 30) == 0
        took.append(_started_again(bed))
    assert min(took) <= AGAIN_S, took
    for port in ("api", "hello"):
        assert bed.ready[port] == first[port]


def _started_again(bed: Bed) -> float:
    """Start it as before; gives the seconds until it said that it is ready, and was."""
    begin = time.monotonic()
    bed.up = Program([BIN / "drtp", "up", "--data-dir", bed.data, "--output", "json"], bed.env)
    bed.ready = bed.up.event("ready")
    took = time.monotonic() - begin
    page = bed.curl(bed.ready["hello"], "--write-out", " %{http_code}")
    assert page.stdout.endswith(b" 200"), page
    return took


def test_the_ready_line_holds_what_scripts_rely_on(bed: Bed) -> None:
    ready = bed.ready
    for path in (ready["kubeconfig"], ready["ca"], ready["context"]):
        assert Path(path).is_absolute()
        assert Path(path).is_file()
    assert ready["api"].startswith("https://")
    assert set(ready["gateway"]) >= {"http", "https", "address", "pid", "envoyPid"}
    assert len({pop["name"] for pop in ready["pops"]}) == 2
    for place in (ready["gateway"]["http"], ready["gateway"]["https"], *(pop["address"] for pop in ready["pops"])):
        host, port = place.rsplit(":", 1)
        assert host == ready["gateway"]["address"]
        socket.create_connection((host, int(port)), timeout=5).close()


def test_two_beds_live_side_by_side(bed: Bed, new_bed: Callable[..., Bed]) -> None:
    other = new_bed()
    ready = other.ready
    assert ready["api"] != bed.ready["api"]
    # Of this one nobody has killed a part yet.
    assert other.up is not None
    for pid in (ready["controlplane"]["pid"], ready["gateway"]["pid"], *(pop["pid"] for pop in ready["pops"])):
        assert psutil.Process(pid).ppid() == other.up.pid
    assert psutil.Process(ready["gateway"]["envoyPid"]).name() == "envoy"
    for one in (bed, other):
        assert one.curl(one.ready["hello"], "--write-out", " %{http_code}").stdout.endswith(b" 200")


def test_first_line_on_stdout_is_the_address_alone(bed: Bed) -> None:
    with tcp_service(echo) as port:
        program = bed.run("serve", f"tcp://localhost:{port}", "--name", "first-line")
        host, vended = program.line().rsplit(":", 1)
        with socket.create_connection((host, int(vended)), timeout=10) as visitor:
            visitor.sendall(b"x")
            assert visitor.recv(1) == b"x"
        assert program.stop(signal.SIGINT) == 0, program.story()


@pytest.mark.parametrize("how", ["delete", "disable"])
def test_taking_a_service_away_cuts_it_within_two_seconds(bed: Bed, how: str) -> None:
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", f"gone-{how}")
        live = socket.create_connection(serving.endpoint, timeout=10)
        live.sendall(b"x")
        assert live.recv(1) == b"x"
        if how == "delete":
            bed.kubectl("delete", "drtpservice", serving.service, "-n", serving.namespace, "--wait=false")
        else:
            bed.datumctl("disable", serving.service)
        begin = time.monotonic()
        live.settimeout(5)
        with pytest.raises(ConnectionResetError):
            assert live.recv(1) == b"x"
        eventually(lambda: _closed(serving.endpoint), 3)
        assert time.monotonic() - begin <= 2.0
        live.close()
        if how == "disable":
            bed.datumctl("enable", serving.service)
            eventually(lambda: not _refused(serving.endpoint), 10)
        serving.stop()


def test_stopping_keeps_name_and_port_for_the_next_start(bed: Bed) -> None:
    """zrok#1251: to exit is not to delete."""
    with tcp_service(echo) as port:
        first = bed.serve(f"tcp://localhost:{port}")
        assert first.stop(signal.SIGINT) == 0, first.program.story()
        bed.kubectl("get", "drtpservice", first.service, "-n", first.namespace)
        second = bed.serve(f"tcp://localhost:{port}")
        assert (second.service, second.address) == (first.service, first.address)
        second.stop()


def test_ctrl_c_lets_a_visitor_finish(bed: Bed) -> None:
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "drained")
        with socket.create_connection(serving.endpoint, timeout=10) as visitor:
            visitor.sendall(b"before")
            assert visitor.recv(10) == b"before"
            serving.program.process.send_signal(signal.SIGINT)
            eventually(lambda: _refused(serving.endpoint), 10)
            visitor.sendall(b"after")
            assert visitor.recv(10) == b"after"
        assert serving.program.process.wait(20) == 0, serving.program.story()


def test_two_laptops_serving_8080_are_two_services(bed: Bed) -> None:
    with tcp_service(echo) as port:
        laptops = [bed.serve(f"tcp://localhost:{port}", env={"DRTP_MACHINE": name}) for name in ("ada", "bob")]
        assert laptops[0].service != laptops[1].service
        assert laptops[0].address != laptops[1].address
        for laptop in laptops:
            laptop.stop()


def test_a_predefined_service_is_served_with_a_one_time_secret(
    bed: Bed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Joe's way (R2, R4): the secret is spent once, a restart needs none, a replay is refused."""
    with tcp_service(echo) as port:
        service = {
            "apiVersion": "datumapis.com/v1alpha",
            "kind": "DRTPService",
            "metadata": {"name": "joes", "namespace": "default"},
            "spec": {"protocol": "TCP", "local": {"host": "localhost", "port": port}, "expose": {}},
        }
        bed.kubectl("apply", "-f", "-", stdin=json.dumps(service))
        secret = bed.datumctl("credentials", "joes", "--output", "json").stdout
        folder = tmp_path_factory.mktemp("joe")
        file = folder / "secret"
        file.write_text(json.loads(secret)["secret"])
        file.chmod(0o600)
        own = ("--service", "joes", "--namespace", "default", "--state-dir", str(folder / "state"))
        target = f"tcp://localhost:{port}"
        first = bed.serve(target, *own, "--secret-file", str(file))
        with socket.create_connection(first.endpoint, timeout=10) as visitor:
            visitor.sendall(b"x")
            assert visitor.recv(1) == b"x"
        first.stop()
        again = bed.serve(target, *own)
        assert again.address == first.address
        again.stop()
        replay = bed.run(
            "serve", target, *own[:-1], str(folder / "thief"), "--secret-file", str(file), "--output", "json"
        )
        assert replay.process.wait(20) == 77, replay.story()
        assert "DRTP-2" in replay.story()
