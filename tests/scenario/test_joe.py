"""The story of Joe: an organisation and Joe by the operator, a service by Joe, agents by its secret alone."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, tcp_service

ORGANIZATION, PROJECT = "corp", "databases"


@dataclass
class Joe:
    """An owner with the context that the operator's command wrote, and machines with nothing on them."""

    bed: Bed
    context: Path
    folder: Path

    def datumctl(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.bed.datumctl("--context", str(self.context), *argv, check=check)

    def told(self, *argv: str) -> dict[str, Any]:
        return json.loads(self.datumctl(*argv, "--output", "json").stdout)

    def service(self, name: str, port: int) -> dict[str, Any]:
        place = ("--local", f"localhost:{port}", "--expose", "--allow", "127.0.0.1/32", "--lifetime", "10")
        return self.told("create", "service", f"{PROJECT}/{name}", "--protocol", "TCP", *place)

    def agent(self, *argv: str, machine: str) -> Program:
        """On a machine that has `datumctl`, a home of its own, and no word of a control plane."""
        home = self.folder / machine
        home.mkdir(exist_ok=True)
        command = [BIN / "datumctl", "serve", *argv, "--output", "json", "--inspector", "127.0.0.1:0"]
        program = Program(command, bare(home), cwd=home)
        self.bed.programs.append(program)
        return program

    def secret_file(self, text: str, name: str) -> Path:
        file = self.folder / name
        file.touch(0o600)
        file.write_text(text)
        return file


def bare(home: Path, path: str = os.environ["PATH"]) -> dict[str, str]:
    """An environment with a home and nothing else; where the code under test lies is no part of it."""
    code = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return {"HOME": str(home), "PATH": path, **code}


def visit(ready: dict[str, Any]) -> bytes:
    host, port = ready["address"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as visitor:
        visitor.sendall(b"query")
        return visitor.recv(5)


@pytest.fixture(scope="module")
def joe(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joe]:
    folder = tmp_path_factory.mktemp("joe")
    operator = ("--context", bed.ready["kubeconfig"], "create")
    bed.datumctl(*operator, "organization", ORGANIZATION)
    context = folder / "joe.json"
    who = ("--organization", ORGANIZATION, "--role", "owner", "--context-file", str(context))
    bed.datumctl(*operator, "user", "joe-of-corp", *who)
    joe = Joe(bed, context, folder)
    assert joe.told("create", "project", f"{ORGANIZATION}/{PROJECT}")["organization"] == ORGANIZATION
    yield joe
    bed.kubectl("delete", "namespace", PROJECT)
    bed.kubectl("delete", "namespace", ORGANIZATION)


def test_an_agent_in_an_empty_environment_needs_the_secret_alone_and_later_nothing(joe: Joe) -> None:
    with tcp_service(echo) as port:
        made = joe.service("db", port)
        assert made["service"] == f"{PROJECT}/db"
        assert re.fullmatch(r"drtp_enr_\w+@[^#]+:\d+#[\w-]{43}", made["secret"])
        file = joe.secret_file(made["secret"], "db.secret")
        own = ("--service", f"{PROJECT}/db", "--state-dir", "state")
        first = joe.agent(*own, "--secret-file", str(file), machine="server")
        ready = first.event("ready", 30)
        assert (ready["namespace"], ready["service"]) == (PROJECT, "db")
        assert visit(ready) == b"query"
        arguments = Path(f"/proc/{first.pid}/cmdline").read_bytes() + Path(f"/proc/{first.pid}/environ").read_bytes()
        assert b"drtp_enr_" not in arguments
        first.stop(signal.SIGINT)
        file.unlink()
        for restart in (own, (*own, "--secret-file", str(file))):
            again = joe.agent(*restart, machine="server")
            assert again.event("ready", 30)["address"] == ready["address"]
            assert visit(ready) == b"query"
            again.stop(signal.SIGINT)
        state = b"".join(one.read_bytes() for one in (joe.folder / "server").rglob("*") if one.is_file())
        assert made["secret"].partition("@")[0].encode() not in state


def test_three_replicas_share_a_capped_secret_and_a_fourth_is_refused(joe: Joe) -> None:
    with tcp_service(echo) as port:
        joe.datumctl(
            *("create", "service", f"{PROJECT}/replicated", "--protocol", "TCP", "--local", f"localhost:{port}"),
            *("--expose", "--allow", "127.0.0.1/32", "--no-secret"),
        )
        made = joe.told("credentials", f"{PROJECT}/replicated", "--uses", "3")
        file = joe.secret_file(made["secret"], "replicated.secret")
        own = ("--service", f"{PROJECT}/replicated", "--state-dir", "state", "--secret-file", str(file))
        replicas = [joe.agent(*own, machine=f"replica-{number}") for number in range(3)]
        ready = [one.event("ready", 30) for one in replicas]
        assert len({one["address"] for one in ready}) == 1
        assert len(joe.bed.connections("replicated")) == 3
        fourth = joe.agent(*own, machine="replica-3")
        assert fourth.process.wait(30) == 77, fourth.story()
        assert "DRTP-2002" in fourth.story()
        for one in replicas[:2]:
            one.stop(signal.SIGINT)
        assert eventually(lambda: visit(ready[2]) == b"query", 10)
        replicas[2].stop(signal.SIGINT)


def test_a_secret_of_another_service_serves_nothing(joe: Joe) -> None:
    with tcp_service(echo) as port:
        own = joe.service("own", port)
        joe.service("others", port)
        file = joe.secret_file(own["secret"], "own.secret")
        agent = joe.agent("--service", f"{PROJECT}/others", "--secret-file", str(file), "--once", machine="mixed")
        assert agent.process.wait(45) == 1, agent.story()
        assert "DRTP-4012" in agent.story()
        assert f"{PROJECT}/own was not named here" in agent.story()
        with pytest.raises(AssertionError):
            agent.event("ready", 1)
        joe.bed.kubectl("delete", "drtpservice", "own", "others", "-n", PROJECT)


def run_as_root(text: str, folder: Path) -> None:
    """The text in a shell, `/etc` and `sudo` within the folder: both are another machine's."""
    tools = folder / "bin"
    tools.mkdir()
    for name, body in (("sudo", 'exec "$@"'), ("systemctl", f'echo "$@" >> {folder}/systemctl')):
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    (folder / "etc" / "systemd" / "system").mkdir(parents=True)
    env = {"PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-eu", "-c", text.replace("/etc/", f"{folder}/etc/")], env=env, check=True, timeout=30)


def exec_start(unit: str, variables: dict[str, str]) -> list[str]:
    """What systemd runs of a unit, `${…}` as it expands them."""
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    return [re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], word) for word in shlex.split(line)]


def test_the_instructions_for_a_shell_and_for_systemd_start_an_agent_as_they_stand(joe: Joe, tmp_path: Path) -> None:
    with tcp_service(echo) as port:
        made = joe.service("pasted", port)
        pasted = made["instructions"]
        assert {*pasted} == {"shell", "container", "systemd", "kubernetes"}
        for text in pasted.values():
            assert [line for line in text.splitlines() if "drtp_enr_" in line and "datumctl" in line] == []
        paths = bare(tmp_path, f"{BIN}:{os.environ['PATH']}")
        shell = Program(["sh", "-eu", "-c", f"exec 2>&1; {pasted['shell']}"], paths, cwd=tmp_path)
        joe.bed.programs.append(shell)
        address = eventually(lambda: next((one for one in shell.out.seen if re.fullmatch(r"[\d.]+:\d+", one)), ""), 30)
        assert visit({"address": address}) == b"query"
        for child in psutil.Process(shell.pid).children():
            child.send_signal(signal.SIGINT)
        shell.process.wait(20)

        pasted = joe.told("credentials", f"{PROJECT}/pasted")["instructions"]
        run_as_root(pasted["systemd"], tmp_path)
        name = f"drtp-{PROJECT}-pasted"
        assert f"enable --now {name}.service" in (tmp_path / "systemctl").read_text()
        unit = (tmp_path / "etc" / "systemd" / "system" / f"{name}.service").read_text()
        (credential,) = re.findall(r"^LoadCredential=secret:(.*)$", unit, re.MULTILINE)
        assert Path(credential).stat().st_mode & 0o077 == 0
        (tmp_path / "credentials").mkdir()
        (tmp_path / "credentials" / "secret").write_bytes(Path(credential).read_bytes())
        (tmp_path / "varlib").mkdir(0o700)
        at = {"CREDENTIALS_DIRECTORY": f"{tmp_path}/credentials", "STATE_DIRECTORY": f"{tmp_path}/varlib"}
        service = Program([*exec_start(unit, at), "--output", "json"], {**paths, **at}, cwd=tmp_path)
        joe.bed.programs.append(service)
        assert visit(service.event("ready", 30)) == b"query"
        service.stop(signal.SIGINT)


def test_kept_in_a_secret_it_is_there_until_it_is_spent(joe: Joe) -> None:
    with tcp_service(echo) as port:
        joe.datumctl(
            *("create", "service", f"{PROJECT}/kept", "--protocol", "TCP", "--local", f"localhost:{port}"),
            *("--expose", "--allow", "127.0.0.1/32", "--keep-in", "kept-agent"),
        )
        of_service = ("get", "drtpservice", "kept", "-n", PROJECT, "-o")
        said = ("jsonpath={.status.credentialsSecretRef.name}",)
        assert eventually(lambda: joe.bed.kubectl(*of_service, *said) == "kept-agent", 10)
        held = joe.bed.kubectl("get", "secret", "kept-agent", "-n", PROJECT, "-o", "jsonpath={.data.secret}")
        file = joe.secret_file(base64.b64decode(held).decode(), "kept.secret")
        own = ("--service", f"{PROJECT}/kept", "--state-dir", "state", "--secret-file", str(file))
        agent = joe.agent(*own, machine="kept")
        agent.event("ready", 30)
        assert eventually(lambda: joe.bed.kubectl(*of_service, *said) == "", 10)
        assert joe.bed.kubectl("get", "secret", "kept-agent", "-n", PROJECT, check=False) == ""
        agent.stop(signal.SIGINT)


def test_a_partner_who_accepts_an_invitation_looks_and_does_no_more(joe: Joe, tmp_path: Path) -> None:
    operator = ("--context", joe.bed.ready["kubeconfig"], "create")
    partner = str(tmp_path / "partner.json")
    joe.bed.datumctl(*operator, "project", "partners-own")
    joe.bed.datumctl(*operator, "user", "pat", "--project", "partners-own", "--context-file", partner)
    invitation = joe.told("create", "invitation", "--organization", ORGANIZATION, "--role", "viewer")["invitation"]
    file = joe.secret_file(invitation, "invitation")

    def get(*argv: str) -> int:
        return joe.bed.datumctl("--context", partner, *argv, "--namespace", PROJECT, check=False).returncode

    assert get("get", "drtpservices") == 77
    joe.bed.datumctl("--context", partner, "accept", "--invitation-file", str(file))
    assert get("get", "drtpservices") == 0
    assert get("get", "secrets") == 77
    assert get("disable", "db") == 77
    refused = joe.datumctl("accept", "--invitation-file", str(file), check=False)
    assert (refused.returncode, "DRTP-2022" in refused.stderr) == (77, True)
    joe.bed.kubectl("delete", "namespace", "partners-own")


def test_a_quota_ends_what_an_owner_can_make_and_how_many_agents_come(joe: Joe) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": ORGANIZATION}}
    agents = len(
        {
            one["spec"]["client"]["agentID"]
            for one in joe.bed.objects("drtpconnections")
            if one["metadata"]["namespace"] == PROJECT
        }
    )
    hard = {"datumapis.com/projects": 1, "datumapis.com/agents": agents}
    joe.bed.kubectl("apply", "-f", "-", stdin=json.dumps({**quota, "spec": {"hard": hard}}))
    try:
        refused = joe.datumctl("create", "project", f"{ORGANIZATION}/more", check=False)
        assert (refused.returncode, "DRTP-2024" in refused.stderr) == (77, True)
        with tcp_service(echo) as port:
            file = joe.secret_file(joe.service("beyond", port)["secret"], "beyond.secret")
            own = ("--service", f"{PROJECT}/beyond", "--state-dir", "state", "--secret-file", str(file))
            agent = joe.agent(*own, machine="beyond")
            assert agent.process.wait(30) == 77, agent.story()
            assert "DRTP-2024" in agent.story()
        assert f"datumapis.com/agents: {agents}/{agents}" in joe.bed.kubectl("get", "quota", "-n", ORGANIZATION)
    finally:
        joe.bed.kubectl("delete", "quota", "small", "-n", ORGANIZATION)
