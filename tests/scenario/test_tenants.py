"""Two projects that want the same things. The second is told so, and learns nothing of the first."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, free_port, require, tcp_service

FIRST, SECOND = "harbour", "lantern"
GATEWAY = {"name": "global", "namespace": "datum-system"}
GROUP = "gateway.networking.k8s.io"


@dataclass
class Tenant:
    """A user of one project with the context and kubeconfig that the operator's command wrote."""

    bed: Bed
    project: str
    folder: Path

    def kubectl(self, *argv: str, stdin: str | None = None) -> tuple[int, str]:
        """Exit status, and both outputs."""
        done = subprocess.run(
            [require("kubectl"), "--kubeconfig", str(self.folder / "kubeconfig"), *argv],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.bed.env,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def json(self, *argv: str) -> dict[str, Any]:
        status, said = self.kubectl(*argv, "-o", "json")
        assert status == 0, said
        return json.loads(said)

    def apply(self, kind: str, name: str, spec: dict[str, Any], api_version: str = f"{GROUP}/v1") -> None:
        document = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}
        status, said = self.kubectl("apply", "-f", "-", stdin=json.dumps(document))
        assert status == 0, said

    def serve(self, *argv: str) -> Program:
        context = ("--context", str(self.folder / "context.json"))
        program = Program([BIN / "datumctl", *context, "serve", *argv, "--output", "json"], self.bed.env)
        self.bed.programs.append(program)
        return program

    def seen(self) -> str:
        """Everything of the project that its user can read, events included."""
        kinds = "drtpservices,drtpconnections,httproutes,tcproutes,listenersets,events"
        return self.kubectl("get", kinds, "-o", "yaml")[1]


@pytest.fixture(scope="module")
def tenants(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tenant, Tenant]]:
    """Two projects with a user each, made by the operator's commands."""
    made: list[Tenant] = []
    for project in (FIRST, SECOND):
        folder = tmp_path_factory.mktemp(project)
        operator = ("--context", bed.ready["kubeconfig"], "create")
        bed.datumctl(*operator, "project", project)
        files = ("--context-file", str(folder / "context.json"), "--kubeconfig", str(folder / "kubeconfig"))
        bed.datumctl(*operator, "user", f"{project}-user", "--project", project, "--role", "editor", *files)
        assert (folder / "context.json").stat().st_mode & 0o077 == 0
        made.append(Tenant(bed, project, folder))
    first, second = made
    yield first, second
    bed.kubectl("delete", "namespace", FIRST, SECOND)


def names_of(first: Tenant) -> list[str]:
    """What would give the first away: its project, its user, the uids of its objects."""
    listed = first.json("get", "drtpservices,httproutes,listenersets,tcproutes")
    return [FIRST, *(item["metadata"]["uid"] for item in listed["items"])]


def condition(tenant: Tenant, kind: str, name: str, wanted: str) -> dict[str, Any]:
    """The condition of this type, on the object or for its first parent."""
    status: dict[str, Any] = tenant.json("get", kind, name).get("status", {})
    found = [*status.get("conditions", ()), *(c for p in status.get("parents", ()) for c in p.get("conditions", ()))]
    return next((one for one in found if one["type"] == wanted), {})


def refused(tenant: Tenant, kind: str, name: str, wanted: str) -> dict[str, Any]:
    return eventually(lambda: (one := condition(tenant, kind, name, wanted)).get("status") == "False" and one, 30)


def test_the_same_service_name_is_two_services_with_two_addresses(tenants: tuple[Tenant, Tenant]) -> None:
    with tcp_service(echo) as port:
        ready: list[dict[str, Any]] = []
        programs: list[Program] = []
        for tenant in tenants:
            programs.append(tenant.serve(f"tcp://localhost:{port}", "--name", "twin"))
            ready.append(programs[-1].event("ready", 30))
        assert [one["namespace"] for one in ready] == [FIRST, SECOND]
        assert ready[0]["address"] != ready[1]["address"]
        assert [name for name in names_of(tenants[0]) if name in tenants[1].seen()] == []
        for program in programs:
            program.stop()


def test_a_taken_port_is_refused_without_a_word_about_who_has_it(tenants: tuple[Tenant, Tenant]) -> None:
    first, second = tenants
    port = free_port()
    spec = {"protocol": "TCP", "local": {"host": "localhost", "port": 5432}, "expose": {"port": port}}
    first.apply("DRTPService", "wanted-port", spec, "datumapis.com/v1alpha")
    eventually(lambda: f"port: {port}" in first.kubectl("get", "listenersets", "-o", "yaml")[1], 30)
    second.apply("DRTPService", "wanted-port", spec, "datumapis.com/v1alpha")
    said = refused(second, "drtpservice", "wanted-port", "Exposed")
    assert str(port) in said["message"]
    assert [name for name in names_of(first) if name in second.seen()] == []


def test_a_hand_written_route_on_anothers_hostname_gets_no_visitor_and_no_name(
    bed: Bed, tenants: tuple[Tenant, Tenant]
) -> None:
    first, second = tenants
    host = "shared-name.prism.localhost"
    for tenant in tenants:
        spec = {"protocol": "HTTP", "local": {"host": "localhost", "port": 8080}}
        tenant.apply("DRTPService", "shop", spec, "datumapis.com/v1alpha")
    route = {
        "parentRefs": [{"group": GROUP, "kind": "Gateway", **GATEWAY}],
        "hostnames": [host],
        "rules": [{"backendRefs": [{"group": "datumapis.com", "kind": "DRTPService", "name": "shop"}]}],
    }
    first.apply("HTTPRoute", "shop", route)
    eventually(lambda: condition(first, "httproute", "shop", "Accepted").get("status") == "True", 30)
    second.apply("HTTPRoute", "shop", route)
    said = refused(second, "httproute", "shop", "Accepted")
    assert host in said["message"]
    crossing = {**route, "hostnames": ["crossing.prism.localhost"]}
    crossing["rules"] = [
        {"backendRefs": [{"group": "datumapis.com", "kind": "DRTPService", "name": name, "namespace": FIRST}]}
        for name in ("shop", "no-such-service")
    ]
    second.apply("HTTPRoute", "crossing", crossing)
    assert refused(second, "httproute", "crossing", "ResolvedRefs")["reason"] == "RefNotPermitted"
    second.kubectl("delete", "httproute", "crossing")
    eventually(lambda: [name for name in names_of(first) if name in second.seen()] == [], 10)
    assert condition(first, "httproute", "shop", "Accepted")["status"] == "True"


def test_what_is_anothers_answers_403_whether_it_is_there_or_not(tenants: tuple[Tenant, Tenant]) -> None:
    first, second = tenants
    first.apply(
        "DRTPService", "there", {"protocol": "TCP", "local": {"host": "localhost", "port": 1}}, "datumapis.com/v1alpha"
    )
    for command in (
        ("get", "drtpservice", "NAME", "-n", FIRST),
        ("delete", "drtpservice", "NAME", "-n", FIRST),
        ("create", "configmap", "NAME", "-n", FIRST),
        ("create", "secret", "generic", "NAME", "-n", FIRST),
        ("create", "namespace", "NAME"),
        ("get", "namespace", "NAME"),
        ("get", "events", "-n", FIRST),
        ("get", "ns"),
        ("get", "drtpservices", "--all-namespaces"),
        ("get", "secrets", "-n", "datum-system"),
        ("get", "drtpservices", "-n", "no-such-project"),
    ):
        name = FIRST if "namespace" in command[1] else "there"
        there = second.kubectl(*(word.replace("NAME", name) for word in command))
        absent = second.kubectl(*(word.replace("NAME", "absent") for word in command))
        assert (there[0], "orbidden" in there[1]) == (1, True), there
        assert absent == (1, there[1].replace(f'"{name}"', '"absent"') if "NAME" in command else there[1])


def test_can_i_tells_what_the_request_would_meet(bed: Bed, tenants: tuple[Tenant, Tenant]) -> None:
    _, second = tenants
    assert f"{SECOND}-user" in second.kubectl("auth", "whoami")[1]
    for question, answer in (
        (("create", "drtpservices"), "yes"),
        (("get", "secrets"), "yes"),
        (("create", "rolebindings"), "no"),
        (("update", "drtpservices", "--subresource", "status"), "no"),
        (("create", "drtpservices", "-n", FIRST), "no"),
        (("list", "namespaces"), "no"),
        (("list", "drtpservers"), "yes"),
    ):
        assert second.kubectl("auth", "can-i", *question)[1].split()[0] == answer, question
    assert "drtpservices.datumapis.com" in second.kubectl("auth", "can-i", "--list")[1]
    assert "endpointslices" not in second.kubectl("auth", "can-i", "--list")[1]
    assert second.kubectl("get", "ns", SECOND)[0] == 0
    # Shared with the neighbour as a viewer, by the operator, until it is taken back.
    share = ("rolebinding", "guest", "-n", SECOND)
    bed.kubectl("create", *share, "--clusterrole=view", f"--user={FIRST}-user")
    first = tenants[0]
    assert first.kubectl("get", "drtpservices", "-n", SECOND)[0] == 0
    assert first.kubectl("get", "secrets", "-n", SECOND)[0] == 1
    bed.kubectl("delete", *share)
    assert first.kubectl("get", "drtpservices", "-n", SECOND)[0] == 1
