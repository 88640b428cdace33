"""People at a control plane of their own: passwords, sign-ins, refreshes. The doors and the client are real."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from drtp.api.internal import Account
from drtp.api.people import account_uid
from drtp.apiserver import forms
from drtp.client.api import ApiClient
from drtp.client.context import Context, load_context, save_context
from drtp.client.oidc import Issuer, new_pkce, oidc_client
from drtp.client.signin import fresh_token, keep, read_sign_in
from drtp.issuers import passwords
from drtp.issuers.records import find
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Refused, Terminal
from drtp.kit.secret import Secret
from drtp.main.controlplane import Tower, running_controlplane
from drtp.main.datum.passwords import set_password
from unit.main.controlplane_bed import context_of, settings
from webforms import PASSWORD, Browser, answer_of, authorize_url, browser

MASTERS = "system:masters"


@dataclass
class Bed:
    tower: Tower
    admin: Context
    browser: Browser

    @property
    def issuer(self) -> Issuer:
        local = self.tower.local.issuer
        return Issuer(local, self.tower.local.client, ("openid", "offline_access"), self.admin.ca_pem.decode())

    async def review(self, token: Secret[str]) -> str:
        async with ApiClient(Context(self.admin.api, self.admin.ca_pem, token=token)) as api:
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}}
            answer = await api.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=body)
        return answer["status"]["userInfo"]["username"]

    async def code(self, challenge: str, *, password: str = PASSWORD, **more: str) -> dict[str, str]:
        page = await self.browser.get(authorize_url(self.issuer.issuer, challenge, **more))
        assert page.status == 200, page.text
        return answer_of(await self.browser.submit(page, name="joe", password=password))

    async def sign_in(self) -> tuple[Secret[str], Secret[str]]:
        """An ID token and a refresh token of Joe's."""
        pkce = new_pkce()
        answer = await self.code(pkce.challenge, nonce=pkce.nonce, state=pkce.state)
        async with oidc_client(self.issuer) as client:
            granted = await client.redeem(answer["code"], "http://127.0.0.1:1234/callback", pkce)
        assert granted.refresh_token is not None
        return granted.id_token, granted.refresh_token


@pytest.fixture
async def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bed]:
    """A control plane with Joe's account; passwords cost less memory here, and no less care."""
    monkeypatch.setattr(passwords, "MEMORY_KIB", 64)
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        admin = await context_of(tower.settings, MASTERS)
        async with ApiClient(admin) as api:
            await set_password(api, "joe", Secret(PASSWORD))
        async with browser(admin.ca_pem) as person:
            yield Bed(tower, admin, person)


async def test_a_sign_in_by_form_and_code_proves_its_user_until_it_is_revoked(bed: Bed, tmp_path: Path) -> None:
    token, refresh = await bed.sign_in()
    assert await bed.review(token) == "joe"
    async with oidc_client(bed.issuer) as client:
        held = await client.refresh(refresh, subject=_subject(token))
    assert await bed.review(held.id_token) == "joe"
    async with ApiClient(bed.admin) as api:
        ask = {"apiVersion": "identity.datumapis.com/v1alpha", "kind": "ClusterRevocation", "spec": {"user": "joe"}}
        await api.create(ask, "clusterrevocations")
    with pytest.raises(Refused, match="DRTP-2004"):
        await bed.review(held.id_token)
    assert held.refresh_token is not None
    async with oidc_client(bed.issuer) as client:
        with pytest.raises(Refused, match="DRTP-7085"):
            await client.refresh(held.refresh_token, subject=_subject(token))


async def test_a_spent_refresh_token_ends_the_sign_in_for_both_who_hold_it(bed: Bed) -> None:
    token, first = await bed.sign_in()
    async with oidc_client(bed.issuer) as client:
        held = await client.refresh(first, subject=_subject(token))
        with pytest.raises(Refused, match="DRTP-2034"):
            await client.refresh(first, subject=_subject(token))
        assert held.refresh_token is not None
        with pytest.raises(Refused, match="DRTP-2032"):
            await client.refresh(held.refresh_token, subject=_subject(token))


async def test_refresh_tokens_are_hashed_at_rest(bed: Bed) -> None:
    _, refresh = await bed.sign_in()
    stored = (await bed.tower.store.list("Login.internal.datumapis.com")).items[0]
    assert refresh.reveal().split("_")[3] not in stored.raw.decode()
    account = (await bed.tower.store.list("Account.internal.datumapis.com")).items
    assert all(PASSWORD not in one.raw.decode() for one in account)
    assert any("$argon2id$" in one.raw.decode() for one in account)


async def test_a_code_is_good_once_and_its_second_use_ends_the_sign_in(bed: Bed) -> None:
    pkce = new_pkce()
    answer = await bed.code(pkce.challenge, nonce=pkce.nonce)
    async with oidc_client(bed.issuer) as client:
        granted = await client.redeem(answer["code"], "http://127.0.0.1:1234/callback", pkce)
        with pytest.raises(Refused, match="DRTP-7081"):
            await client.redeem(answer["code"], "http://127.0.0.1:1234/callback", pkce)
        assert granted.refresh_token is not None
        with pytest.raises(Refused, match="DRTP-7085"):
            await client.refresh(granted.refresh_token, subject=granted.subject)


async def test_a_code_is_worth_nothing_to_whoever_has_not_the_verifier_or_another_address(bed: Bed) -> None:
    pkce = new_pkce()
    async with oidc_client(bed.issuer) as client:
        answer = await bed.code(pkce.challenge)
        with pytest.raises(Refused, match="somebody else"):
            await client.redeem(answer["code"], "http://127.0.0.1:1234/callback", new_pkce())
        answer = await bed.code(pkce.challenge)
        with pytest.raises(Refused, match="somebody else"):
            await client.redeem(answer["code"], "http://127.0.0.1:4321/callback", pkce)


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_id": "other"},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": "http://127.0.0.1:1234@evil.example/callback"},
        {"redirect_uri": "http://127.0.0.1:1234/callback/../x"},
        {"response_type": "token"},
        {"code_challenge_method": "plain"},
        {"code_challenge": ""},
        {"state": ""},
        {"scope": "profile"},
    ],
)
async def test_what_is_not_our_clients_request_gets_no_form_and_no_redirect(bed: Bed, wrong: dict[str, str]) -> None:
    page = await bed.browser.get(authorize_url(bed.issuer.issuer, new_pkce().challenge, **wrong))
    assert page.status == 400
    assert "Location" not in page.headers
    assert "<form" not in page.text


async def test_a_form_of_another_site_or_another_browser_is_refused(bed: Bed) -> None:
    page = await bed.browser.get(authorize_url(bed.issuer.issuer, new_pkce().challenge))
    for origin in ("https://evil.example", "null", ""):
        refused = await bed.browser.submit(page, origin=origin, name="joe", password=PASSWORD)
        assert refused.status == 403
    async with browser(bed.admin.ca_pem) as other:
        await other.get(authorize_url(bed.issuer.issuer, new_pkce().challenge))
        assert (await other.submit(page, name="joe", password=PASSWORD)).status == 403
    assert bed.browser.cookies.keys() == {"__Host-drtp-signin"}


async def test_the_page_says_nothing_a_stranger_put_into_it_and_runs_nothing(bed: Bed) -> None:
    url = f"{bed.issuer.issuer}/device?user_code=%22%3E%3Cscript%3E"
    page = await bed.browser.get(url)
    assert "<script" not in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert page.headers["Cache-Control"] == "no-store"


async def test_nobody_learns_whether_an_account_is_there(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same status, same words, and the same work: exactly one hash of the same cost for each."""
    work: list[str] = []
    verify = passwords.Passwords._verify

    def counted(self: passwords.Passwords, kept: str, text: str) -> bool:
        work.append(kept.rsplit("$", 2)[0])
        return verify(self, kept, text)

    monkeypatch.setattr(passwords.Passwords, "_verify", counted)
    seen: set[tuple[int, str]] = set()
    for name in ("joe", "nobody-of-this-name", "administrator"):
        page = await bed.browser.get(authorize_url(bed.issuer.issuer, new_pkce().challenge))
        refused = await bed.browser.submit(page, name=name, password="wrong horse battery staple")
        seen.add((refused.status, _without_randomness(refused.text)))
    assert len(seen) == 1
    assert len(work) == 3 and len(set(work)) == 1


async def test_guesses_are_paced_whether_the_account_is_there_or_not(bed: Bed) -> None:
    page = await bed.browser.get(authorize_url(bed.issuer.issuer, new_pkce().challenge))
    statuses: list[int] = []
    for number in range(12):
        refused = await bed.browser.submit(page, name=f"nobody-{number}", password="x" * 12)
        statuses.append(refused.status)
    assert statuses[0] == 401 and statuses[-1] == 429
    assert (await bed.browser.submit(page, name="joe", password=PASSWORD)).status == 429


NEW_PASSWORD = "another horse, another staple"


@pytest.mark.parametrize("how", ["changed", "shut"])
async def test_a_code_or_a_device_granted_before_gives_nothing_after_the_password_changed(bed: Bed, how: str) -> None:
    pkce = new_pkce()
    code = (await bed.code(pkce.challenge, nonce=pkce.nonce))["code"]
    async with oidc_client(bed.issuer) as client:
        start = await client.start_device()
        page = await bed.browser.get(start.verification_uri_complete)
        await bed.browser.submit(page, name="joe", password=PASSWORD)
        async with ApiClient(bed.admin) as api:
            if how == "changed":
                await set_password(api, "joe", Secret(NEW_PASSWORD))
            else:
                spec = {"user": "joe"}
                ask = {"apiVersion": "identity.datumapis.com/v1alpha", "kind": "ClusterRevocation", "spec": spec}
                await api.create(ask, "clusterrevocations")
        with pytest.raises(Refused, match="DRTP-2032"):
            await client.redeem(code, "http://127.0.0.1:1234/callback", pkce)
        with pytest.raises(Terminal, match="DRTP-2032"):
            await client.wait_for_device(start)
    assert not (await bed.tower.store.list("Login.internal.datumapis.com")).items


async def test_a_sign_in_that_begins_while_the_password_changes_is_ended(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changed it has ended the sign-ins that were there; this one comes a moment later."""
    pkce = new_pkce()
    code = (await bed.code(pkce.challenge, nonce=pkce.nonce))["code"]
    begin = bed.tower.logins.begin

    async def begun_late(account: str) -> tuple[str, Secret[str]]:
        async with ApiClient(bed.admin) as api:
            await set_password(api, "joe", Secret(NEW_PASSWORD))
        return await begin(account)

    monkeypatch.setattr(bed.tower.logins, "begin", begun_late)
    async with oidc_client(bed.issuer) as client:
        with pytest.raises(Refused, match="DRTP-2032"):
            await client.redeem(code, "http://127.0.0.1:1234/callback", pkce)
    assert not (await bed.tower.store.list("Login.internal.datumapis.com")).items


async def test_an_id_token_from_before_a_reinstatement_proves_nobody(bed: Bed) -> None:
    token, _ = await bed.sign_in()

    async def reinstated(at: datetime) -> None:
        held = await find(bed.tower.store, Account, account_uid("joe"))
        assert held is not None
        await bed.tower.store.update(held.replaced(msgspec.structs.replace(held.record.spec, counts_from=at)))

    await reinstated(datetime.now(UTC) + timedelta(seconds=30))
    with pytest.raises(Refused, match="DRTP-2004"):
        await bed.review(token)
    await reinstated(datetime.now(UTC) - timedelta(seconds=30))
    assert await bed.review(token) == "joe"


async def test_one_address_alone_keeps_nobody_out(bed: Bed) -> None:
    for _ in range(60):
        with pytest.raises(Refused):
            await bed.tower.local.signed_in("joe", Secret("wrong horse, wrong staple"), "192.0.2.1")
    assert await bed.tower.local.signed_in("joe", Secret(PASSWORD), "192.0.2.2")


async def test_many_addresses_keep_nobody_out_who_comes_from_where_they_have_signed_in(bed: Bed) -> None:
    assert await bed.tower.local.signed_in("joe", Secret(PASSWORD), "192.0.2.1")
    for number in range(40):
        with pytest.raises(Refused):
            await bed.tower.local.signed_in("joe", Secret("wrong horse, wrong staple"), f"198.51.100.{number}")
    with pytest.raises(Refused, match="DRTP-2033"):
        await bed.tower.local.signed_in("joe", Secret(PASSWORD), "203.0.113.1")
    assert await bed.tower.local.signed_in("joe", Secret(PASSWORD), "192.0.2.1")


async def test_guesses_from_where_an_account_has_signed_in_are_paced_too(bed: Bed) -> None:
    home = "2001:db8::1"
    assert await bed.tower.local.signed_in("joe", Secret(PASSWORD), home)
    refused: list[str] = []
    for number in range(60):
        with pytest.raises(Refused) as error:
            await bed.tower.local.signed_in("joe", Secret("wrong horse, wrong staple"), f"2001:db8::{number:x}")
        refused.append(error.value.code)
    assert refused.count("DRTP-2032") < 25
    assert await bed.tower.local.signed_in("joe", Secret(PASSWORD), "192.0.2.9")


async def test_a_device_is_signed_in_by_a_person_elsewhere(bed: Bed) -> None:
    async with oidc_client(bed.issuer) as client:
        start = await client.start_device()
        page = await bed.browser.get(start.verification_uri_complete)
        assert page.form()[1]["user_code"] == start.user_code
        done = await bed.browser.submit(page, name="joe", password=PASSWORD)
        assert "goes on by itself" in done.text
        granted = await client.wait_for_device(start)
    assert await bed.review(granted.id_token) == "joe"


async def test_a_device_that_is_not_theirs_is_refused(bed: Bed) -> None:
    async with oidc_client(bed.issuer) as client:
        start = await client.start_device()
        page = await bed.browser.get(start.verification_uri_complete)
        await bed.browser.submit(page, name="joe", password=PASSWORD, do="deny")
        with pytest.raises(Refused, match="DRTP-7081"):
            await client.wait_for_device(start)


async def test_a_large_or_double_form_is_refused_before_it_is_read(bed: Bed) -> None:
    url = f"{bed.issuer.issuer}/token"
    large = await bed.browser._send("POST", url, data={"grant_type": "x" * 20_000})
    assert large.status == 413
    double = await bed.browser._send(
        "POST", url, data="a=1&a=2", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert double.status == 400


async def test_a_form_that_does_not_arrive_is_not_waited_for(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "BODY_DEADLINE_S", 0.2)
    host, port = bed.admin.api.removeprefix("https://").split(":")
    tls = ssl.create_default_context(cadata=bed.admin.ca_pem.decode())
    for path in ("token", "authorize", "device", "device_authorization", "revoke"):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
        head = f"POST /oidc/{path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 100\r\n"
        writer.write(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\nhalf=".encode())
        async with asyncio.timeout(5):
            assert b" 408 " in await reader.readline()
        writer.close()


async def test_an_account_without_a_password_and_a_shut_one_are_not_signed_in(bed: Bed) -> None:
    async with ApiClient(bed.admin) as api:
        ask = {"apiVersion": "identity.datumapis.com/v1alpha", "kind": "ClusterRevocation", "spec": {"user": "joe"}}
        await api.create(ask, "clusterrevocations")
        with pytest.raises(Refused, match="DRTP-1031"):
            await set_password(api, "joe", Secret(PASSWORD))
    for name in ("joe", "administrator"):
        page = await bed.browser.get(authorize_url(bed.issuer.issuer, new_pkce().challenge))
        assert (await bed.browser.submit(page, name=name, password=PASSWORD)).status == 401


async def test_processes_that_refresh_at_once_spend_one_token(bed: Bed, tmp_path: Path) -> None:
    token, refresh = await bed.sign_in()
    context = tmp_path / "context.json"
    save_context(context, Context(bed.admin.api, bed.admin.ca_pem, sign_in=context))
    async with oidc_client(bed.issuer) as client:
        granted = await client.refresh(refresh, subject=_subject(token))
    keep(context, bed.issuer, granted._replace(expires_at=0.0))
    found = await asyncio.gather(*(asyncio.to_thread(fresh_token, context) for _ in range(4)))
    assert len({one[0].reveal() for one in found}) == 1
    held = read_sign_in(context)
    assert held is not None and held.refresh_token != refresh.reveal()
    assert (tmp_path / "context.json.login").stat().st_mode & 0o077 == 0
    assert "drtp_rft_" not in context.read_text() and load_context(context).token is None
    assert await bed.review(found[0][0]) == "joe"


async def test_a_hostile_control_plane_gets_no_token_that_is_good_at_another(bed: Bed, tmp_path: Path) -> None:
    """It names the accounts of the other one, with their very client id; its victim even agrees to the issuer."""
    local = bed.tower.local
    (tmp_path / "theirs.pem").write_bytes(bed.admin.ca_pem)
    entry = {"issuer": local.issuer, "clientID": local.client, "caFile": "theirs.pem"}
    issuers = tmp_path / "issuers.json"
    issuers.write_text(json.dumps({"issuers": [entry]}))
    async with running_controlplane(settings(tmp_path / "hostile", issuers=issuers), SystemClock()) as hostile:
        ca = tmp_path / "hostile.pem"
        ca.write_bytes(hostile.authority.bundle_pem)
        said = await _login(tmp_path, hostile.settings.api_url, ca, "--issuer", local.issuer)
    assert said[0] == 77 and "DRTP-7092" in said[1] and "https://127.0.0.1" in said[1], said


async def test_an_issuer_elsewhere_is_not_followed_unasked(tmp_path: Path) -> None:
    issuers = tmp_path / "issuers.json"
    issuers.write_text(json.dumps({"issuers": [{"issuer": "https://login.example.com", "clientID": "drtp"}]}))
    async with running_controlplane(settings(tmp_path, issuers=issuers), SystemClock()) as tower:
        ca = tmp_path / "ca.pem"
        ca.write_bytes(tower.authority.bundle_pem)
        status, said = await _login(tmp_path, tower.settings.api_url, ca)
    assert status == 77 and "DRTP-7090" in said and "--issuer https://login.example.com" in said, said


async def _login(folder: Path, api: str, ca: Path, *more: str) -> tuple[int | None, str]:
    """Exit status and stderr of `datumctl login`, of somebody without a terminal."""
    argv = ("-m", "drtp.main.datumctl", "login", api, "--ca-file", str(ca), "--no-browser", *more)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"XDG_CONFIG_HOME": str(folder / "config")},
    )
    _, said = await child.communicate()
    return child.returncode, said.decode()


def _subject(token: Secret[str]) -> str:
    import base64

    part = token.reveal().split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["sub"]


def _without_randomness(text: str) -> str:
    import re

    return re.sub(r'nonce="[^"]*"|name="ask" value="[^"]*"', "", text)
