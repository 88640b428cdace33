"""`datumctl connect` of a UDP service: any size, to each source its own answers, cut and failed over as TCP is."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scenario.bed import Bed, Program, eventually, killed, tcp_service
from scenario.bed import echo as tcp_echo
from scenario.test_udp import ask, is_answered, udp_service

USAGE, TERMINAL = 64, 1
CUT_WITHIN_S = 2.0


def _serve(bed: Bed, target: str, name: str, *options: str) -> Program:
    """A service without any public listener."""
    program = bed.run("serve", target, "--name", name, "--no-expose", *options, "--output", "json")
    program.event("ready", 30.0)
    return program


def _connect(bed: Bed, *argv: str) -> tuple[Program, dict[str, Any]]:
    program = bed.run("connect", *argv, "--output", "json")
    return program, program.event("ready", 30.0)


def _program(ready: dict[str, Any]) -> socket.socket:
    """A local program, at a source port of its own."""
    host, port = ready["local"].rsplit(":", 1)
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.connect((host, int(port)))
    found.settimeout(10)
    return found


@dataclass
class Heard:
    """A service that answers with what it heard, and keeps when it last heard anything."""

    last: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, question: bytes) -> bytes:
        with self.lock:
            self.last = time.monotonic()
        return question


def test_datagrams_of_every_size_come_back_whole_each_to_its_own_source(bed: Bed) -> None:
    with udp_service() as port:
        _serve(bed, f"udp://localhost:{port}", "cu-echo")
        panel, ready = _connect(bed, "default/cu-echo", "--local", "0")
        assert (ready["protocol"], ready["encrypted"]) == ("UDP", True)
        assert ready["local"].startswith("127.0.0.1:")

        def one(number: int) -> None:
            with _program(ready) as someone:
                for size in (1, 1_200, 60_000):
                    question = bytes([number]) + os.urandom(size - 1)
                    assert ask(someone, question) == question

        with ThreadPoolExecutor(8) as several:
            list(several.map(one, range(24)))
        routes = json.loads(bed.kubectl("get", "udproutes,listenersets", "-A", "-o", "json"))["items"]
        assert not [route for route in routes if "cu-echo" in json.dumps(route)]
        assert panel.stop(signal.SIGINT) == 0


def test_a_file_has_udp_and_tcp_at_one_number_and_the_service_is_told_who_calls(bed: Bed, tmp_path: Path) -> None:
    with udp_service() as datagrams, tcp_service(tcp_echo) as connections:
        _serve(bed, f"udp://localhost:{datagrams}", "cu-dns", "--proxy-protocol", "v2")
        _serve(bed, f"tcp://localhost:{connections}", "cu-dns-tcp")
        number = eventually(_free_for_both)
        file = tmp_path / "services.yaml"
        places = {"default/cu-dns": f"udp://{number}", "default/cu-dns-tcp": str(number)}
        file.write_text(json.dumps([{"service": service, "local": local} for service, local in places.items()]))
        panel, first = _connect(bed, "--file", str(file))
        found = {one["protocol"]: one for one in (first, panel.event("ready", 30.0))}
        assert {one["local"] for one in found.values()} == {f"127.0.0.1:{number}"}
        with _program(found["UDP"]) as someone:
            heard = ask(someone, b"who am I?")
            assert heard.startswith(b"\r\n\r\n\x00\r\nQUIT\n") and heard.endswith(b"who am I?")
            assert b"user:" in heard
        with socket.create_connection(("127.0.0.1", number), timeout=10) as caller:
            caller.sendall(b"by TCP")
            assert caller.recv(100) == b"by TCP"
        assert panel.stop(signal.SIGINT) == 0


def _free_for_both() -> int:
    """Raises: OSError where TCP has the number that UDP gave."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as connections:
        datagrams.bind(("127.0.0.1", 0))
        number: int = datagrams.getsockname()[1]
        connections.bind(("127.0.0.1", number))
        return number


@pytest.fixture(scope="module")
def places(bed: Bed) -> Iterator[None]:
    """One UDP service, and one that is none."""
    with udp_service() as datagrams, tcp_service(tcp_echo) as connections:
        _serve(bed, f"udp://localhost:{datagrams}", "cu-place")
        _serve(bed, f"tcp://localhost:{connections}", "cu-place-tcp")
        yield


@pytest.mark.parametrize(
    ("argv", "status", "code", "says"),
    [
        (("default/cu-place", "--stdio"), TERMINAL, "DRTP-4064", "no datagram comes by a path or by standard input"),
        (("default/cu-place", "--unix", "{path}"), TERMINAL, "DRTP-4064", "no datagram comes by a path"),
        (("default/cu-place-tcp", "--local", "udp://0"), TERMINAL, "DRTP-4064", "is no UDP service"),
        (("default/cu-place", "--local", "udp://{taken}"), TERMINAL, "DRTP-4062", "udp://127.0.0.1:{taken}"),
        (("default/cu-place", "--local", "udp://0.0.0.0:0"), USAGE, "DRTP-4068", "can be reached by other machines"),
        (("default/cu-place", "--local", "udp://here"), USAGE, "DRTP-7002", "is not [address:]port"),
    ],
)
def test_a_place_that_is_none_for_datagrams_is_said_by_code_and_exit_status(
    bed: Bed, places: None, tmp_path: Path, argv: tuple[str, ...], status: int, code: str, says: str
) -> None:
    del places
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        words = {"path": str(tmp_path / "x.sock"), "taken": str(taken.getsockname()[1])}
        done = bed.datumctl("connect", *(part.format(**words) for part in argv), check=False)
    assert (done.returncode, code in done.stderr) == (status, True), done.stderr
    assert says.format(**words) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.alone
def test_a_binding_that_is_deleted_cuts_live_flows(bed: Bed, tmp_path: Path) -> None:
    operator = ("--context", bed.ready["kubeconfig"])
    bed.datumctl(*operator, "create", "project", "cu-lab", check=False)
    context = str(tmp_path / "cu-eve.json")
    bed.datumctl(*operator, "create", "user", "cu-eve", "--project", "cu-lab", "--context-file", context, "--reinstate")
    subject = ("--clusterrole=edit", "--user=cu-eve", "--namespace", "default")
    bed.kubectl("create", "rolebinding", "cu-eve-connects", *subject)
    heard = Heard()
    with udp_service(heard) as port:
        _serve(bed, f"udp://localhost:{port}", "cu-cut")
        panel, ready = _connect(bed, "default/cu-cut", "--context", context)
        with _program(ready) as someone:
            assert ask(someone, b"x") == b"x"
            began = time.monotonic()
            bed.kubectl("delete", "rolebinding", "cu-eve-connects", "--namespace", "default")
            deleted = time.monotonic()
            eventually(lambda: not is_answered(someone), 10)
            # What was heard last is the moment of the cut; asking goes on beyond it.
            eventually(lambda: time.monotonic() - heard.last > CUT_WITHIN_S, 10)
            assert heard.last - deleted <= CUT_WITHIN_S, heard.last - began
        eventually(lambda: panel.event("service", 10).get("code") == "DRTP-4060", 20)
        bed.kubectl("create", "rolebinding", "cu-eve-connects", *subject)
        # The port was kept meanwhile, and its number.
        with _program(ready) as someone:
            eventually(lambda: is_answered(someone), 20)
        assert panel.stop(signal.SIGINT) == 0
    bed.kubectl("delete", "rolebinding", "cu-eve-connects", "--namespace", "default")


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_a_killed_pop_costs_flows_no_more_than_a_moment(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed("--no-restart", "pop")
    with udp_service() as port:
        _serve(bed, f"udp://localhost:{port}", "cu-failover")
        panel, ready = _connect(bed, "default/cu-failover")
        while len(ready["pops"]) < 2:
            ready["pops"] = panel.event("service", 30.0)["pops"]
        several = [_program(ready) for _ in range(8)]
        for someone in several:
            assert ask(someone, b"x") == b"x"
        since = killed(bed.part(bed.primary("cu-failover")))
        for someone in several:
            eventually(lambda someone=someone: is_answered(someone, within_s=0.2), 10)
        assert time.monotonic() - since < 5.0
        for someone in several:
            someone.close()
        assert panel.stop(signal.SIGINT) == 0
