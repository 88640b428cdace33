"""Wrong input through every door: the code, the sentence and the exit status, while another service goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from drtp.api.credentials import ENROLMENT_PREFIX, compose
from scenario.bed import BIN, Bed, Program, Serving, eventually, require
from scenario.load import Load, http, local_service, visitors

TEN_MINUTES, NOT_AT_ALL = timedelta(minutes=10), timedelta()
USAGE, UNAVAILABLE, DENIED, CONFIGURATION, TERMINAL = 64, 69, 77, 78, 1


@dataclass(frozen=True)
class Wrong:
    """One command line below `datumctl` and what it must say. `{port}`: a local service, `{dir}`: the files."""

    name: str
    argv: Sequence[str]
    status: int
    code: str
    says: Sequence[str]


SERVE = ("serve", "tcp://localhost:{port}", "--once")

CASES = (
    Wrong("CIDR", (*SERVE, "--allow", "10.0.0.0/33"), USAGE, "DRTP-7002", ["--allow '10.0.0.0/33' is no network."]),
    Wrong("no CIDR at all", (*SERVE, "--allow", "everyone"), USAGE, "DRTP-7002", ["'everyone'", "203.0.113.0/24"]),
    Wrong(
        "port out of range", (*SERVE, "--port", "99999"), USAGE, "DRTP-7002", ["99999 is not in the range 1<=x<=65535"]
    ),
    Wrong(
        "port nobody vends",
        (*SERVE, "--port", "40000", "--name", "far"),
        TERMINAL,
        "DRTP-6006",
        ["far: Ports on a shared address come from 10000-32767."],
    ),
    Wrong(
        "port of another service",
        (*SERVE, "--port", "{taken}", "--name", "second"),
        TERMINAL,
        "DRTP-6006",
        ["second: ", "{taken}"],
    ),
    Wrong(
        "hostname of another service",
        ("serve", "localhost:{port}", "--once", "--name", "double", "--hostname", "{hostname}"),
        TERMINAL,
        "DRTP-6006",
        ["double: ", "{hostname}"],
    ),
    Wrong("target without a port", ("serve", "tcp://localhost"), USAGE, "DRTP-7004", ["a port is missing"]),
    Wrong("target's port", ("serve", "localhost:99999"), USAGE, "DRTP-7004", ["Port out of range 0-65535"]),
    Wrong("target's scheme", ("serve", "ftp://localhost:21"), USAGE, "DRTP-7004", ["the scheme ftp is not known"]),
    Wrong(
        "metadata address",
        ("serve", "tcp://169.254.169.254:80", "--once", "--name", "metadata"),
        TERMINAL,
        "DRTP-4017",
        ["169.254.169.254 is never dialled: it is a cloud metadata address"],
    ),
    Wrong(
        "link-local address",
        ("serve", "tcp://[fe80::1]:80", "--once", "--name", "linklocal"),
        TERMINAL,
        "DRTP-4017",
        ["fe80::1 is never dialled: it is a link-local address"],
    ),
    Wrong("unreachable API", ("--context", "{dir}/nobody.json", "status"), UNAVAILABLE, "DRTP-3001", ["127.0.0.1:9"]),
    Wrong(
        "unreachable API, once",
        ("--context", "{dir}/nobody.json", *SERVE, "--name", "away"),
        UNAVAILABLE,
        "DRTP-3001",
        ["127.0.0.1:9 cannot be reached"],
    ),
    Wrong("no context", ("--context", "{dir}/none.json", "status"), CONFIGURATION, "DRTP-7003", ["no context file"]),
    Wrong("broken context", ("--context", "{dir}/broken", "status"), CONFIGURATION, "DRTP-3011", ["cannot be read"]),
    Wrong("no file", ("apply", "-f", "{dir}/none.yaml"), CONFIGURATION, "DRTP-7013", ["no such file or directory"]),
    Wrong("a directory", ("apply", "-f", "{dir}"), CONFIGURATION, "DRTP-7013", ["is a directory"]),
    Wrong("no YAML", ("apply", "-f", "{dir}/broken"), CONFIGURATION, "DRTP-7013", ["line 1: "]),
    Wrong("binary", ("apply", "-f", "{dir}/binary"), CONFIGURATION, "DRTP-7013", ["cannot be read"]),
    Wrong(
        "unknown field",
        ("apply", "-f", "{dir}/unknown.yaml"),
        CONFIGURATION,
        "DRTP-1010",
        ['unknown field "spec.colour"', 'unknown field "spec.local.prot"'],
    ),
    Wrong(
        "many faults",
        ("apply", "-f", "{dir}/faulty.yaml"),
        CONFIGURATION,
        "DRTP-1010",
        ["spec.protocol: ", "spec.local.port: ", "spec.serverCount: ", "spec.expose.port: "],
    ),
    Wrong(
        "wrong CIDRs in an object",
        ("apply", "-f", "{dir}/cidr.yaml"),
        CONFIGURATION,
        "DRTP-1010",
        ["spec.edgeAllowlist[0]: ", "spec.edgeAllowlist[1]: ", "203.0.113.0/24", "the network would be 10.0.0.0/8"],
    ),
    Wrong(
        "many faults in a serve file",
        ("serve", "--file", "{dir}/services.yaml"),
        CONFIGURATION,
        "DRTP-7013",
        ["services[0].nmae: not known", "services[1].target: ", "services[1].allow: "],
    ),
    Wrong("no service of that name", ("disable", "nothing"), TERMINAL, "DRTP-1001", ["nothing"]),
    Wrong(
        "wrong secret",
        ("serve", "--service", "db", "--secret-file", "{dir}/wrong", "--state-dir", "{dir}/s1", "--once"),
        CONFIGURATION,
        "DRTP-2013",
        ["Copy the whole string again."],
    ),
    Wrong(
        "unknown secret",
        ("serve", "--service", "db", "--secret-file", "{dir}/unknown", "--state-dir", "{dir}/s2", "--once"),
        DENIED,
        "DRTP-2001",
        ["Make a new secret"],
    ),
    Wrong(
        "expired secret",
        ("serve", "--service", "db", "--secret-file", "{dir}/expired", "--state-dir", "{dir}/s4", "--once"),
        DENIED,
        "DRTP-2001",
        ["The enrolment was refused.", "Make a new secret and use it within its lifetime"],
    ),
    Wrong(
        "spent secret",
        ("serve", "--service", "db", "--secret-file", "{dir}/spent", "--state-dir", "{dir}/s3", "--once"),
        DENIED,
        "DRTP-2002",
        ["has been used by another key"],
    ),
)


@dataclass(frozen=True)
class Beside:
    """What is there besides the mistakes: a web service with visitors, a TCP service with a port."""

    bed: Bed
    port: int
    web: Serving
    database: Serving
    load: Load
    files: Path

    def filled(self, text: str) -> str:
        """With what a case could not know."""
        known = {
            "{port}": str(self.port),
            "{taken}": str(self.database.endpoint[1]),
            "{hostname}": self.web.name,
            "{dir}": str(self.files),
        }
        for name, value in known.items():
            text = text.replace(name, value)
        return text


@pytest.fixture(scope="module")
def beside(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    """A service that goes on throughout: at the end none of its visitors has failed."""
    with local_service() as port:
        web = bed.serve(f"localhost:{port}", "--name", "goes-on")
        database = bed.serve(f"tcp://localhost:{port}", "--name", "first")
        with visitors(http(bed.http, web.host, per_s=20)) as load:
            yield Beside(bed, port, web, database, load, _files(bed, tmp_path_factory.mktemp("wrong")))
        assert load.crowd().failed == []
        web.stop()
        database.stop()


def _files(bed: Bed, directory: Path) -> Path:
    context = json.loads(Path(bed.ready["context"]).read_text())
    service = {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPService", "metadata": {"name": "faulty"}}
    good = {"protocol": "TCP", "local": {"host": "localhost", "port": 99}}
    written = {
        "nobody.json": json.dumps(context | {"api": "https://127.0.0.1:9"}),
        "broken": "x: [",
        "binary": "\0\1\2",
        "unknown.yaml": yaml.safe_dump(
            service | {"spec": good | {"colour": "blue", "local": good["local"] | {"prot": 1}}}  # type: ignore[operator]
        ),
        "faulty.yaml": yaml.safe_dump(
            service
            | {
                "spec": {
                    "protocol": "TPC",
                    "local": {"host": "x", "port": 99999},
                    "serverCount": 9,
                    "expose": {"port": 0},
                }
            }
        ),
        "cidr.yaml": yaml.safe_dump(
            service | {"spec": good | {"edgeAllowlist": ["10.0.0.0/33", "nope", "10.0.0.1/8"]}}
        ),
        "services.yaml": "- {target: 8080, nmae: x}\n- {target: 'ftp://x', allow: [everyone]}\n",
    }
    for name, text in written.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    bed.kubectl("apply", "-f", "-", stdin=json.dumps(service | {"metadata": {"name": "db"}, "spec": good}))
    expired, expires_at = _short_lived(bed, "db")
    secret = bed.datumctl("credentials", "db", "--output", "json").stdout
    spent = json.loads(secret)["secret"]
    once = bed.run(
        "serve", "--service", "db", "--state-dir", str(directory / "s0"), "-o", "json", env={"DRTP_SECRET": spent}
    )
    eventually(lambda: bed.connections("db"))
    once.stop(signal.SIGINT)
    eventually(lambda: datetime.now(UTC) > expires_at)
    for name, text in (
        ("spent", spent),
        ("expired", expired),
        ("wrong", _mistyped(spent)),
        ("unknown", _forged(spent)),
    ):
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    return directory


def _short_lived(bed: Bed, service: str) -> tuple[str, datetime]:
    """A secret of one second's lifetime, which only the operator makes, and its end."""
    ask = json.dumps({"role": "agent", "name": service, "namespace": "default", "lifetimeS": 1})
    socket_path = str(bed.data / "controlplane" / "operator.sock")
    command = ["curl", "--fail", "--silent", "--unix-socket", socket_path, "--data", ask, "http://operator/v1/secrets"]
    made = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)
    return made["secret"], datetime.fromisoformat(made["expiresAt"])


def _mistyped(secret: str) -> str:
    """One character of it is another."""
    return secret[:30] + ("a" if secret[30] != "a" else "b") + secret[31:]


def _forged(secret: str) -> str:
    """Well formed, of an identifier that nobody made."""
    return f"{compose(ENROLMENT_PREFIX, '0' * 12, 12345)}@{secret.partition('@')[2]}"


def _run(bed: Bed, argv: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    context = () if "--context" in argv else ("--context", bed.ready["context"])
    return subprocess.run(
        [str(BIN / "datumctl"), *context, *argv],
        capture_output=True,
        text=True,
        env={**bed.env, **(env or {})},
        timeout=40,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_input_is_told_what_happened_and_what_to_do(beside: Beside, case: Wrong) -> None:
    done = _run(beside.bed, [beside.filled(part) for part in case.argv])
    said = done.stderr
    assert done.returncode == case.status, said
    assert "Traceback" not in said
    assert case.code in said
    for words in case.says:
        assert beside.filled(words) in said
    if case.code:
        assert f"docs/errors/{case.code}.md" in said


def _clock(off_by: timedelta) -> dict[str, str]:
    """The environment of a process whose clock is off: the command faketime stays, and passes no signal on."""
    seconds = f"{off_by.total_seconds():+.0f}s"
    told = subprocess.run([require("faketime"), "-f", seconds, "env"], capture_output=True, text=True, check=True)
    variables = dict(line.split("=", 1) for line in told.stdout.splitlines() if "=" in line)
    return {name: variables[name] for name in ("LD_PRELOAD", "FAKETIME")}


def _validity(bed: Bed) -> tuple[timedelta, timedelta]:
    """How far the certificate of the API reaches from now: back, and ahead."""
    host, port = bed.ready["api"].removeprefix("https://").rsplit(":", 1)
    certificate = x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode())
    now = datetime.now(UTC)
    return now - certificate.not_valid_before_utc, certificate.not_valid_after_utc - now


@pytest.mark.parametrize("word", ["is not valid yet", "has expired"])
def test_a_clock_that_is_off_is_named(beside: Beside, word: str) -> None:
    back, ahead = _validity(beside.bed)
    off_by = ahead if word == "has expired" else -back
    done = _run(
        beside.bed,
        ["serve", f"localhost:{beside.port}", "--name", "clock", "--once"],
        _clock(off_by + (TEN_MINUTES if off_by > NOT_AT_ALL else -TEN_MINUTES)),
    )
    assert done.returncode == UNAVAILABLE, done.stderr
    assert "DRTP-3012" in done.stderr
    assert word in done.stderr
    assert "this machine's clock, which says" in done.stderr


@pytest.mark.parametrize("off_by", [TEN_MINUTES, -TEN_MINUTES], ids=["ahead", "behind"])
def test_ten_minutes_off_serves(beside: Beside, off_by: timedelta) -> None:
    """A certificate is good for a day: an agent whose clock is a little off is no case for the operator."""
    back, _ahead = _validity(beside.bed)
    if off_by < NOT_AT_ALL and back < -off_by:
        off_by = -back / 2  # this DRTP is younger than that
    argv = [BIN / "datumctl", "--context", beside.bed.ready["context"]]
    program = Program(
        [*argv, "serve", f"localhost:{beside.port}", "--name", "off", "-o", "json"],
        {**beside.bed.env, **_clock(off_by)},
    )
    try:
        address = program.event("ready")["address"]
        assert beside.bed.get(Serving(program, "off", "default", address, [], 0))[0] == 200
    finally:
        program.stop(signal.SIGINT)


def test_a_service_whose_target_refuses_says_so_and_its_visitors_see_a_page_with_a_code(beside: Beside) -> None:
    bed = beside.bed
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        program = bed.run("serve", f"localhost:{port}", "--name", "refuses", "-o", "json")
        told = eventually(lambda: _condition(bed, "refuses", "Connected", "LocalServiceUnreachable"))
        assert told["status"] == "False"
        assert "Connection refused" in told["message"]
        assert f"localhost:{port}" in told["message"]
        address = eventually(lambda: _status(bed, "refuses").get("addresses"))[0]["hostname"]
        status, page = bed.get(Serving(program, "refuses", "default", f"http://{address}:{bed.http[1]}", [], 0))
        assert status == 503
        assert b"DRTP-5" in page
        assert program.stop(signal.SIGINT) == 0


def _status(bed: Bed, service: str) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(bed.kubectl("get", "drtpservice", service, "-o", "json")).get("status", {})
    return status


def _condition(bed: Bed, service: str, kind: str, reason: str) -> dict[str, Any] | None:
    conditions: list[dict[str, Any]] = _status(bed, service).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind and one["reason"] == reason), None)


def _asked(endpoint: tuple[str, int]) -> bytes:
    with socket.create_connection(endpoint, timeout=10) as visitor:
        visitor.sendall(b"anybody?")
        return visitor.recv(1)


def test_nobody_serves_a_tcp_port_any_more_and_a_visitor_is_reset(beside: Beside) -> None:
    bed = beside.bed
    serving = bed.serve(f"tcp://localhost:{beside.port}", "--name", "gone")
    serving.stop()
    with pytest.raises(ConnectionError):
        _asked(serving.endpoint)


def test_kubectl_is_told_every_fault(beside: Beside) -> None:
    done = subprocess.run(
        [
            require("kubectl"),
            "--kubeconfig",
            beside.bed.ready["kubeconfig"],
            "apply",
            "-f",
            str(beside.files / "faulty.yaml"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 1
    for field in ("spec.protocol", "spec.local.port", "spec.serverCount", "spec.expose.port"):
        assert f"* {field}: " in done.stderr
    assert "(DRTP-1010)" in done.stderr


def test_unknown_field_is_listed_beside_the_other_faults(beside: Beside) -> None:
    spec = {"protocol": "TCP", "local": {"host": "x", "port": 0}, "colour": "red", "enabled": "yes"}
    wrong = {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPService", "metadata": {"name": "wrong"}, "spec": spec}
    file = beside.files / "wrong.json"
    file.write_text(json.dumps(wrong))
    done = _run(beside.bed, ["apply", "-f", str(file)])
    assert done.returncode == CONFIGURATION
    for field in ("spec.colour", "spec.local.port", "spec.enabled"):
        assert f"       {field}: " in done.stderr


def test_an_object_of_kubectl_is_applied_again_by_datumctl(beside: Beside) -> None:
    spec = {"protocol": "TCP", "local": {"host": "x", "port": 9}}
    twice = {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPService", "metadata": {"name": "twice"}, "spec": spec}
    file = beside.files / "twice.json"
    file.write_text(json.dumps(twice))
    beside.bed.kubectl("apply", "-f", str(file))
    assert _run(beside.bed, ["apply", "-f", str(file)]).returncode == 0
    beside.bed.kubectl("delete", "drtpservice", "twice")


CONTEXTS: dict[str, tuple[dict[str, str], int, str, str]] = {
    "no URL": ({"api": "not a url"}, CONFIGURATION, "DRTP-3011", "not a url"),
    "port out of range": ({"api": "https://127.0.0.1:99999"}, CONFIGURATION, "DRTP-3011", "99999"),
    "unreadable CA": ({"ca": "-----BEGIN CERTIFICATE-----"}, CONFIGURATION, "DRTP-3011", "authority"),
    "wrong token": ({"token": "nope"}, DENIED, "DRTP-1011", "Log in again"),
}


@pytest.mark.parametrize("what", CONTEXTS)
def test_a_wrong_context_is_told_by_get_and_by_serve(beside: Beside, tmp_path: Path, what: str) -> None:
    changed, status, code, words = CONTEXTS[what]
    path = tmp_path / "context.json"
    path.write_text(json.dumps(json.loads(Path(beside.bed.ready["context"]).read_text()) | changed))
    path.chmod(0o600)
    for command in (["get", "drtpservices"], ["serve", str(beside.port), "--once"]):
        done = _run(beside.bed, ["--context", str(path), *command])
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert f"docs/errors/{code}.md" in done.stderr and words in done.stderr
