"""`datumctl connect`: a service that nobody can visit, on the other side's own machine, sealed from end to end."""

from __future__ import annotations

import contextlib
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

USAGE, UNAVAILABLE, DENIED, TERMINAL = 64, 69, 77, 1
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
        assert done.stderr == b"", "what passes by itself is not said into somebody's terminal"


@pytest.fixture(scope="module")
def people(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[str, ...]]]:
    """Two users of the project `cx-lab` and of nothing else, each with their context."""
    operator = ("--context", bed.ready["kubeconfig"])
    bed.datumctl(*operator, "create", "project", "cx-lab", check=False)
    folder = tmp_path_factory.mktemp("people")
    made: dict[str, tuple[str, ...]] = {}
    for name in ("cx-ann", "cx-bob"):
        context = str(folder / f"{name}.json")
        asked = ("create", "user", name, "--project", "cx-lab", "--context-file", context, "--reinstate")
        bed.datumctl(*operator, *asked)
        made[name] = ("--context", context)
    yield made
    bed.datumctl(*operator, "revoke", "user", "cx-bob", check=False)


@dataclass(frozen=True)
class Wrong:
    """A command line, as whom, and what comes of it. `{taken}`: a local port that somebody has."""

    name: str
    argv: tuple[str, ...]
    status: int
    code: str
    says: str
    who: str = ""


def _connecting(service: str, *options: str) -> tuple[str, ...]:
    return ("connect", service, *(options or ("--once",)))


WRONG = (
    Wrong("unknown service", _connecting("default/cx-nobody"), DENIED, "DRTP-4060", "no service default/cx-nobody"),
    Wrong("no project of that name", _connecting("cx-nowhere/db"), DENIED, "DRTP-4060", "no service cx-nowhere/db"),
    Wrong("foreign namespace", _connecting("default/cx-table"), DENIED, "DRTP-4060", "no service", "cx-bob"),
    Wrong("not subscribed", _connecting("default/cx-offered"), DENIED, "DRTP-4060", "no service", "cx-bob"),
    Wrong("subscription expired", _connecting("default/cx-expired"), DENIED, "DRTP-4060", "no service", "cx-bob"),
    Wrong("policy of others", _connecting("default/cx-closed"), DENIED, "DRTP-4060", "no service default/cx-closed"),
    Wrong(
        "target refuses", _connecting("default/cx-deaf", "--stdio"), TERMINAL, "DRTP-4063", "local service refused"
    ),
    Wrong("local port taken", _connecting("default/cx-table", "--local", "{taken}"), TERMINAL, "DRTP-4062", "{taken}"),
    Wrong(
        "an address that others reach",
        _connecting("default/cx-table", "--local", "0.0.0.0:0"),
        USAGE,
        "DRTP-4068",
        "can be reached by other machines",
    ),
    Wrong("no port", _connecting("default/cx-table", "--local", "here"), USAGE, "DRTP-7002", "is not [address:]port"),
    Wrong("no name", _connecting("a/b/c"), USAGE, "DRTP-7002", "a/b/c is not [NAMESPACE/]SERVICE[=PORT]"),
    Wrong(
        "a publication that one does not see", ("catalog", "subscribe", "default/cx-unseen"), TERMINAL, "DRTP-7100",
        "cx-unseen", "cx-bob",
    ),
    Wrong(
        "a publication that is not there", ("catalog", "subscribe", "default/cx-nobody"), TERMINAL, "DRTP-7100",
        "cx-nobody", "cx-bob",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def wrong(bed: Bed, people: dict[str, tuple[str, ...]]) -> Iterator[dict[str, str]]:
    """Services in every state that somebody may find one in, and a port that is taken."""
    with tcp_service(echo) as port, socket.socket() as taken, contextlib.ExitStack() as serving:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = ("cx-table", "cx-offered", "cx-expired", "cx-closed", "cx-off")
        file = bed.directory / "cx-wrong.yaml"
        file.write_text(json.dumps([{"target": f"tcp://localhost:{port}", "name": name} for name in names]))
        served = bed.run("serve", "--file", str(file), "--no-inspector", "--output", "json")
        serving.callback(served.stop, signal.SIGINT)
        for _ in names:
            served.event("ready")
        _serve(bed, port, "cx-left").stop(signal.SIGINT)
        bed.datumctl("disable", "cx-off")
        deaf = bed.run("serve", f"tcp://localhost:{free_port()}", "--name", "cx-deaf", "--no-expose", "-o", "json")
        serving.callback(deaf.stop, signal.SIGINT)
        made = [_policy("cx-closed", "user:somebody-else"), _publication("cx-offered", "Approval", "Everyone")]
        made += [_publication("cx-expired", "Open", "Everyone"), _publication("cx-unseen", "Open", "Subscribers")]
        bed.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, made)))
        asked = ("catalog", "subscribe", "default/cx-expired", "--expires", "1s", "--namespace", "cx-lab")
        # A slow machine finds it over before it has told that it was made.
        assert bed.datumctl(*asked, *people["cx-ann"], check=False).returncode in (0, DENIED)
        found = ("get", "drtpsubscriptions", "-n", "cx-lab", "-o", "json")
        eventually(lambda: _states(json.loads(bed.kubectl(*found))) == {"Expired"})
        yield {"taken": str(taken.getsockname()[1])}


def _states(listed: dict[str, Any]) -> set[str]:
    return {one.get("status", {}).get("state") for one in listed["items"]}


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "datumapis.com/v1alpha", "kind": kind, "metadata": metadata, "spec": spec}


def _policy(service: str, *principals: str) -> dict[str, Any]:
    target = {"group": "datumapis.com", "kind": "DRTPService", "name": service}
    rule = {"name": "them", "action": "Allow", "principals": list(principals)}
    return _object("DRTPAccessPolicy", service, {"targetRefs": [target], "rules": [rule]})


def _publication(service: str, mode: str, visibility: str) -> dict[str, Any]:
    of = {"serviceRef": {"name": service}, "title": service, "visibility": visibility, "access": {"mode": mode}}
    return _object("DRTPPublication", service, of)


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_what_goes_wrong_is_said_by_code_and_exit_status(
    bed: Bed, wrong: dict[str, str], people: dict[str, tuple[str, ...]], case: Wrong
) -> None:
    argv = [part.format(**wrong) for part in case.argv]
    done = bed.datumctl(*argv, *people.get(case.who, ()), check=False)
    assert (done.returncode, case.code in done.stderr) == (case.status, True), done.stderr
    assert case.says.format(**wrong) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "code"), [("cx-left", "DRTP-4061"), ("cx-off", "DRTP-4067")])
def test_what_may_yet_be_is_said_and_waited_for(bed: Bed, wrong: dict[str, str], name: str, code: str) -> None:
    """An agent that is away, a service that is disabled: with `--once` the end of the wait is 69."""
    del wrong
    program = bed.run("connect", f"default/{name}", "--output", "json")
    while (said := program.event("service")).get("code") != code:
        assert said["code"] == "DRTP-4066", said
    assert program.process.poll() is None
    assert program.stop(signal.SIGINT) == 0


def test_what_is_waited_for_in_vain_ends_a_run_that_is_once_only(bed: Bed, wrong: dict[str, str]) -> None:
    del wrong
    done = bed.datumctl("connect", "default/cx-left", "--once", check=False)
    assert (done.returncode, "DRTP-4061" in done.stderr) == (UNAVAILABLE, True), done.stderr


def test_a_policy_is_on_no_policy_and_says_so(bed: Bed) -> None:
    """Policies name what they are on, so that two of them make no circle."""
    ring = [("cx-one", "cx-two"), ("cx-two", "cx-one")]
    for name, other in ring:
        target = {"group": "datumapis.com", "kind": "DRTPAccessPolicy", "name": other}
        policy = _object("DRTPAccessPolicy", name, {"targetRefs": [target], "rules": []})
        bed.kubectl("apply", "-f", "-", stdin=json.dumps(policy))
    for name, _ in ring:
        told = eventually(lambda name=name: _conditions(bed, name))
        assert {(one["status"], one["reason"]) for one in told} == {("False", "TargetNotSupported")}
        bed.kubectl("delete", "drtpaccesspolicy", name)


def _conditions(bed: Bed, policy: str) -> list[dict[str, Any]]:
    found = json.loads(bed.kubectl("get", "drtpaccesspolicy", policy, "-o", "json"))
    return [one for ancestor in found.get("status", {}).get("ancestors", []) for one in ancestor["conditions"]]


def test_what_one_may_not_see_answers_as_what_is_not_there_in_words_and_in_time(
    bed: Bed, wrong: dict[str, str], people: dict[str, tuple[str, ...]]
) -> None:
    del wrong
    bobs, words, seconds = people["cx-bob"], set[str](), dict[str, list[float]]()
    for name in ("cx-table", "cx-absent") * 3:
        began = time.monotonic()
        done = bed.datumctl("connect", f"default/{name}", *bobs, "--once", check=False)
        seconds.setdefault(name, []).append(time.monotonic() - began)
        words.add(done.stderr.split("error: ")[1].replace(name, "NAME"))
        assert done.returncode == DENIED
    assert len(words) == 1, words
    fastest = [min(times) for times in seconds.values()]
    assert max(fastest) <= 1.5 * min(fastest), seconds


def test_a_program_connects_to_the_services_of_a_file_with_a_token_of_its_account(bed: Bed, tmp_path: Path) -> None:
    bed.kubectl("create", "serviceaccount", "cx-robot", "--namespace", "default")
    role = ("--clusterrole=edit", "--serviceaccount=default:cx-robot", "--namespace", "default")
    bed.kubectl("create", "rolebinding", "cx-robot-connects", *role)
    context, file = tmp_path / "robot.json", tmp_path / "services.yaml"
    bed.datumctl("create", "token", "--service-account", "default/cx-robot", "--context-file", str(context))
    with tcp_service(echo) as port:
        _serve(bed, port, "cx-one")
        _serve(bed, port, "cx-two")
        file.write_text("services:\n- {service: default/cx-one}\n- {service: default/cx-two, unix: two.sock}\n")
        argv = ("--file", str(file), "--context", str(context), "--state-dir", str(tmp_path / "state"))
        panel = _connect(bed, *argv)
        ready = {one["service"]: one["local"] for one in (panel.ready, panel.program.event("ready"))}
        assert _both_ways(Panel(panel.program, {"local": ready["default/cx-one"]}))
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(ready["default/cx-two"])
            assert _says(caller, b"by a path") == b"by a path"
        assert panel.program.stop(signal.SIGINT) == 0
    bed.kubectl("delete", "serviceaccount", "cx-robot", "--namespace", "default")


def test_one_service_of_a_file_that_is_refused_keeps_the_others_from_nothing(bed: Bed, tmp_path: Path) -> None:
    file = tmp_path / "services.yaml"
    file.write_text("services:\n- {service: default/cx-nothing}\n- {service: default/cx-there}\n")
    with tcp_service(echo) as port:
        _serve(bed, port, "cx-there")
        program = bed.run("connect", "--file", str(file), "--output", "json")
        ready = program.event("ready", 30)
        assert ready["service"] == "default/cx-there"
        assert _both_ways(Panel(program, ready))
        said = eventually(lambda: [one for one in map(json.loads, program.out.seen) if one.get("code") == "DRTP-4060"])
        assert {one["service"] for one in said} == {"default/cx-nothing"}
        assert program.stop(signal.SIGINT) == 0


def test_a_target_that_refuses_is_told_and_the_way_stays(bed: Bed) -> None:
    nobody = free_port()
    bed.run("serve", f"tcp://localhost:{nobody}", "--name", "cx-away", "--no-expose", "--output", "json")
    assert eventually(lambda: bed.connections("cx-away")), "before that there is no such service"
    panel = _connect(bed, "default/cx-away")
    with pytest.raises(ConnectionResetError), panel.call() as caller:
        caller.recv(1)
    assert panel.program.event("refused", 10)["message"] == "local service refused"
    with tcp_service(echo, port=nobody), panel.call() as caller:
        assert _says(caller, b"now") == b"now"


def test_a_revoked_user_is_cut_at_once(bed: Bed, people: dict[str, tuple[str, ...]]) -> None:
    bobs = people["cx-bob"]
    with tcp_service(echo) as port:
        _serve(bed, port, "cx-own", *people["cx-ann"])
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


@pytest.mark.alone
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
    local = free_port()
    place = f"default/cx-for-app={local}"
    made = bed.datumctl("credentials", "--service-account", "cx-app", "--connect", place, "--output", "json")
    with tcp_service(echo) as port:
        _serve(bed, port, "cx-for-app")
        # As it is pasted, in an empty environment.
        script = json.loads(made.stdout)["instructions"]["shell"]
        path = f"{BIN}:{os.environ['PATH']}"
        program = Program(["sh", "-c", script], {"PATH": path, "HOME": str(tmp_path)}, tmp_path)
        bed.programs.append(program)
        assert program.line(30.0) == f"127.0.0.1:{local}"
        panel = Panel(program, {"local": f"127.0.0.1:{local}"})
        assert _both_ways(panel)
        bed.kubectl("delete", "serviceaccount", "cx-app", "--namespace", "default")
        assert panel.program.process.wait(20) != 0
        assert "DRTP-2006" in panel.program.story()
