"""What kubectl's users do, with the real kubectl against the embedded API over real TLS."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unit.apiserver.serving import JOE, Served, serving

SERVICE = """
apiVersion: datumapis.com/v1alpha
kind: DRTPService
metadata: {name: postgres, labels: {app: db}}
spec:
  applicationType: postgresql
  protocol: TCP
  local: {host: sqlserver.corp.com, port: 5432}
  edgeAllowlist: [203.0.113.0/24]
  expose: {port: 15432}
"""

CONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: drtp, cluster: {{server: "{url}", certificate-authority: "{ca}"}}}}]
users: [{{name: admin, user: {{token: admin-token}}}}, {{name: joe, user: {{token: joe-token}}}}]
contexts:
- {{name: admin, context: {{cluster: drtp, user: admin, namespace: joe}}}}
- {{name: joe, context: {{cluster: drtp, user: joe, namespace: joe}}}}
current-context: admin
"""


@dataclass
class Kubectl:
    """Runs kubectl with a configuration and a cache of its own."""

    program: str
    home: Path
    api: Served

    async def start(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        variables = {"PATH": os.environ["PATH"], "HOME": str(self.home), "KUBECONFIG": str(self.home / "config")}
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            self.program, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=variables | environment
        )

    async def run(self, *arguments: str, stdin: str = "", code: int = 0, **environment: str) -> str:
        """Both outputs of a run that ends with `code`."""
        process = await self.start(*arguments, **environment)
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin.encode())
        said = out.decode() + err.decode()
        assert process.returncode == code, said
        return said

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.run(*arguments, "-o", "json"))


@pytest.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Kubectl]:
    program = shutil.which("kubectl")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("kubectl is not on PATH")
        pytest.skip("kubectl is not on PATH")
    async with serving(tmp_path) as api:
        (tmp_path / "config").write_text(CONFIG.format(url=api.url, ca=api.ca))
        yield Kubectl(program, tmp_path, api)


@pytest.fixture
async def applied(kubectl: Kubectl) -> Kubectl:
    await kubectl.run("apply", "-f", "-", stdin=SERVICE)
    return kubectl


async def test_api_resources_and_version(kubectl: Kubectl) -> None:
    said = await kubectl.run("api-resources")
    for word in ("drtpservices", "drtpsvc", "httproutes", "secrets", "DRTPAccessPolicy"):
        assert word in said
    assert "internal" not in said
    assert "Server Version: v1." in await kubectl.run("version")


async def test_apply_creates_then_leaves_then_changes(applied: Kubectl) -> None:
    assert "unchanged" in await applied.run("apply", "-f", "-", stdin=SERVICE)
    assert "configured" in await applied.run("apply", "-f", "-", stdin=SERVICE.replace("15432", "15433"))
    assert (await applied.json("get", "drtpsvc", "postgres"))["spec"]["expose"]["port"] == 15433


async def test_apply_says_every_fault(kubectl: Kubectl) -> None:
    broken = SERVICE.replace("TCP", "XMPP").replace("203.0.113.0/24", "203.0.113.0")
    said = await kubectl.run("apply", "-f", "-", stdin=broken, code=1)
    assert 'spec.protocol: Unsupported value: "XMPP"' in said
    said = await kubectl.run(
        "apply", "-f", "-", stdin=SERVICE.replace("enabled", "surprise") + "  surprise: 1\n", code=1
    )
    assert 'unknown field "spec.surprise"' in said


async def test_get_tells_the_story_in_columns(applied: Kubectl) -> None:
    lines = (await applied.run("get", "drtpsvc")).splitlines()
    assert lines[0].split() == ["NAME", "PROTOCOL", "LOCAL", "ADDRESS", "READY", "AGE"]
    assert lines[1].split()[:3] == ["postgres", "TCP", "sqlserver.corp.com:5432"]
    assert "ENABLED" in await applied.run("get", "drtpsvc", "-o", "wide")
    assert "drtpservice.datumapis.com/postgres" in await applied.run("get", "drtp", "-o", "name")
    assert "kind: DRTPService" in await applied.run("get", "drtpsvc", "postgres", "-o", "yaml")
    assert "joe" in await applied.run("get", "drtpsvc", "-A")


async def test_get_watches(applied: Kubectl) -> None:
    process = await applied.start("get", "drtpsvc", "-w", "-o", "jsonpath={.spec.displayName}{'\\n'}")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"\n"
            await applied.run("patch", "drtpsvc", "postgres", "--type", "merge", "-p", '{"spec":{"displayName":"x"}}')
            assert await process.stdout.readline() == b"x\n"
    finally:
        process.kill()
        await process.wait()


async def test_get_watches_tables(applied: Kubectl) -> None:
    process = await applied.start("get", "drtpsvc", "-w")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert (await process.stdout.readline()).startswith(b"NAME")
            assert (await process.stdout.readline()).startswith(b"postgres")
            await applied.run("label", "drtpsvc", "postgres", "a=b")
            assert (await process.stdout.readline()).startswith(b"postgres")
    finally:
        process.kill()
        await process.wait()


async def test_describe_shows_events(applied: Kubectl) -> None:
    obj = await applied.json("get", "drtpsvc", "postgres")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "postgres.1", "namespace": "joe"},
        "involvedObject": {
            "apiVersion": "datumapis.com/v1alpha",
            "kind": "DRTPService",
            "name": "postgres",
            "namespace": "joe",
            "uid": obj["metadata"]["uid"],
        },
        "reason": "PortVended",
        "message": "the public port is 15432",
        "type": "Normal",
    }
    await applied.run("create", "-f", "-", stdin=json.dumps(event))
    said = await applied.run("describe", "drtpsvc", "postgres")
    assert "PortVended" in said
    assert "drtpservice/postgres" in await applied.run("get", "events")


async def test_explain_reads_the_schema(kubectl: Kubectl) -> None:
    assert "minutes" not in await kubectl.run("explain", "drtpservice")
    said = await kubectl.run("explain", "drtpservice.spec.local.port")
    assert "PORT" in said.upper()
    assert "edgeAllowlist" in await kubectl.run("explain", "drtpservice.spec", "--recursive")
    assert "GatewayClass" in await kubectl.run("explain", "gatewayclass")


async def test_wait_sees_a_condition_come(applied: Kubectl) -> None:
    process = await applied.start("wait", "--for=condition=Ready", "drtpsvc/postgres", "--timeout=20s")
    obj = await applied.json("get", "drtpsvc", "postgres")
    obj["status"] = {
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Reachable",
                "message": "",
                "lastTransitionTime": "2030-01-01T00:00:00Z",
            }
        ]
    }
    await applied.run("replace", "--subresource=status", "-f", "-", stdin=json.dumps(obj))
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert b"condition met" in out, err
    assert " True " in await applied.run("get", "drtpsvc")
    assert "timed out" in await applied.run("wait", "--for=condition=No", "drtpsvc/postgres", "--timeout=1s", code=1)
    await applied.run("delete", "drtpsvc", "postgres", "--wait=false")
    await applied.run("wait", "--for=delete", "drtpsvc/postgres", "--timeout=10s")


async def test_edit_saves_what_the_editor_wrote(applied: Kubectl) -> None:
    said = await applied.run("edit", "drtpsvc", "postgres", KUBE_EDITOR="sed -i s/15432/15434/")
    assert "edited" in said
    assert (await applied.json("get", "drtpsvc", "postgres"))["spec"]["expose"]["port"] == 15434


async def test_delete_removes_and_says_what_is_missing(applied: Kubectl) -> None:
    assert "deleted" in await applied.run("delete", "drtpsvc", "postgres", "--cascade=foreground")
    assert "not found" in await applied.run("delete", "drtpsvc", "postgres", code=1)
    await applied.run("delete", "drtpsvc", "--all")


async def test_patches_of_every_type(applied: Kubectl) -> None:
    patch = '[{"op":"replace","path":"/spec/displayName","value":"x"}]'
    await applied.run("patch", "drtpsvc", "postgres", "--type", "json", "-p", patch)
    await applied.run("patch", "drtpsvc", "postgres", "--type", "merge", "-p", '{"spec":{"enabled":false}}')
    spec = (await applied.json("get", "drtpsvc", "postgres"))["spec"]
    assert (spec["displayName"], spec["enabled"]) == ("x", False)
    await applied.run("create", "configmap", "c", "--from-literal=a=b")
    await applied.run("patch", "cm", "c", "-p", '{"data":{"x":"y"}}')
    assert (await applied.json("get", "cm", "c"))["data"] == {"a": "b", "x": "y"}
    await applied.run("label", "drtpsvc", "postgres", "a=b")
    await applied.run("annotate", "drtpsvc", "postgres", "a=b")


async def test_selectors(applied: Kubectl) -> None:
    assert "postgres" in await applied.run("get", "drtpsvc", "-l", "app in (db)")
    assert "No resources found" in await applied.run("get", "drtpsvc", "-l", "app!=db")
    assert "postgres" in await applied.run("get", "drtpsvc", "--field-selector", "metadata.name=postgres")
    assert "No resources found" in await applied.run("get", "drtpsvc", "--field-selector", "metadata.name=no")


async def test_create_sends_protobuf(kubectl: Kubectl) -> None:
    await kubectl.run("create", "namespace", "zed")
    await kubectl.run("create", "-n", "zed", "secret", "generic", "s", "--from-literal=a=b")
    await kubectl.run("create", "-n", "zed", "configmap", "c", "--from-literal=a=b")
    await kubectl.run("create", "-n", "zed", "service", "clusterip", "v", "--tcp=80:8080")
    assert (await kubectl.json("get", "-n", "zed", "secret", "s"))["data"] == {"a": "Yg=="}
    ports = (await kubectl.json("get", "-n", "zed", "service", "v"))["spec"]["ports"]
    assert (ports[0]["port"], ports[0]["targetPort"]) == (80, 8080)
    assert "Active" in await kubectl.run("get", "ns", "zed")
    await kubectl.run("delete", "namespace", "zed")
    assert "NotFound" in await kubectl.run("get", "ns", "zed", code=1)


async def test_auth_tells_who_and_what(kubectl: Kubectl) -> None:
    assert "joe" in await kubectl.run("--context", "joe", "auth", "whoami")
    assert await kubectl.run("--context", "joe", "auth", "can-i", "create", "drtpservices") == "yes\n"
    assert "no" in await kubectl.run("--context", "joe", "auth", "can-i", "create", "drtpservices", "-n", "eve", code=1)
    assert "drtpservices.datumapis.com" in await kubectl.run("--context", "joe", "auth", "can-i", "--list")


async def test_refusals_read_well(kubectl: Kubectl) -> None:
    said = await kubectl.run("--context", "joe", "get", "drtpsvc", "-n", "eve", code=1)
    assert 'User "joe" cannot list resource "drtpservices"' in said
    assert "DRTP-1012" in said
    said = await kubectl.run("--token", f"{JOE}x", "--context", "joe", "get", "drtpsvc", code=1)
    assert "logged in" in said or "Unauthorized" in said


async def test_diff_and_dry_run_change_nothing(applied: Kubectl) -> None:
    changed = SERVICE.replace("15432", "15439")
    said = await applied.run("diff", "-f", "-", stdin=changed, code=1)
    assert "+    port: 15439" in said
    assert "server dry run" in await applied.run("apply", "--dry-run=server", "-f", "-", stdin=changed)
    assert (await applied.json("get", "drtpsvc", "postgres"))["spec"]["expose"]["port"] == 15432


async def test_replace_and_gateway_kinds(applied: Kubectl) -> None:
    assert "replaced" in await applied.run("replace", "-f", "-", stdin=SERVICE.replace("15432", "15440"))
    route = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: global, namespace: datum-system}]
  hostnames: [web.example.com]
  rules: [{backendRefs: [{group: datumapis.com, kind: DRTPService, name: postgres}]}]
"""
    await applied.run("apply", "-f", "-", stdin=route)
    assert "web.example.com" in await applied.run("get", "httproute")


async def test_server_side_apply_owns_its_fields(kubectl: Kubectl) -> None:
    assert "serverside-applied" in await kubectl.run("apply", "--server-side", "-f", "-", stdin=SERVICE)
    assert "serverside-applied" in await kubectl.run("apply", "--server-side", "-f", "-", stdin=SERVICE)
    without = SERVICE.replace("  expose: {port: 15432}\n", "")
    await kubectl.run("apply", "--server-side", "-f", "-", stdin=without)
    assert "expose" not in (await kubectl.json("get", "drtpsvc", "postgres"))["spec"]
    other = SERVICE.replace("5432}", "5433}")
    manager = "--field-manager=other"
    said = await kubectl.run("apply", "--server-side", manager, "-f", "-", stdin=other, code=1)
    assert 'conflict with "kubectl"' in said
    assert ".spec.local.port" in said
    await kubectl.run("apply", "--server-side", manager, "--force-conflicts", "-f", "-", stdin=other)
    assert (await kubectl.json("get", "drtpsvc", "postgres"))["spec"]["local"]["port"] == 5433


async def test_server_side_apply_after_client_side_apply(applied: Kubectl) -> None:
    await applied.run("apply", "--server-side", "-f", "-", stdin=SERVICE.replace("15432", "15500"))
    assert (await applied.json("get", "drtpsvc", "postgres"))["spec"]["expose"]["port"] == 15500
    said = await applied.run("diff", "--server-side", "-f", "-", stdin=SERVICE.replace("15432", "15501"), code=1)
    assert "15501" in said


async def test_roles_are_made_shown_and_given_by_kubectl(kubectl: Kubectl) -> None:
    await kubectl.run("create", "role", "reader", "--verb=get,list", "--resource=drtpservices.datumapis.com")
    await kubectl.run("create", "rolebinding", "eve", "--role=reader", "--user=eve", "--group=partners")
    await kubectl.run("create", "clusterrole", "pages", "--verb=get", "--non-resource-url=/status/*")
    await kubectl.run("create", "clusterrole", "sum", "--aggregation-rule=a=b")
    await kubectl.run("create", "clusterrolebinding", "pages", "--clusterrole=pages", "--serviceaccount=joe:robot")
    said = await kubectl.run("describe", "role", "reader")
    assert "drtpservices.datumapis.com" in said
    assert "[get list]" in said
    said = await kubectl.run("get", "rolebindings", "-o", "wide")
    assert [word for word in ("reader", "eve", "partners") if word not in said] == []
    assert "robot" in await kubectl.run("describe", "clusterrolebinding", "pages")
    assert (
        "a"
        in (await kubectl.json("get", "clusterrole", "sum"))["aggregationRule"]["clusterRoleSelectors"][0][
            "matchLabels"
        ]
    )
    assert "roleRef" in await kubectl.run("explain", "rolebinding")
    await kubectl.run("create", "rolebinding", "joe-admin", "--clusterrole=admin", "--user=joe")
    joe = ("--context", "joe")
    await kubectl.run(*joe, "create", "rolebinding", "friend", "--clusterrole=edit", "--user=friend")
    said = await kubectl.run(*joe, "create", "rolebinding", "up", "--clusterrole=cluster-admin", "--user=joe", code=1)
    assert "DRTP-1030" in said
    assert await kubectl.run(*joe, "auth", "can-i", "create", "rolebindings") == "yes\n"
    assert "localsubjectaccessreviews" in await kubectl.run(*joe, "auth", "can-i", "--list")
    for user, allowed in (("friend", "true"), ("stranger", "false")):
        asked = {"verb": "get", "resource": "secrets", "namespace": "joe"}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "LocalSubjectAccessReview",
            "metadata": {"namespace": "joe"},
            "spec": {"user": user, "resourceAttributes": asked},
        }
        answer = ("create", "--validate=false", "-f", "-", "-o", "jsonpath={.status.allowed}")
        assert await kubectl.run(*joe, *answer, stdin=json.dumps(review)) == allowed
    assert "no" in await kubectl.run(*joe, "auth", "can-i", "list", "namespaces", code=1)
    assert "impersonation" in await kubectl.run("--as", "joe", "get", "drtpsvc", code=1)
