"""The control plane's side of a visitor's sign-in: where a browser is sent, what it is asked, and what ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drtp.api.internal import SignInRecord
from drtp.api.meta import Key
from drtp.client.api import ApiClient
from drtp.client.context import Context
from drtp.issuers import passwords, relying, visits
from drtp.issuers.jose import read_token
from drtp.kit.clock import SystemClock
from drtp.kit.secret import Secret
from drtp.main.controlplane import Tower, running_controlplane
from drtp.main.datum.passwords import set_password
from unit.main.controlplane_bed import context_of, settings
from webforms import PASSWORD, Browser, Page, answer_of, browser

MARK = "0f8fad5b-d9cb-469f-a165-70867728950e"


@dataclass
class Bed:
    """A control plane that knows one host where visitors sign in, and Joe's password."""

    tower: Tower
    admin: Context
    person: Browser
    host: str

    def visit(self, to: str = "", mark: str = MARK) -> str:
        return f"{self.tower.local.issuer}/visit?browser={mark}&to={to or f'https://{self.host}:7443/a?b=c'}"

    async def sign_in(self, person: Browser | None = None) -> Page:
        """Until the browser is sent back to the host."""
        person = person or self.person
        asked = await person.get((await person.get(self.visit())).headers["Location"])
        assert f"<b>{self.host}:7443</b>" in asked.text, "who signs in sees for which site"
        answer = await person.submit(asked, name="joe", password=PASSWORD)
        return await person.get(answer.headers["Location"])


@pytest.fixture
async def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bed]:
    monkeypatch.setattr(passwords, "MEMORY_KIB", 64)
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        admin = await context_of(tower.settings, "system:masters")
        host = f"site.{tower.settings.suffix}"
        async with ApiClient(admin) as api:
            await set_password(api, "joe", Secret(PASSWORD))
            await serve(tower, api)
        async with browser(admin.ca_pem) as person:
            yield Bed(tower, admin, person, host)


async def serve(tower: Tower, api: ApiClient) -> None:
    """Two sites whose rules ask who visitors are, at a gateway."""
    gateway = {
        "apiVersion": "internal.datumapis.com/v1",
        "kind": "EdgeIdentity",
        "metadata": {"name": "gw-1"},
        "spec": {"role": "gateway", "uri": "x", "addresses": ["127.0.0.1"]},
    }
    await tower.store.create(gateway)
    for name in ("site", "other"):
        host = f"{name}.{tower.settings.suffix}"
        spec = {"protocol": "HTTP", "local": {"host": "localhost", "port": 80}, "expose": {"hostname": host}}
        target = {"group": "datumapis.com", "kind": "DRTPService", "name": name}
        rules = [{"name": "r", "action": "Allow", "organizations": ["partner"]}]
        for kind, plural, said in (
            ("DRTPService", "drtpservices", spec),
            ("DRTPAccessPolicy", "drtpaccesspolicies", {"targetRefs": [target], "rules": rules}),
        ):
            named = {"name": name, "namespace": "default"}
            body = {"apiVersion": "datumapis.com/v1alpha", "kind": kind, "metadata": named, "spec": said}
            await api.create(body, plural, namespace="default")
        async with asyncio.timeout(10):
            while tower.projector.host_of_sign_in(host) is None:
                await asyncio.sleep(0.02)


def token_of(page: Page) -> dict[str, Any]:
    """The claims of the visit token that a browser is sent back with."""
    return read_token(answer_of(page)["token"]).claims


async def test_a_browser_comes_back_to_where_it_was_with_a_token_for_that_host(bed: Bed) -> None:
    back = await bed.sign_in()
    to = back.refresh()
    assert to.startswith(f"https://{bed.host}:7443/.drtp/signed-in?token=") and to.endswith("&to=/a?b=c")
    claims = token_of(back)
    assert (claims["iss"], claims["aud"], claims["browser"]) == (bed.tower.local.issuer, bed.host, MARK)
    assert claims["name"] == "joe" and json.loads(claims["who"]) == {"name": "joe", "groups": []}
    assert claims["exp"] - claims["iat"] == 3600
    assert back.headers["Referrer-Policy"] == "no-referrer" and back.headers["Cache-Control"] == "no-store"


async def test_a_visit_token_opens_neither_the_api_nor_anything_else_of_ours(bed: Bed) -> None:
    token = answer_of(await bed.sign_in())["token"]
    async with ApiClient(Context(bed.admin.api, bed.admin.ca_pem, token=Secret(token))) as api:
        with pytest.raises(Exception, match="DRTP-2004"):
            await api.request("GET", "/api/v1/namespaces")


async def test_who_is_signed_in_is_not_asked_again_and_the_form_is_bound_to_the_browser(bed: Bed) -> None:
    await bed.sign_in()
    again = await bed.person.get(bed.visit())
    assert token_of(again)["name"] == "joe"
    async with browser(bed.admin.ca_pem) as other:
        assert "token=" not in (await other.get(bed.visit())).headers["Location"]


async def test_only_hosts_of_ours_that_ask_for_it_are_gone_back_to(bed: Bed) -> None:
    await bed.sign_in()
    wrong = (
        "https://evil.test/", f"http://{bed.host}/", f"https://user@{bed.host}/", f"https://{bed.host}:x/",
        f"https://{bed.host}.evil.test/", "https:///", "javascript:alert(1)", "https://[::1", f"https://{bed.host}:0/",
        f"https://{bed.host}:99999/", "https://[::1]:7443/",
    )  # fmt: skip
    for to in wrong:
        page = await bed.person.get(bed.visit(to))
        assert page.status == 400 and "Location" not in page.headers, to
    back = await bed.person.get(bed.visit(f"https://{bed.host}:7443/{'x' * 5_000}"))
    assert back.headers["Location"].endswith("&to=/"), "from an address too long to be kept to where the site begins"
    for mark in ("", "x", f"{MARK}&to=https://evil.test"):
        assert (await bed.person.get(bed.visit(mark=mark))).status == 400


async def test_an_answer_of_the_issuer_is_taken_once_and_from_the_browser_that_was_sent(bed: Bed) -> None:
    asked = await bed.person.get((await bed.person.get(bed.visit())).headers["Location"])
    answer = (await bed.person.submit(asked, name="joe", password=PASSWORD)).headers["Location"]
    async with browser(bed.admin.ca_pem) as other:
        refused = await other.get(answer)
        assert refused.status == 403 and "DRTP-2038" in refused.text
    refused = await bed.person.get(answer)
    assert refused.status == 403, "a state that somebody else has shown is spent"


async def test_a_browser_is_signed_out_when_the_account_changes(bed: Bed) -> None:
    await bed.sign_in()
    async with ApiClient(bed.admin) as api:
        await set_password(api, "joe", Secret("quite another password"))
    assert "token=" not in (await bed.person.get(bed.visit())).headers["Location"]


async def test_a_browser_stays_signed_in_for_so_long(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "BROWSER_S", -1.0)
    refused = await bed.sign_in()
    assert refused.status == 403 and "DRTP-2038" in refused.text


async def test_a_form_of_another_site_gives_nothing_away(bed: Bed) -> None:
    """Signed in, and never at this host: a person is asked first, and only our own form is the answer."""
    await bed.sign_in()
    elsewhere = bed.visit(f"https://other.{bed.tower.settings.suffix}/")
    page = await bed.person.get(elsewhere)
    assert page.status == 200 and "wants to know who you are" in page.text and "joe" in page.text
    assert (await bed.person.submit(page, origin="https://evil.test", do="go")).status == 403
    assert (await bed.person.submit(page, do="go", ask="x.y")).status == 403
    assert token_of(await bed.person.submit(page, do="go"))["aud"] == f"other.{bed.tower.settings.suffix}"
    assert "token=" in (await bed.person.get(elsewhere)).headers["Location"], "and is asked once"
    other = await bed.person.submit(page, do="other")
    assert "/authorize" in other.headers["Location"]
    assert "token=" not in (await bed.person.get(bed.visit())).headers["Location"], "and is nobody any more"


async def test_a_person_signs_out_and_no_link_does_it_for_them(bed: Bed) -> None:
    url = f"{bed.tower.local.issuer}/visit/sign-out"
    assert "Nobody is signed in" in (await bed.person.get(url)).text
    await bed.sign_in()
    page = await bed.person.get(url)
    assert "signed in as <b>joe</b>" in page.text
    assert (await bed.person.submit(page, origin="https://evil.test")).status == 403
    assert "token=" in (await bed.person.get(bed.visit())).headers["Location"]
    assert "Signed out" in (await bed.person.submit(page)).text
    assert "token=" not in (await bed.person.get(bed.visit())).headers["Location"]


async def test_gateways_are_told_the_keys_and_the_place(bed: Bed) -> None:
    stored = await bed.tower.store.get(Key("SignIn.internal.datumapis.com", "", "visitors"))
    spec = msgspec.json.decode(stored.raw, type=SignInRecord).spec
    assert (spec.issuer, spec.url) == (bed.tower.local.issuer, f"{bed.tower.local.issuer}/visit")
    assert [one["kid"] for one in json.loads(spec.keys)["keys"]]
    assert '"d"' not in spec.keys, "no private part"


async def test_what_waits_for_an_issuer_is_bounded(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relying, "PENDING_MAX", 2)
    first = await bed.person.get((await bed.person.get(bed.visit())).headers["Location"])
    for _ in range(2):
        await bed.person.get(bed.visit())
    answer = await bed.person.submit(first, name="joe", password=PASSWORD)
    assert (await bed.person.get(answer.headers["Location"])).status == 403
