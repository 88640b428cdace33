"""A backup under load, restored into another directory; edges accept it, and nothing is withdrawn."""

from __future__ import annotations

import contextlib
import json
import signal
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, tcp_service
from scenario.load import local_service, tcp, visitors

SAMPLE_EVERY_S = 0.1
WRITES_IN_BACKUP = 30


class Api:
    """The API as the bed's context file reaches it, whichever control plane answers there."""

    def __init__(self, bed: Bed) -> None:
        context = json.loads(Path(bed.ready["context"]).read_text())
        self._url = context["api"]
        self._headers = {"Authorization": f"Bearer {context['token']}", "Content-Type": "application/json"}
        self._tls = ssl.create_default_context(cadata=context["ca"])

    def ask(self, path: str, method: str = "GET", body: object = None) -> dict[str, Any]:
        """Raises: OSError while nobody answers, or for a refusal."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers, method=method)
        with urllib.request.urlopen(request, timeout=5, context=self._tls) as answer:
            return json.load(answer)

    def services(self) -> list[dict[str, Any]]:
        return self.ask("/apis/datumapis.com/v1alpha/namespaces/default/drtpservices")["items"]

    def endpoints(self, service: str) -> list[str]:
        """Where the service's visitors are led: `address:port` of each endpoint with an agent behind it."""
        connections = self.ask("/apis/datumapis.com/v1alpha/namespaces/default/drtpconnections")["items"]
        servers = [
            server
            for one in connections
            if one["spec"]["serviceRef"]["name"] == service
            for server in one.get("status", {}).get("servers", ())
        ]
        return sorted(f"{s['podAddress']}:{s['podPort']}" for s in servers if s["clientStatus"] == "Connected")


@dataclass
class Samples:
    """What the API said again and again: a withdrawal between two looks of a person would show here."""

    taken: int = 0
    unready: list[tuple[float, Any]] = field(default_factory=list)
    endpoints: set[tuple[str, ...]] = field(default_factory=set)


@contextlib.contextmanager
def sampled(api: Api, service: str) -> Generator[Samples]:
    """Sample conditions and endpoints of one service while the block runs, whenever somebody answers."""
    samples, over = Samples(), threading.Event()

    def take() -> None:
        while not over.wait(SAMPLE_EVERY_S):
            with contextlib.suppress(OSError):
                mine = next(one for one in api.services() if one["metadata"]["name"] == service)
                ready = next(c for c in mine["status"]["conditions"] if c["type"] == "Ready")
                if ready["status"] != "True":
                    samples.unready.append((time.monotonic(), ready))
                samples.endpoints.add(tuple(api.endpoints(service)))
                samples.taken += 1

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join(10)


def drtp(bed: Bed, *argv: str | Path) -> str:
    done = subprocess.run([BIN / "drtp", *argv], env=bed.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def declared(bed: Bed, name: str, port: int) -> None:
    spec = {"protocol": "TCP", "local": {"host": "localhost", "port": port}, "expose": {}}
    metadata = {"name": name, "namespace": "default"}
    made = {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPService", "metadata": metadata, "spec": spec}
    bed.kubectl("apply", "-f", "-", stdin=json.dumps(made))


def secret_for(bed: Bed, service: str, file: Path) -> Path:
    file.write_text(json.loads(bed.datumctl("credentials", service, "--output", "json").stdout)["secret"])
    file.chmod(0o600)
    return file


def refused(bed: Bed, service: str, target: str, secret: Path, state: Path) -> str:
    """What somebody is told who comes with a secret from before the restore, with a key of their own."""
    own = ("--service", service, "--namespace", "default", "--state-dir", str(state))
    program = bed.run("serve", target, *own, "--secret-file", str(secret), "--output", "json")
    assert program.process.wait(20) == 77, program.story()
    return program.story()


@contextlib.contextmanager
def busy(api: Api) -> Generator[list[str]]:
    """A client that creates objects as fast as it gets answers; gives the names that were acknowledged."""
    made: list[str] = []
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            name = f"busy-{len(made)}"
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"a": "x" * 5000}}
            api.ask("/api/v1/namespaces/default/secrets", "POST", secret)
            made.append(name)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        over.set()
        thread.join(10)


@pytest.mark.timeout(240)
def test_a_restored_control_plane_is_accepted_and_withdraws_nothing(
    new_bed: Callable[..., Bed], tmp_path: Path
) -> None:
    bed = new_bed("--no-restart", "controlplane")
    api = Api(bed)
    with local_service() as port, tcp_service(echo) as other:
        target = f"tcp://localhost:{port}"
        kept = bed.serve(target, "--name", "kept")
        declared(bed, "joes", port)
        spent_before, unspent, spent_after = (
            secret_for(bed, "joes", tmp_path / name) for name in ("spent-before", "unspent", "spent-after")
        )
        joes = ("--service", "joes", "--namespace", "default")
        bed.serve(target, *joes, "--state-dir", str(tmp_path / "before"), "--secret-file", str(spent_before))
        eventually(lambda: len(api.endpoints("kept")) == 2)

        endpoints = api.endpoints("kept")

        with busy(api) as made:
            eventually(lambda: len(made) > WRITES_IN_BACKUP)
            acknowledged = list(made)
            drtp(bed, "backup", tmp_path / "backup", "--data-dir", bed.data)
            assert len(made) > len(acknowledged), "nobody wrote while the backup ran"

        late = bed.serve(f"tcp://localhost:{other}", "--name", "late")
        bed.serve(target, *joes, "--state-dir", str(tmp_path / "after"), "--secret-file", str(spent_after))

        with visitors(tcp(kept.endpoint, per_s=50.0, stay_s=0.5)) as load, sampled(api, "kept") as samples:
            load.run_on(1.0)
            before = samples.taken
            controlplane = psutil.Process(bed.ready["controlplane"]["pid"])
            controlplane.send_signal(signal.SIGTERM)
            eventually(lambda: _gone(controlplane), 20)
            said = drtp(bed, "restore", tmp_path / "backup", "--data-dir", tmp_path / "elsewhere")
            assert "Enrolment secrets made before are void" in said
            restored = Program([BIN / "drtp", "controlplane", "--data-dir", tmp_path / "elsewhere"], bed.env)
            bed.programs.append(restored)
            eventually(api.services)
            eventually(lambda: len(connected(tmp_path / "elsewhere")) >= 5, 60)
            load.run_on(3.0)
            eventually(lambda: samples.taken > before + 20)
        crowd = load.crowd()
        print("visitors of the kept service through the restore:", crowd)
        assert crowd.failed == []
        assert samples.unready == []
        assert samples.endpoints == {tuple(endpoints)}

        # What was acknowledged before the backup began is there; the users' token goes on (it was used for all this).
        secrets = api.ask("/api/v1/namespaces/default/secrets")["items"]
        assert set(acknowledged) <= {one["metadata"]["name"] for one in secrets}
        assert "late" not in {one["metadata"]["name"] for one in api.services()}

        # Secrets of the life before: spent ones stay spent, the others are void, and it says what to do.
        for number, secret in enumerate((spent_before, unspent, spent_after)):
            story = refused(bed, "joes", target, secret, tmp_path / f"thief-{number}")
            assert "DRTP-2001" in story and "Make a new secret" in story, story

        # An edge that the backup does not know is told so, goes on asking, and its owner's next start mends it.
        eventually(lambda: any("DRTP-2008" in line and "enrol again" in line for line in late.program.err.seen), 40)
        late.stop()
        again = bed.serve(f"tcp://localhost:{other}", "--name", "late")
        fresh = secret_for(bed, "joes", tmp_path / "fresh")
        bed.serve(target, *joes, "--state-dir", str(tmp_path / "new"), "--secret-file", str(fresh))
        with visitors(tcp(again.endpoint, per_s=20.0)) as load:
            load.run_on(0.5)
        assert load.crowd().failed == []


def _gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def connected(directory: Path) -> list[str]:
    """Roles of the edges that a control plane has feeds of, by its operator's socket."""
    done = subprocess.run(
        ["curl", "--silent", "--unix-socket", str(directory / "operator.sock"), "http://operator/v1/status"],
        capture_output=True,
        timeout=10,
        check=False,
    )
    return [edge["role"] for edge in json.loads(done.stdout)["edges"] if edge["connected"]] if done.stdout else []
