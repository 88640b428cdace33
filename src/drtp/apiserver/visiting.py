"""Where visitors of public places say who they are: the routes below `/oidc/visit`, and the way back to the place.

A gateway sends a browser here with the mark of that browser and the address it wanted. Who is signed in in it already
goes back with a visit token, the first time after having been asked; others sign in first, at one of the issuers.
Only hosts of ours that ask for it are gone back to, so nobody is sent anywhere else, and no token either.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from drtp.api.visiting import SIGNED_IN_PATH
from drtp.apiserver import signinpages as pages
from drtp.apiserver.forms import Forms, Handler, cookie_of, form_of, new_cookie, origin_of, with_cookie
from drtp.issuers.localissuer import PATH
from drtp.issuers.relying import Asked, RelyingParty
from drtp.issuers.visits import BROWSER_S, Browser, Visits
from drtp.kit.clock import Clock
from drtp.kit.codes import CODES
from drtp.kit.errors import DrtpError, Refused, Retryable

VISIT = f"{PATH}/visit"
COOKIE = "__Host-drtp-session"
ADDRESS_MAX = 2_048
"""Of where a visitor wanted to go; from a longer one they are sent back to the beginning of the site."""

_ASKED = re.compile(r"browser=([0-9a-f-]{36})&to=(https://[\x21\x23-\x3b\x3d\x3f-\x7e]+)")
"""What a gateway sends: the address comes last, as it is."""


class _Form(msgspec.Struct, frozen=True):
    asked: Asked
    expires: int


class _Leaving(msgspec.Struct, frozen=True):
    expires: int


class Visiting:
    """Handlers. `host_of`: as which host the gateways' tables have a name where visitors sign in; None for others."""

    def __init__(
        self, relying: RelyingParty, visits: Visits, host_of: Callable[[str], str | None], clock: Clock
    ) -> None:
        self._relying = relying
        self._visits = visits
        self._host_of = host_of
        self._forms = Forms((relying.redirect_uri,), clock, again="Open the site again.")

    def add_to(self, app: web.Application) -> None:
        """Serve them."""
        app.router.add_get(VISIT, self._paced(self._come))
        app.router.add_post(VISIT, self._paced(self._decided))
        app.router.add_get(f"{VISIT}/callback", self._paced(self._came_back))
        app.router.add_get(f"{VISIT}/sign-out", self._paced(self._leave))
        app.router.add_post(f"{VISIT}/sign-out", self._paced(self._left))

    def _paced(self, handler: Handler) -> Handler:
        return self._forms.paced(handler, _told)

    async def _come(self, request: web.Request) -> web.StreamResponse:
        asked = self._asked(request.rel_url.raw_query_string)
        browser = await self._visits.find(request.cookies.get(COOKIE, ""))
        if browser is None:
            return await self._choose(request, asked)
        if asked.host in browser.hosts:
            return self._back(browser, asked, request)
        return self._forms.shown(
            request,
            _Form(asked, self._forms.ends()),
            pages.consent,
            action=VISIT,
            host=urlsplit(asked.back).netloc,
            back=origin_of(asked.back),
            who=browser.user.name,
        )

    async def _choose(self, request: web.Request, asked: Asked, fault: DrtpError | None = None) -> web.StreamResponse:
        issuers = self._relying.issuers
        if len(issuers) == 1 and fault is None:
            return await self._sent(issuers[0], cookie_of(request) or new_cookie(), asked)
        return self._forms.shown(
            request,
            _Form(asked, self._forms.ends()),
            pages.choose,
            action=VISIT,
            host=urlsplit(asked.back).netloc,
            issuers={self._name(one): one for one in issuers},
            fault=fault.what if fault is not None else "",
            status=_status(fault) if fault is not None else 200,
        )

    def _name(self, issuer: str) -> str:
        return "With an account here" if self._relying.is_local(issuer) else f"At {urlsplit(issuer).netloc}"

    async def _decided(self, request: web.Request) -> web.StreamResponse:
        form = await form_of(request)
        asked = self._forms.opened(request, form, _Form).asked
        if issuer := form.get("issuer", ""):
            try:
                return await self._sent(issuer, cookie_of(request), asked)
            except (Refused, Retryable) as fault:
                return await self._choose(request, asked, fault)
        secret = request.cookies.get(COOKIE, "")
        browser = await self._visits.find(secret)
        if browser is not None and form.get("do") == "go":
            return self._back(browser, asked, request)
        self._visits.leave(secret)
        return await self._choose(request, asked)

    async def _sent(self, issuer: str, cookie: str, asked: Asked) -> web.Response:
        """To an issuer."""
        return with_cookie(_redirect(await self._relying.begin(issuer, cookie, asked)), cookie)

    async def _came_back(self, request: web.Request) -> web.StreamResponse:
        pending = self._relying.take(request.query.get("state", ""), cookie_of(request))
        code = request.query.get("code", "")
        if not code or request.query.get("iss", pending.issuer) != pending.issuer:
            raise Refused("DRTP-2038", "The issuer signed nobody in.")
        remote = request.remote or "::"
        token = await self._relying.redeem(pending, code, remote)
        secret = await self._visits.enter(token, pending.nonce, remote)
        browser = await self._visits.find(secret)
        if browser is None:
            raise Refused("DRTP-2038")
        # The page that the person signed in on has named the host.
        response = pages.onward(self._address(browser, pending.asked, request), urlsplit(pending.asked.back).netloc)
        response.set_cookie(
            COOKIE, secret, max_age=int(BROWSER_S), path="/", secure=True, httponly=True, samesite="Lax"
        )
        return response

    async def _leave(self, request: web.Request) -> web.StreamResponse:
        """The site has forgotten who it was; here a person is asked, or any link could sign them out."""
        browser = await self._visits.find(request.cookies.get(COOKIE, ""))
        if browser is None:
            return pages.told("Signed out", "Nobody is signed in in this browser.")
        leaving = _Leaving(self._forms.ends())
        return self._forms.shown(request, leaving, pages.leave, action=f"{VISIT}/sign-out", who=browser.user.name)

    async def _left(self, request: web.Request) -> web.StreamResponse:
        self._forms.opened(request, await form_of(request), _Leaving)
        self._visits.leave(request.cookies.get(COOKIE, ""))
        return pages.told(
            "Signed out", "Sites that know you already do for up to an hour; each has a sign-out of its own."
        )

    def _back(self, browser: Browser, asked: Asked, request: web.Request) -> web.Response:
        return _redirect(self._address(browser, asked, request))

    def _address(self, browser: Browser, asked: Asked, request: web.Request) -> str:
        """Of the place, with a token for it."""
        parts = urlsplit(asked.back)
        token = self._visits.token(browser, asked.host, asked.browser, request.remote or "::").reveal()
        wanted = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return f"https://{parts.netloc}{SIGNED_IN_PATH}?token={token}&to={wanted}"

    def _asked(self, query: str) -> Asked:
        """What a gateway asks for. Raises: web.HTTPBadRequest."""
        found = _ASKED.fullmatch(query)
        name, site = _site(found[2]) if found is not None else ("", "")
        host = self._host_of(name) if name else None
        if found is None or host is None:
            raise web.HTTPBadRequest(text="No site of ours sent you here to sign in. Open the site itself.")
        return Asked(host, found[2] if len(found[2]) <= ADDRESS_MAX else site, found[1])


def _site(url: str) -> tuple[str, str]:
    """The host's name in an address, and where its site begins; "" for both where it is none, or names a user."""
    try:
        parts = urlsplit(url)
        readable = parts.hostname and "@" not in parts.netloc and (parts.port is None or parts.port > 0)
    except ValueError:
        return "", ""
    return (parts.hostname or "", f"https://{parts.netloc}/") if readable else ("", "")


def _redirect(to: str) -> web.Response:
    return web.Response(status=303, headers={**pages.UNKEPT, "Location": to, "Referrer-Policy": "no-referrer"})


def _told(error: DrtpError) -> web.Response:
    entry = CODES[error.code]
    return pages.told(entry.title, f"{error.what} {entry.remedy} ({error.code})", status=_status(error))


def _status(error: DrtpError) -> int:
    return 429 if error.code == "DRTP-2033" else 503 if isinstance(error, Retryable) else 403
