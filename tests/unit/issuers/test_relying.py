"""A visitor's sign-in at a foreign issuer: what it is sent, what of its answers counts, and how often it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from drtp.issuers.idtokens import TrustedIssuer
from drtp.issuers.localissuer import LocalIssuer
from drtp.issuers.relying import KNOWN_S, PENDING_S, Asked, RelyingParty
from drtp.issuers.remotekeys import REST_S
from drtp.issuers.waiting import proves
from drtp.kit import door
from drtp.kit.clock import FakeClock, SystemClock
from drtp.kit.errors import Refused, Retryable
from drtp.kit.secret import Secret

ASKED = Asked("a.test", "https://a.test/", "mark")


class Local:
    """The names of a local issuer; nobody signs in at it here."""

    issuer = "https://cp.test/oidc"
    pages = "https://login.test/oidc"
    client = "datumctl@https://cp.test"
    visits_uri = "https://login.test/oidc/visit/callback"


class Foreign:
    """An issuer that takes codes, and says what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.discoveries = 0
        self.sent: dict[str, str] = {}
        self.document: dict[str, Any] = {}
        self.status = 200
        self.answer: dict[str, Any] = {"id_token": "a.b.c"}

    async def discovery(self, _request: web.Request) -> web.Response:
        self.discoveries += 1
        ours = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/auth?tenant=1",
            "token_endpoint": f"{self.url}/token",
        }
        return web.json_response(ours | self.document)

    async def token(self, request: web.Request) -> web.Response:
        self.sent = {name: str(value) for name, value in (await request.post()).items()}
        if self.status == 302:
            return web.Response(status=302, headers={"Location": f"{self.url}/elsewhere"})
        return web.json_response(self.answer, status=self.status)


class Bed:
    def __init__(self, foreign: Foreign, secret: str = "") -> None:
        self.clock = FakeClock()
        self.foreign = foreign
        trusted = TrustedIssuer(
            foreign.url, "drtp", "corp#", scopes=("openid", "offline_access", "groups"),
            client_secret=Secret(secret) if secret else None,
        )  # fmt: skip
        workloads = TrustedIssuer("https://cluster.test", "drtp", "cluster#", login=False)
        self.relying = RelyingParty(cast("LocalIssuer", Local()), (trusted, workloads), self.clock)

    async def begun(self) -> dict[str, str]:
        """What a browser is sent to the issuer with."""
        url = await self.relying.begin(self.foreign.url, "cookie", ASKED)
        return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


@pytest.fixture
async def foreign() -> AsyncIterator[Foreign]:
    found = Foreign()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", found.discovery)
    app.router.add_post("/token", found.token)
    listener = door.listen("127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with door.serving("issuer", app, listener, door.NEIGHBOURS, SystemClock()):
        yield found


async def test_a_code_is_asked_for_and_redeemed_with_pkce_and_the_clients_secret(foreign: Foreign) -> None:
    bed = Bed(foreign, secret="the client's secret")
    asked = await bed.begun()
    assert (asked["client_id"], asked["redirect_uri"], asked["scope"]) == ("drtp", Local.visits_uri, "openid groups")
    assert asked["tenant"] == "1", "what its address says already stays"
    pending = bed.relying.take(asked["state"], "cookie")
    assert pending.asked == ASKED and pending.nonce == asked["nonce"]
    assert await bed.relying.redeem(pending, "the-code", "192.0.2.1") == "a.b.c"
    assert proves(foreign.sent["code_verifier"], asked["code_challenge"])
    assert (foreign.sent["code"], foreign.sent["client_secret"]) == ("the-code", "the client's secret")
    assert "client_secret" not in asked


async def test_a_state_is_of_one_browser_once_and_for_a_while(foreign: Foreign) -> None:
    bed = Bed(foreign)
    for cookie, wait_s in (("another", 0.0), ("", 0.0), ("cookie", PENDING_S + 1)):
        state = (await bed.begun())["state"]
        await bed.clock.advance(wait_s)
        with pytest.raises(Refused, match="DRTP-2038"):
            bed.relying.take(state, cookie)
    state = (await bed.begun())["state"]
    bed.relying.take(state, "cookie")
    with pytest.raises(Refused, match="DRTP-2038"):
        bed.relying.take(state, "cookie")
    with pytest.raises(Refused, match="DRTP-2038"):
        bed.relying.take("", "")


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (400, {"error": "invalid_grant"}, Refused),
        (200, {"access_token": "x"}, Refused),
        (200, {"id_token": 7}, Refused),
        (302, {}, Refused),
        (503, {}, Retryable),
    ],
)
async def test_what_is_no_id_token_signs_nobody_in(
    foreign: Foreign, status: int, answer: dict[str, Any], error: type[Exception]
) -> None:
    bed = Bed(foreign)
    foreign.status, foreign.answer = status, answer
    pending = bed.relying.take((await bed.begun())["state"], "cookie")
    with pytest.raises(error, match=r"DRTP-203[18]"):
        await bed.relying.redeem(pending, "code", "192.0.2.1")


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://another.test"},
        {"authorization_endpoint": "http://another.test/auth"},
        {"authorization_endpoint": ""},
    ],
)
async def test_a_browser_is_sent_nowhere_that_the_issuer_may_not_name(
    foreign: Foreign, document: dict[str, Any]
) -> None:
    foreign.document = document
    with pytest.raises(Retryable, match="DRTP-2031"):
        await Bed(foreign).begun()


async def test_clicks_of_strangers_do_not_become_requests_to_the_issuer(foreign: Foreign) -> None:
    bed = Bed(foreign)
    for _ in range(20):
        await bed.begun()
    assert foreign.discoveries == 1
    await bed.clock.advance(KNOWN_S + 1)
    foreign.document = {"issuer": "https://another.test"}
    for _ in range(20):
        with pytest.raises(Retryable):
            await bed.begun()
    assert foreign.discoveries == 2, "nor where it fails"
    foreign.document = {}
    await bed.clock.advance(REST_S + 1)
    await bed.begun()


async def test_people_sign_in_where_the_operator_says_and_workloads_issuers_are_none_of_these(foreign: Foreign) -> None:
    bed = Bed(foreign)
    assert bed.relying.issuers == (foreign.url, Local.issuer)
    for issuer in ("https://cluster.test", "https://evil.test", ""):
        with pytest.raises(Refused, match="DRTP-2038"):
            await bed.relying.begin(issuer, "cookie", ASKED)
    local = await bed.relying.begin(Local.issuer, "cookie", ASKED)
    assert local.startswith(f"{Local.pages}/authorize?")
