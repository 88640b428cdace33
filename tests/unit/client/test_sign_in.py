"""The client's side of a sign-in: the answer of a browser, tokens of a dishonest issuer, the file on disk."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from drtp.client.context import Context, load_context, save_context, save_kubeconfig
from drtp.client.loopback import Callback
from drtp.client.oidc import Granted, Issuer, OidcClient, Pkce, checked, new_pkce, oidc_client
from drtp.client.signin import fresh_token, keep, locked, path_of
from drtp.kit import door
from drtp.kit.clock import SystemClock
from drtp.kit.errors import DrtpError, Refused, Retryable, Terminal
from drtp.kit.secret import Secret

CLOCK = SystemClock()
HOUR_S = 3600.0


class Dishonest:
    """An issuer whose token endpoint says what a test wants."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.answer: dict[str, Any] = {}
        self.forms: list[dict[str, Any]] = []

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_post("/token", self._token)
        listener = door.listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with door.serving("issuer", app, listener, door.NEIGHBOURS, CLOCK):
            yield

    @property
    def issuer(self) -> Issuer:
        return Issuer(self.url, "datumctl")

    def id_token(self, pkce: Pkce | None = None, **more: Any) -> str:
        now = CLOCK.now().timestamp()
        claims = {"iss": self.url, "aud": "datumctl", "sub": "joe", "exp": now + HOUR_S, **more}
        if pkce is not None:
            claims.setdefault("nonce", pkce.nonce)
        return f"e30.{base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b'=').decode()}.AAAA"

    async def _discovery(self, _request: web.Request) -> web.Response:
        endpoints = {"authorization_endpoint": f"{self.url}/authorize", "token_endpoint": f"{self.url}/token"}
        return web.json_response({"issuer": self.url, **endpoints})

    async def _token(self, request: web.Request) -> web.Response:
        self.forms.append(dict(await request.post()))
        return web.json_response(self.answer, status=self.status)


@pytest.fixture
async def issuer() -> AsyncIterator[Dishonest]:
    made = Dishonest()
    async with made.serving():
        yield made


@asynccontextmanager
async def client(issuer: Dishonest) -> AsyncGenerator[OidcClient]:
    async with oidc_client(issuer.issuer, CLOCK) as made:
        yield made


async def test_only_an_answer_with_our_state_from_our_issuer_ends_the_wait() -> None:
    callback = Callback("the-state", "https://issuer.example")
    async with callback.listening(CLOCK), aiohttp.ClientSession() as browser:
        url = callback.redirect_uri
        for query, host in (
            ("code=x", ""),
            ("code=x&state=other", ""),
            ("error=access_denied&state=other", ""),
            ("code=x&state=the-state&iss=https://elsewhere.example", ""),
            ("code=x&state=the-state", "rebound.example"),
        ):
            headers = {"Host": host} if host else {}
            async with browser.get(f"{url}?{query}", headers=headers) as response:
                assert response.status == 400
                assert "x" not in response.headers.get("Location", "")
        async with browser.get(f"{url}?code=the-code&state=the-state&iss=https://issuer.example") as response:
            assert response.status == 200
        assert await callback.code() == "the-code"
        async with browser.get(f"{url}?code=again&state=the-state") as response:
            assert response.status == 400


async def test_an_issuer_that_names_itself_in_answers_gave_none_without_its_name() -> None:
    """RFC 9207: else an answer of another issuer could be mixed in by leaving its name out."""
    callback = Callback("s", "https://issuer.example", says_who=True)
    async with callback.listening(CLOCK), aiohttp.ClientSession() as browser:
        async with browser.get(f"{callback.redirect_uri}?code=x&state=s") as response:
            assert response.status == 400
        async with browser.get(f"{callback.redirect_uri}?code=x&state=s&iss=https://issuer.example") as response:
            assert response.status == 200
        assert await callback.code() == "x"


async def test_a_refusal_at_the_issuer_is_told_and_nothing_of_it_is_a_page() -> None:
    callback = Callback("s", "https://issuer.example")
    async with callback.listening(CLOCK), aiohttp.ClientSession() as browser:
        query = "error=access_denied&error_description=%3Cscript%3E%1b[2J&state=s"
        async with browser.get(f"{callback.redirect_uri}?{query}") as response:
            assert "<script" not in await response.text()
        with pytest.raises(Refused, match="DRTP-7081") as refused:
            await callback.code()
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://elsewhere.example"},
        {"aud": "other"},
        {"nonce": "other"},
        {"sub": 7},
        {"exp": "soon"},
    ],
)
async def test_an_id_token_that_is_not_of_this_sign_in_is_not_kept(issuer: Dishonest, wrong: dict[str, Any]) -> None:
    pkce = new_pkce()
    issuer.answer = {"id_token": issuer.id_token(pkce, **wrong)}
    async with client(issuer) as one:
        with pytest.raises(Terminal, match="DRTP-7084"):
            await one.redeem("code", "http://127.0.0.1:1/callback", pkce)
        issuer.answer = {"id_token": issuer.id_token(pkce)}
        assert (await one.redeem("code", "http://127.0.0.1:1/callback", pkce)).subject == "joe"
    assert issuer.forms[-1]["code_verifier"] == pkce.verifier and "nonce" not in issuer.forms[-1]


@pytest.mark.parametrize("answer", [{}, {"id_token": 7}, {"id_token": "a.b"}, {"id_token": "a.%%%.c"}])
async def test_an_answer_without_a_usable_token_is_told_in_order(issuer: Dishonest, answer: dict[str, Any]) -> None:
    issuer.answer = answer
    async with client(issuer) as one:
        with pytest.raises(Terminal, match="DRTP-7084"):
            await one.redeem("code", "http://127.0.0.1:1/callback", new_pkce())


@pytest.mark.parametrize(
    ("status", "answer", "kind", "code"),
    [
        (400, {"error": "invalid_grant"}, Refused, "DRTP-7085"),
        (401, {"error": "invalid_client"}, Terminal, "DRTP-7084"),
        (302, {}, Terminal, "DRTP-7084"),
        (503, {}, Retryable, "DRTP-7083"),
        (429, {}, Retryable, "DRTP-7083"),
    ],
)
async def test_what_an_issuer_says_to_a_refresh_decides_what_is_next(
    issuer: Dishonest, status: int, answer: dict[str, Any], kind: type[DrtpError], code: str
) -> None:
    issuer.status, issuer.answer = status, answer
    async with client(issuer) as one:
        with pytest.raises(kind, match=code):
            await one.refresh(Secret("r"), "joe")


async def test_a_refresh_that_gives_somebody_elses_token_is_refused(issuer: Dishonest) -> None:
    issuer.answer = {"id_token": issuer.id_token(sub="eve")}
    async with client(issuer) as one:
        with pytest.raises(Terminal, match="somebody else"):
            await one.refresh(Secret("r"), "joe")


async def test_an_issuer_without_device_flow_says_so(issuer: Dishonest) -> None:
    async with client(issuer) as one:
        with pytest.raises(Terminal, match="DRTP-7086"):
            await one.start_device()


async def test_an_issuer_that_is_away_ends_no_sign_in_before_its_time(issuer: Dishonest, tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    soon = CLOCK.now().timestamp() + 60.0
    keep(context, issuer.issuer, Granted(Secret("present"), Secret("r"), "joe", soon))
    issuer.status = 503
    assert (await asyncio.to_thread(fresh_token, context))[0].reveal() == "present"
    keep(context, issuer.issuer, Granted(Secret("past"), Secret("r"), "joe", soon - 120.0))
    with pytest.raises(Retryable, match="DRTP-7083"):
        await asyncio.to_thread(fresh_token, context)


async def test_a_refresh_token_that_stays_good_is_kept(issuer: Dishonest, tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    keep(context, issuer.issuer, Granted(Secret("past"), Secret("stays"), "joe", 0.0))
    issuer.answer = {"id_token": issuer.id_token()}
    for _ in range(2):
        assert (await asyncio.to_thread(fresh_token, context))[0].reveal() == issuer.answer["id_token"]
    assert len(issuer.forms) == 1
    assert "stays" in path_of(context).read_text()


async def test_a_sign_in_that_others_may_read_is_refused(issuer: Dishonest, tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    keep(context, issuer.issuer, Granted(Secret("t"), None, "joe", CLOCK.now().timestamp() + HOUR_S))
    path_of(context).chmod(0o644)
    with pytest.raises(Terminal, match="DRTP-7001"):
        await asyncio.to_thread(fresh_token, context)


def test_a_kubeconfig_with_our_plugin_is_the_context_behind_it_for_its_own_api_alone(tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    signed = Context("https://api.example", b"-----BEGIN", namespace="sam", sign_in=context)
    save_context(context, signed)
    save_kubeconfig(tmp_path / "kubeconfig", signed)
    assert load_context(tmp_path / "kubeconfig").sign_in == context
    elsewhere = (tmp_path / "kubeconfig").read_text().replace("https://api.example", "https://evil.example")
    (tmp_path / "kubeconfig").write_text(elsewhere)
    assert load_context(tmp_path / "kubeconfig").sign_in is None


async def test_a_lock_is_let_go_when_its_holder_is_gone(tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    async with locked(context, CLOCK):
        waiting = asyncio.get_running_loop().create_task(_take(context))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 5)


async def _take(context: Path) -> None:
    async with locked(context, CLOCK):
        return


@pytest.mark.parametrize("url", ["http://login.example.com", "ftp://x", "http://127.0.0.1.example.com", ""])
def test_nothing_is_sent_without_tls_but_to_this_machine(url: str) -> None:
    with pytest.raises(Terminal, match="DRTP-7084"):
        checked(url)
    assert checked("http://127.0.0.1:1/") and checked("https://login.example.com")
