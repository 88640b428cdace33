"""Secrets are sought wherever a process may leave one, of every process, and are found nowhere.

A one-time secret that was used, replayed and mistyped, one given as an argument, one by the environment; and the tokens
of the context: in arguments and environments of every process, logs, errors, metrics, the audit log, the store, the
snapshots, and what the API gives to an administrator.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import psutil
import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, tcp_service

ENR = "drtp_enr_"


def _secret(bed: Bed, service: str) -> str:
    said: str = json.loads(bed.datumctl("credentials", service, "--output", "json").stdout)["secret"]
    return said


def _hidden_part(credential: str) -> str:
    """What nobody may see: the id before it may be logged."""
    return credential.split("@", 1)[0].split("_")[3]


def _processes(bed: Bed) -> dict[str, bytes]:
    """Arguments and environment of every process that is this bed's, by what it is."""
    found: dict[str, bytes] = {}
    for process in bed.processes():
        try:
            found[f"{process.pid} argv"] = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            found[f"{process.pid} environment"] = Path(f"/proc/{process.pid}/environ").read_bytes()
        except (OSError, psutil.Error):
            continue
    return found


def _files(bed: Bed, *besides: Path) -> dict[str, bytes]:
    """Everything on disk: logs, audit, store, snapshots, identities; not the files that are there to hold a token."""
    holders = {bed.data / "context.json", bed.data / "kubeconfig", *besides}
    return {
        str(path): path.read_bytes()
        for path in bed.directory.rglob("*")
        if path.is_file() and not path.is_symlink() and path not in holders and "operator-context" not in path.name
    }


def _answers(bed: Bed) -> dict[str, bytes]:
    """Metrics of the control plane, and all that an administrator can list."""
    socket = bed.data / "controlplane" / "operator.sock"
    metrics = subprocess.run(
        ["curl", "--silent", "--unix-socket", str(socket), "http://operator/metrics"], capture_output=True, check=True
    ).stdout
    kinds = "drtpservices,drtpconnections,drtpservers,events,secrets,configmaps"
    return {"metrics": metrics, "objects": bed.kubectl("get", kinds, "-A", "-o", "yaml").encode()}


@pytest.mark.timeout(120)
def test_no_secret_is_found_in_anything_that_any_process_leaves(bed: Bed, tmp_path: Path) -> None:
    with tcp_service(echo) as port:
        spec = {"protocol": "TCP", "local": {"host": "127.0.0.1", "port": port}, "expose": {}}
        made = {
            "apiVersion": "datumapis.com/v1alpha",
            "kind": "DRTPService",
            "metadata": {"name": "canary", "namespace": "default"},
            "spec": spec,
        }
        bed.kubectl("apply", "-f", "-", stdin=json.dumps(made))
        ways = {way: _secret(bed, "canary") for way in ("argument", "environment", "file")}
        file = tmp_path / "secret"
        file.write_text(ways["file"])
        file.chmod(0o600)
        how = {"argument": ("--secret", ways["argument"]), "environment": (), "file": ("--secret-file", str(file))}
        programs: list[Program] = []
        for way, options in how.items():
            env = {**bed.env, **({"DRTP_SECRET": ways[way]} if way == "environment" else {})}
            state = bed.data / "agents" / f"canary-{way}"
            argv = [BIN / "datumctl", "serve", "--service", "canary", "--namespace", "default", "--state-dir", state]
            program = Program([*argv, *options, "--output", "json"], env)
            bed.programs.append(program)
            programs.append(program)
            program.event("ready", 30.0)
        # Replayed by another key, and with a letter wrong.
        for number, text in enumerate((ways["file"], ways["file"].replace("@", "x@", 1))):
            file.write_text(text)
            thief = [BIN / "datumctl", "serve", "--service", "canary", "--namespace", "default"]
            done = subprocess.run(
                [*thief, "--state-dir", tmp_path / f"thief-{number}", "--secret-file", file],
                capture_output=True,
                env=bed.env,
                timeout=30,
                check=False,
            )
            assert done.returncode not in {0, None}
            ways[f"refused {number}"] = text
            errors = {f"refusal {number}": done.stdout + done.stderr}
            assert not _found(errors, ways)
        tokens = [json.loads((bed.data / "context.json").read_bytes())["token"]]
        canaries = ways | {f"token {number}": token for number, token in enumerate(tokens)}
        eventually(lambda: b"secret replayed" in (bed.data / "controlplane" / "audit" / "audit.log").read_bytes())

        places = _processes(bed) | _files(bed) | _answers(bed)
        for program in programs:
            places[f"{program.pid} said"] = "\n".join([*program.out.seen, *program.err.seen]).encode()
        # The way in by the environment shows in the environment of the process that was given it, and in no other's.
        given = {f"{program.pid} environment" for program in programs}
        assert len(places) > 50
        assert any("audit.log" in place for place in places)
        assert not _found({place: data for place, data in places.items() if place not in given}, canaries)
        assert not _found({place: places[place] for place in given & places.keys()}, canaries, besides="environment")


def _found(places: dict[str, bytes], canaries: dict[str, str], besides: str = "") -> list[tuple[str, str]]:
    """(where, which); the secret itself never: a failing test is a log too."""
    hits: list[tuple[str, str]] = []
    for which, credential in canaries.items():
        hidden = _hidden_part(credential).encode()
        forms = {hidden, base64.b64encode(hidden)[:40]}
        hits += [(place, which) for place, data in places.items() if any(form in data for form in forms)]
    return [(place, which) for place, which in hits if which != besides]
