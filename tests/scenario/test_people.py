"""People and workloads, as an issuer that is not ours says who they are: sign-in, roles, kubectl, tokens, revocation.

The issuer is `oidc-provider` from npm, run here; the browser is plain HTTP that fills in forms.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, require, tcp_service
from scenario.browsing import HTML, Person, mirror
from webforms import browser, walk

PROVIDER = Path(__file__).parents[1] / "oidc" / "provider.mjs"
PASSWORD = "a long enough password for joe"


def foreign_issuer(folder: Path, **environment: str) -> Program:
    """The foreign provider, running. Skips by name on a user's machine, fails in CI."""
    node = require("node")
    if not (PROVIDER.parent / "node_modules" / "oidc-provider").is_dir():
        how = "npm install --no-package-lock --ignore-scripts"
        missing = f"npm's oidc-provider is not installed: run `{how}` in tests/oidc"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{missing}, and CI must not skip")
        pytest.skip(missing)
    return Program([node, PROVIDER], {**os.environ, **environment}, cwd=folder)


@dataclass
class People:
    """A bed whose control plane trusts a foreign issuer, and what people there do."""

    bed: Bed
    issuer: str
    provider: Program
    folder: Path

    @property
    def api(self) -> str:
        return json.loads(Path(self.bed.ready["context"]).read_text())["api"]

    def context(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / "context.json"

    def command(self, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """`datumctl --context <name's> …`"""
        return subprocess.run(
            [str(BIN / "datumctl"), "--context", str(self.context(name)), *argv],
            capture_output=True,
            text=True,
            env=self.bed.env,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def sign_in(self, name: str, *options: str, password: str = "any", ca: Path | None = None) -> dict[str, Any]:
        """`datumctl login` and a browser; the event that says who it is. Without a terminal the issuer is named."""
        trust = ("--ca-file", str(ca or self.ca))
        options = options if "--issuer" in options else ("--issuer", self.issuer, *options)
        argv = ("login", self.api, *trust, "--no-browser", *options, "--output", "json")
        program = Program([BIN / "datumctl", "--context", self.context(name), *argv], self.bed.env)
        asked = program.event("device" if "--device" in options else "browser")
        url = asked.get("complete") or asked["url"]
        asyncio.run(self._visit(url, name, password))
        return program.event("signedIn")

    async def _visit(self, url: str, name: str, password: str) -> None:
        async with browser(self.ca.read_bytes()) as person:
            await walk(person, url, name, password)

    @property
    def ca(self) -> Path:
        context = json.loads(Path(self.bed.ready["context"]).read_text())
        path = self.folder / "ca.pem"
        path.write_text(context["ca"])
        return path

    def bind(self, user: str, role: str, namespace: str = "default", name: str = "people") -> None:
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }
        self.bed.kubectl("apply", "-f", "-", stdin=json.dumps(binding))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("people")
    provider = foreign_issuer(folder)
    bed = Bed(folder)
    try:
        issuer = json.loads(provider.line())["issuer"]
        settings = bed.data / "controlplane"
        settings.mkdir(parents=True, mode=0o700)
        bed.data.chmod(0o700)
        scopes = ["openid", "offline_access", "groups"]
        entry = {"issuer": issuer, "clientID": "drtp-cli", "groupsClaim": "groups", "scopes": scopes}
        (settings / "issuers.yaml").write_text(json.dumps({"issuers": [entry]}))
        yield People(bed.start(), issuer, provider, folder)
    finally:
        bed.close()
        provider.stop()


def test_somebody_of_a_foreign_issuer_signs_in_serves_and_is_put_out(people: People) -> None:
    """The story: login, whoami, a role, a service, serve with that context, kubectl, revocation."""
    user = f"{people.issuer}#sam"
    assert people.sign_in("sam")["user"] == user
    held = people.context("sam").with_name("context.json.login")
    assert held.stat().st_mode & 0o077 == 0
    told = json.loads(people.command("sam", "whoami", "--output", "json").stdout)
    assert told["username"] == user and f"{people.issuer}#staff" in told["groups"]
    denied = people.command("sam", "get", "drtpservices")
    assert denied.returncode == 77, denied.stderr

    people.bind(user, "edit")
    eventually(lambda: people.command("sam", "get", "drtpservices").returncode == 0)
    with tcp_service(echo) as port:
        argv = ("serve", f"tcp://localhost:{port}", "--name", "sams", "--output", "json")
        serving = Program([BIN / "datumctl", "--context", people.context("sam"), *argv], people.bed.env)
        people.bed.programs.append(serving)
        assert serving.event("ready")["service"] == "sams"
        assert serving.stop() == 0

    kubeconfig = people.folder / "sam.kubeconfig"
    assert people.command("sam", "auth", "kubeconfig", str(kubeconfig)).returncode == 0
    env = {**people.bed.env, "PATH": f"{BIN}:{os.environ['PATH']}"}
    argv = [require("kubectl"), "--kubeconfig", str(kubeconfig), "auth", "whoami", "-o", "json"]
    said = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["status"]["userInfo"]["username"] == user

    behind = people.bed.datumctl("--context", str(kubeconfig), "whoami")
    assert behind.stdout.strip() == user

    people.bed.datumctl("--context", people.bed.ready["kubeconfig"], "revoke", "user", user)
    assert people.command("sam", "whoami").returncode == 77


def test_a_device_is_signed_in_at_either_issuer(people: People) -> None:
    assert people.sign_in("ann", "--device")["user"] == f"{people.issuer}#ann"
    people.bind("joe", "edit", name="joe")
    done = subprocess.run(
        [str(BIN / "datumctl"), "--context", people.bed.ready["kubeconfig"], "create", "password", "joe"],
        input=f"{PASSWORD}\n",
        capture_output=True,
        text=True,
        env=people.bed.env,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    local = f"{people.api}/oidc"
    assert people.sign_in("joe", "--issuer", local, "--device", password=PASSWORD)["user"] == "joe"
    assert people.sign_in("joe", "--issuer", local, password=PASSWORD)["user"] == "joe"
    assert people.command("joe", "get", "drtpservices").returncode == 0


def test_tokens_of_ones_own_are_narrow_and_end_when_deleted(people: People) -> None:
    user = f"{people.issuer}#tom"
    people.sign_in("tom")
    people.bind(user, "edit", name="tom")
    narrow = people.context("narrow")
    made = people.command(
        "tom", "create", "token", "--project", "default", "--read-only", "--context-file", str(narrow), "-o", "json"
    )
    assert made.returncode == 0, made.stderr
    token_id = json.loads(made.stdout)["id"]
    eventually(lambda: people.command("narrow", "get", "drtpservices").returncode == 0)
    assert people.command("narrow", "whoami").stdout.strip() == user
    service = ["serve", "--name", "x", "--once", "tcp://localhost:1"]
    assert people.command("narrow", *service).returncode == 77
    wider = people.command("narrow", "create", "token", "--days", "300")
    assert wider.returncode == 77, wider.stderr
    assert token_id in people.command("tom", "tokens", "list").stdout
    certified = people.folder / "tom.kubeconfig"
    assert people.command("tom", "auth", "client-certificate", str(certified)).returncode == 0
    argv = [require("kubectl"), "--kubeconfig", str(certified), "auth", "whoami", "-o", "json"]
    said = subprocess.run(argv, capture_output=True, text=True, env=people.bed.env, timeout=60, check=False)
    assert json.loads(said.stdout)["status"]["userInfo"]["username"] == user, said.stderr
    assert people.command("tom", "tokens", "delete", token_id).returncode == 0
    assert people.command("narrow", "whoami").returncode == 77


def test_a_group_of_a_foreign_issuer_opens_a_site_on_the_web(people: People, tmp_path: Path) -> None:
    """Whoever is of the organisation by a group signs in at their own issuer, and is told which site wants to know."""
    bed, operator = people.bed, ("--context", people.bed.ready["kubeconfig"])
    bed.datumctl(*operator, "create", "organization", "staffers")
    group = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "staff", "namespace": "staffers"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "organization-viewer"},
        "subjects": [{"apiGroup": group, "kind": "Group", "name": f"{people.issuer}#staff"}],
    }
    bed.kubectl("apply", "-f", "-", stdin=json.dumps(binding))
    server, port = mirror()
    site = bed.serve(f"http://localhost:{port}", "--name", "staff-site")
    target = {"group": "datumapis.com", "kind": "DRTPService", "name": site.service}
    spec = {"targetRefs": [target], "rules": [{"name": "r", "action": "Allow", "organizations": ["staffers"]}]}
    named = {"name": "staff", "namespace": site.namespace}
    body = {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPAccessPolicy", "metadata": named, "spec": spec}
    bed.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    liz, url = Person.of(bed, tmp_path, "liz"), f"https://{site.name}:{bed.https[1]}/"
    eventually(lambda: liz.get(url, *HTML).status == 302)
    page = liz.follow(liz.get(url, *HTML))
    assert site.name in page.text and "With an account here" in page.text
    page = liz.follow(liz.submit(page, issuer=people.issuer))
    for _ in range(5):  # its forms: who, and consent
        if "<form" in page.text:
            fields = {name: "liz" for name in page.form()[1] if name in {"login", "password"}}
            page = liz.follow(liz.submit(page, **fields))
    assert page.status == 200, page.text
    assert json.loads(page.text)["x-drtp-visitor"] == f"user:{people.issuer}#liz"
    site.stop()
    server.shutdown()


def test_a_workload_enrols_by_its_own_token_where_the_owner_lets_it_and_nowhere_else(people: People) -> None:
    """No secret: a file with an ID token of a trusted issuer, and a role with the verb `serve` on one service."""
    user = f"{people.issuer}#robot"
    people.sign_in("robot")
    token = people.folder / "identity-token"
    token.write_text(people.command("robot", "auth", "get-token").stdout)
    place = people.bed.datumctl("auth", "control-plane").stdout.strip()

    def serve(service: str, port: int) -> Program:
        state = ("--state-dir", people.folder / f"state-{service}", "--once", "--no-inspector", "--output", "json")
        argv = ("serve", f"tcp://localhost:{port}", "--service", service, "--identity-token-file", token, *state)
        env = {**people.bed.env, "DRTP_CONTROL_PLANE": place}
        program = Program([BIN / "datumctl", *argv], env)
        people.bed.programs.append(program)
        return program

    with tcp_service(echo) as port:
        for name in ("robots", "others"):
            people.bed.kubectl("apply", "-f", "-", stdin=json.dumps(_service(name, port)))
        assert serve("robots", port).process.wait(30) == 77
        for one in _may_serve(user, "robots"):
            people.bed.kubectl("apply", "-f", "-", stdin=json.dumps(one))
        assert serve("robots", port).event("ready")["service"] == "robots"
        assert serve("others", port).process.wait(30) == 77
    assert people.command("robot", "get", "drtpservices").returncode == 77


def test_signing_out_ends_it_here_and_at_the_issuer(people: People) -> None:
    people.sign_in("eve")
    held = json.loads(people.context("eve").with_name("context.json.login").read_text())
    assert people.command("eve", "logout").returncode == 0
    gone = people.command("eve", "whoami")
    assert gone.returncode == 77 and "DRTP-7087" in gone.stderr
    # A copy of the file is worth nothing after it: the issuer knows that the sign-in is over.
    held["expires_at"] = 0
    path = people.context("eve").with_name("context.json.login")
    path.write_text(json.dumps(held))
    path.chmod(0o600)
    over = people.command("eve", "auth", "get-token")
    assert over.returncode == 77 and "DRTP-7085" in over.stderr, over.stderr


def test_no_password_and_no_token_is_on_the_control_planes_disk_or_in_a_log(people: People) -> None:
    """Store, logs and audit of everything that the tests above did."""
    found = [
        (path, mark)
        for path in people.bed.data.rglob("*")
        if path.is_file() and path.name not in {"context.json", "kubeconfig"}
        for mark in (PASSWORD.encode(), b"drtp_rft_", b"drtp_pat_", b"eyJhbGciOi")
        if mark in path.read_bytes()
    ]
    assert found == []


def test_what_goes_wrong_has_a_code_each(people: People, tmp_path: Path) -> None:
    nobody = people.command("new", "login", "https://127.0.0.1:1", "--ca-file", str(people.ca))
    assert nobody.returncode == 69 and "DRTP-3001" in nobody.stderr, nobody.stderr
    other = people.command("new", "login", people.api, "--ca-file", str(people.ca), "--issuer", "https://no.example")
    assert "DRTP-7080" in other.stderr
    pinned = people.command("new", "login", people.api, "--pin", base64.urlsafe_b64encode(b"x" * 32).decode()[:43])
    assert pinned.returncode == 77 and "DRTP-2014" in pinned.stderr, pinned.stderr


def _service(name: str, port: int) -> dict[str, Any]:
    spec = {
        "protocol": "TCP",
        "local": {"host": "localhost", "port": port},
        "edgeAllowlist": ["127.0.0.0/8"],
        "expose": {},
    }
    return {
        "apiVersion": "datumapis.com/v1alpha",
        "kind": "DRTPService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def _may_serve(user: str, service: str) -> list[dict[str, Any]]:
    rule = {
        "apiGroups": ["datumapis.com"],
        "resources": ["drtpservices"],
        "resourceNames": [service],
        "verbs": ["serve"],
    }
    names = {"name": f"serves-{service}", "namespace": "default"}
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": names, "rules": [rule]}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": names,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": f"serves-{service}"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    return [role, binding]
