"""`datumctl connect`: a service that nobody can visit, on the other side's own machine, sealed from end to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, free_port, killed, tcp_service
from scenario.database import query
from scenario.test_postgres import postgres

__all__ = ["postgres"]
"""A fixture that this file shares."""

CUT_WITHIN_S = 2.0
FAILOVER_WITHIN_S = 1.0


@dataclass
class Panel:
    """A running `datumctl connect`, ready."""

    program: Program
    ready: dict[str, Any]

    @property
    def place(self) -> tuple[str, int]:
        host, port = self.ready["local"].rsplit(":", 1)
        return host, int(port)

    def call(self) -> socket.socket:
        return socket.create_connection(self.place, timeout=10)


def _connect(bed: Bed, *argv: str) -> Panel:
    program = bed.run("connect", *argv, "--output", "json")
    return Panel(program, program.event("ready", 30.0))


def _serve(bed: Bed, port: int, name: str, *options: str) -> Program:
    """A service without any public listener."""
    program = bed.run("serve", f"tcp://localhost:{port}", "--name", name, "--no-expose", *options, "--output", "json")
    program.event("ready", 30.0)
    return program


def _says(caller: socket.socket, words: bytes) -> bytes:
    caller.sendall(words)
    return caller.recv(100)


def test_psql_reads_a_row_through_connect_and_nothing_is_exposed(bed: Bed, postgres: int) -> None:
    _serve(bed, postgres, "cx-postgres")
    panel = _connect(bed, "default/cx-postgres", "--local", "0")
    assert panel.ready["encrypted"] is True
    assert len(panel.ready["pops"]) >= 1
    assert query(panel.place[1], "select 'reached'") == "reached"
    routes = json.loads(bed.kubectl("get", "tcproutes,httproutes,listenersets", "-A", "-o", "json"))["items"]
    assert not [one for one in routes if "cx-postgres" in json.dumps(one)]
    assert panel.program.stop(signal.SIGINT) == 0


def test_standard_input_and_output_carry_one_connection_and_its_end(bed: Bed) -> None:
    with tcp_service(echo) as port:
        _serve(bed, port, "cx-stdio")
        words = os.urandom(300_000)
        done = subprocess.run(
            [str(BIN / "datumctl"), "--context", bed.ready["context"], "connect", "default/cx-stdio", "--stdio"],
            input=words, capture_output=True, env=bed.env, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout == words


def test_what_goes_wrong_is_said_by_code_and_exit_status(bed: Bed) -> None:
    with tcp_service(echo) as port, socket.socket() as taken:
        _serve(bed, port, "cx-table")
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        name = str(taken.getsockname()[1])
        table = [
            (("default/cx-nobody", "--once"), 77, "DRTP-4060"),
            (("default/cx-table", "--local", name), 1, "DRTP-4062"),
            (("default/cx-table", "--local", "0.0.0.0:0"), 64, "DRTP-4068"),
            (("default/cx-table", "--local", "nowhere"), 64, "DRTP-7002"),
            (("a/b/c",), 64, "DRTP-7002"),
        ]
        for argv, status, code in table:
            done = bed.datumctl("connect", *argv, check=False)
            assert (done.returncode, code in done.stderr) == (status, True), (argv, done.returncode, done.stderr)


def test_a_target_that_refuses_is_told_and_the_way_stays(bed: Bed) -> None:
    nobody = free_port()
    bed.run("serve", f"tcp://localhost:{nobody}", "--name", "cx-away", "--no-expose", "--output", "json")
    panel = _connect(bed, "default/cx-away")
    with pytest.raises(ConnectionResetError), panel.call() as caller:
        caller.recv(1)
    assert panel.program.event("refused", 10)["message"] == "local service refused"
    with tcp_service(echo, port=nobody), panel.call() as caller:
        assert _says(caller, b"now") == b"now"


@pytest.fixture
def people(bed: Bed, tmp_path: Path) -> Iterator[dict[str, tuple[str, ...]]]:
    """Two users of the project `cx-lab` and of nothing else, each with their context."""
    operator = ("--context", bed.ready["kubeconfig"])
    bed.datumctl(*operator, "create", "project", "cx-lab", check=False)
    made: dict[str, tuple[str, ...]] = {}
    for name in ("cx-ann", "cx-bob"):
        context = str(tmp_path / f"{name}.json")
        asked = ("create", "user", name, "--project", "cx-lab", "--context-file", context, "--reinstate")
        bed.datumctl(*operator, *asked)
        made[name] = ("--context", context)
    yield made
    bed.datumctl(*operator, "revoke", "user", "cx-bob", check=False)


def test_a_revoked_user_is_cut_and_what_is_not_theirs_is_never_confirmed(
    bed: Bed, people: dict[str, tuple[str, ...]]
) -> None:
    bobs = people["cx-bob"]
    with tcp_service(echo) as port:
        _serve(bed, port, "cx-foreign")
        _serve(bed, port, "cx-own", *people["cx-ann"])
        told = {
            name: bed.datumctl("connect", f"default/{name}", *bobs, "--once", check=False)
            for name in ("cx-foreign", "cx-absent")
        }
        assert {done.returncode for done in told.values()} == {77}
        words = {done.stderr.split("error: ")[1].replace(name, "NAME") for name, done in told.items()}
        assert len(words) == 1, words
        panel = _connect(bed, "cx-lab/cx-own", *bobs)
        with panel.call() as caller:
            assert _says(caller, b"mine") == b"mine"
            bed.datumctl("--context", bed.ready["kubeconfig"], "revoke", "user", "cx-bob")
            began = time.monotonic()
            caller.settimeout(10)
            with pytest.raises(ConnectionResetError):
                caller.recv(1)
            assert time.monotonic() - began <= CUT_WITHIN_S
        assert panel.program.process.wait(20) != 0
        assert "DRTP-2006" in panel.program.story()


class Callers:
    """New connections at a pace, each asking one question; what became of each, by when it began."""

    def __init__(self, place: tuple[str, int], per_s: int) -> None:
        self.failed: list[float] = []
        self.answered: list[float] = []
        self._place, self._pause_s = place, 1 / per_s
        self._over = threading.Event()
        self._asking = [threading.Thread(target=self._go_on, daemon=True) for _ in range(4)]
        for thread in self._asking:
            thread.start()

    def _go_on(self) -> None:
        while not self._over.wait(self._pause_s * len(self._asking)):
            began = time.monotonic()
            try:
                with socket.create_connection(self._place, timeout=10) as caller:
                    good = _says(caller, b"x") == b"x"
            except OSError:
                good = False
            (self.answered if good else self.failed).append(began)

    def stop(self) -> None:
        self._over.set()
        for thread in self._asking:
            thread.join(15)


@pytest.mark.timeout(150)
def test_without_a_control_plane_a_pop_is_lost_and_new_connections_go_on(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed("--no-restart", "controlplane", "--no-restart", "pop-1", "--no-restart", "pop-2")
    with tcp_service(echo) as port:
        _serve(bed, port, "cx-failover")
        panel = _connect(bed, "default/cx-failover")
        eventually(lambda: all(_both_ways(panel) for _ in range(2)))
        killed(bed.part("controlplane"))
        callers = Callers(panel.place, 50)
        time.sleep(1.0)  # pace, not luck: connections before the loss are part of the measure
        lost = killed(bed.part(panel.ready["pops"][0]))
        time.sleep(3.0)  # as above, after it
        callers.stop()
        late = [began for began in callers.failed if began > lost + FAILOVER_WITHIN_S]
        assert not late, [round(began - lost, 2) for began in callers.failed]
        assert len([began for began in callers.answered if began > lost + FAILOVER_WITHIN_S]) > 50
        assert panel.program.stop(signal.SIGINT) == 0
        again = _connect(bed, "default/cx-failover")
        assert _both_ways(again)


def _both_ways(panel: Panel) -> bool:
    with panel.call() as caller:
        return _says(caller, b"here") == b"here"


def test_an_application_connects_as_its_service_account_and_goes_with_it(bed: Bed, tmp_path: Path) -> None:
    """By a one-time secret alone: no context, and nobody's token."""
    bed.kubectl("create", "serviceaccount", "cx-app", "--namespace", "default")
    role = ("--clusterrole=edit", "--serviceaccount=default:cx-app", "--namespace", "default")
    bed.kubectl("create", "rolebinding", "cx-app-connects", *role)
    made = bed.datumctl("credentials", "--service-account", "cx-app", "--output", "json")
    secret = {"DRTP_SECRET": json.loads(made.stdout)["secret"]}
    with tcp_service(echo) as port:
        _serve(bed, port, "cx-for-app")
        argv = [BIN / "datumctl", "connect", "default/cx-for-app", "--state-dir", tmp_path / "app", "--output", "json"]
        program = Program(argv, {**bed.env, **secret})
        bed.programs.append(program)
        panel = Panel(program, program.event("ready", 30.0))
        assert _both_ways(panel)
        bed.kubectl("delete", "serviceaccount", "cx-app", "--namespace", "default")
        assert panel.program.process.wait(20) != 0
        assert "DRTP-2006" in panel.program.story()
