"""A site of one organisation, on the web: its people sign in and reach it, others do not, and the service is told."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from scenario.bed import BIN, Bed, Serving, eventually
from scenario.browsing import HTML, Person, mirror
from webforms import Page

PASSWORD = "a long enough password for her"


@dataclass
class Site:
    """What is served, where, and how people come."""

    bed: Bed
    serving: Serving
    folder: Path

    @property
    def url(self) -> str:
        return f"https://{self.serving.name}:{self.bed.https[1]}"

    def somebody(self, name: str) -> Person:
        return Person.of(self.bed, self.folder, name)

    def enter(self, person: Person, name: str, path: str = "/") -> Page:
        """Open the site, sign in, and be back."""
        form = person.follow(person.get(f"{self.url}{path}", *HTML))
        assert f"to reach <b>{self.serving.name}" in form.text, form
        return person.follow(person.submit(form, name=name, password=PASSWORD, do="grant"))

    def policy(self, *rules: dict[str, Any]) -> None:
        target = {"group": "datumapis.com", "kind": "DRTPService", "name": self.serving.service}
        body = {
            "apiVersion": "datumapis.com/v1alpha",
            "kind": "DRTPAccessPolicy",
            "metadata": {"name": "of-partner", "namespace": self.serving.namespace},
            "spec": {"targetRefs": [target], "rules": list(rules)},
        }
        self.bed.kubectl("apply", "-f", "-", stdin=json.dumps(body))
        assert eventually(self._is_enforced)

    def _is_enforced(self) -> bool:
        found = json.loads(self.bed.kubectl("get", "drtpaccesspolicy", "of-partner", "-o", "json"))
        ancestors = found.get("status", {}).get("ancestors", [])
        generation = found["metadata"]["generation"]
        return any(
            one["type"] == "Enforced" and one["status"] == "True" and one["observedGeneration"] == generation
            for ancestor in ancestors
            for one in ancestor["conditions"]
        )

    def bind(self, *users: str) -> None:
        """These are the members of `partner`."""
        group = "rbac.authorization.k8s.io"
        binding = {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "members", "namespace": "partner"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "organization-viewer"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user} for user in users],
        }
        self.bed.kubectl("apply", "-f", "-", stdin=json.dumps(binding))


OF_PARTNER = {"name": "partner", "action": "Allow", "organizations": ["partner"]}


@pytest.fixture(scope="module")
def site(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    operator = ("--context", bed.ready["kubeconfig"])
    bed.datumctl(*operator, "create", "organization", "partner")
    server, port = mirror()
    serving = bed.serve(f"http://localhost:{port}", "--name", "for-partner")
    found = Site(bed, serving, tmp_path_factory.mktemp("site"))
    for name in ("anna", "eve"):
        made = subprocess.run(
            [str(BIN / "datumctl"), *operator, "create", "password", name],
            input=f"{PASSWORD}\n", capture_output=True, text=True, env=bed.env, timeout=60, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
    found.bind("anna")
    found.policy(OF_PARTNER)
    yield found
    serving.stop()
    server.shutdown()


def test_a_member_signs_in_and_the_service_is_told_by_a_signed_word(site: Site) -> None:
    anna = site.somebody("anna")
    page = site.enter(anna, "anna", "/a?b=c&d=e")
    assert page.status == 200 and page.url == f"{site.url}/a?b=c&d=e"
    told = json.loads(page.text)
    assert told["x-drtp-visitor"] == "user:anna"
    assert "__Host-drtp" not in told.get("cookie", "")
    issuer = f"{json.loads(Path(site.bed.ready['context']).read_text())['api']}/oidc"
    keys = KeySet.import_key_set(json.loads(anna.get(f"{issuer}/keys").text))
    claims = jwt.decode(told["x-drtp-assertion"], keys, algorithms=["ES256"]).claims
    assert (claims["iss"], claims["aud"], claims["name"]) == (issuer, f"https://{site.serving.name}", "anna")
    thief = site.somebody("thief-of-assertions")
    stolen = thief.get(site.url, "-H", f"Cookie: __Host-drtp-visit={told['x-drtp-assertion']}")
    assert stolen.status == 401, "what a service is told opens nothing, not even the host that it is at"
    again = anna.get(site.url, "-H", "X-Drtp-Visitor: user:root", "-H", "Cookie: own=1")
    assert json.loads(again.text)["x-drtp-visitor"] == "user:anna"


def test_who_is_no_member_is_refused_and_a_program_is_told_what_to_do(site: Site) -> None:
    eve = site.somebody("eve")
    page = site.enter(eve, "eve")
    assert page.status == 403 and "DRTP-5009" in page.text
    out = eve.follow(eve.get(f"{site.url}/.drtp/sign-out"))
    assert "signed in as <b>eve</b>" in out.text
    assert "Signed out" in eve.submit(out).text
    assert site.enter(eve, "anna").status == 200, "and may be somebody else"
    program = site.somebody("program").get(site.url)
    assert program.status == 401 and "DRTP-5007" in program.text
    clear = f"http://{site.serving.name}:{site.bed.http[1]}"
    assert "DRTP-5008" in site.somebody("clear").get(clear).text


def test_a_stolen_or_foreign_answer_of_the_sign_in_is_worth_nothing(site: Site) -> None:
    anna = site.somebody("anna-2")
    form = anna.follow(anna.get(site.url, *HTML))
    back = anna.submit(form, name="anna", password=PASSWORD, do="grant")
    answer = anna.get(urljoin(back.url, back.headers["location"])).refresh()
    assert "DRTP-2038" in site.somebody("thief").get(answer).text
    token = re.search(r"token=([^&]*)", answer)
    assert token
    changed = f"{token[1][:-4]}AAAA"
    assert anna.get(answer.replace(token[1], changed)).status == 401
    assert anna.get(answer.replace("&to=/", "&to=//evil.test/")).headers["location"] == "/"
    api = urlsplit(form.url)
    for elsewhere in ("https://evil.test/", f"https://evil.test:1@{site.serving.name}/", "http://x/", "https://"):
        lured = anna.get(f"{api.scheme}://{api.netloc}/oidc/visit?browser={'a' * 36}&to={elsewhere}")
        assert lured.status == 400 and "location" not in lured.headers, elsewhere


def test_no_log_has_what_a_browser_brought(site: Site) -> None:
    anna = site.somebody("anna-5")
    assert site.enter(anna, "anna").status == 200
    token = re.search(r"__Host-drtp-visit\s+(\S+)", anna.jar.read_text())
    assert token
    place = site.bed.data / "gateway" / "access.jsonl"
    assert eventually(lambda: "/.drtp/signed-in" in place.read_text())
    files = [path for path in site.bed.directory.rglob("*") if path.is_file()]
    assert [path for path in files if token[1].rpartition(".")[2].encode() in path.read_bytes()] == []


def test_membership_and_revocation_reach_those_who_are_there(site: Site) -> None:
    anna = site.somebody("anna-3")
    assert site.enter(anna, "anna").status == 200
    site.bind("eve")
    assert eventually(lambda: anna.get(site.url).status == 403, 3)
    site.bind("anna", "eve")
    assert eventually(lambda: anna.get(site.url).status == 200, 3)
    eve = site.somebody("eve-2")
    assert site.enter(eve, "eve").status == 200
    site.bed.datumctl("--context", site.bed.ready["kubeconfig"], "revoke", "user", "eve")
    assert eventually(lambda: eve.get(site.url).status == 401, 3)
    assert anna.get(site.url).status == 200
    refused = eve.follow(eve.get(site.url, *HTML))
    assert "Sign in" in refused.text and refused.status == 200


def test_who_is_signed_in_is_asked_before_another_site_is_told(site: Site, bed: Bed) -> None:
    anna = site.somebody("anna-4")
    site.enter(anna, "anna")
    server, port = mirror()
    other = bed.serve(f"http://localhost:{port}", "--name", "other-site")
    target = {"group": "datumapis.com", "kind": "DRTPService", "name": other.service}
    spec = {"targetRefs": [target], "rules": [{"name": "anna", "action": "Allow", "principals": ["user:anna"]}]}
    named = {"name": "other", "namespace": other.namespace}
    body = {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPAccessPolicy", "metadata": named, "spec": spec}
    bed.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    url = f"https://{other.name}:{bed.https[1]}"
    assert eventually(lambda: anna.get(url, *HTML).status == 302)
    asked = anna.follow(anna.get(url, *HTML))
    assert "wants to know who you are" in asked.text and "anna" in asked.text
    assert anna.follow(anna.submit(asked, do="go")).status == 200
    # From then on it is told without a question: a token that has ended is renewed in passing.
    anna.get(f"{url}/.drtp/sign-out")  # and no further: still signed in at the control plane
    assert anna.follow(anna.get(url, *HTML)).status == 200
    other.stop()
    server.shutdown()


def test_a_program_of_the_organisation_comes_with_its_certificate(site: Site) -> None:
    """curl, as any program with a client certificate; and what was shown ends with its owner's account."""
    operator = ("--context", site.bed.ready["kubeconfig"])
    shown: dict[str, tuple[str, ...]] = {}
    site.bed.datumctl(*operator, "create", "organization", "elsewhere")
    for name, of in (("robot", "partner"), ("stranger", "elsewhere")):
        context, pem = site.folder / f"{name}.json", site.folder / f"{name}.pem"
        made = ("create", "user", name, "--organization", of, "--role", "viewer", "--context-file", str(context))
        site.bed.datumctl(*operator, *made)
        site.bed.datumctl("--context", str(context), "auth", "client-certificate", "--output", "pem", str(pem))
        assert pem.stat().st_mode & 0o777 == 0o600
        shown[name] = ("--cert", str(pem))
    program = site.somebody("robot")
    assert eventually(lambda: program.get(site.url, *shown["robot"]).status == 200)
    told = json.loads(program.get(site.url, *shown["robot"], "-H", "X-Drtp-Visitor: user:root").text)
    assert told["x-drtp-visitor"] == "user:robot" and "x-drtp-assertion" not in told
    refused = program.get(site.url, *shown["stranger"])
    assert refused.status == 403 and "DRTP-5009" in refused.text
    assert program.get(site.url).status == 401
    site.bed.datumctl(*operator, "revoke", "user", "robot")
    assert eventually(lambda: program.get(site.url, *shown["robot"]).status == 403)
