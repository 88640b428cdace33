"""The end of a sign-in in a browser: one address on this machine, open for this one answer (RFC 8252, section 7.3)."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncGenerator

from aiohttp import web

from drtp.kit import door
from drtp.kit.clock import Clock
from drtp.kit.errors import Refused, Retryable
from drtp.kit.observe import printable

WAIT_S = 300.0
"""For the person: to find the window, a password, a second factor."""
PATH = "/callback"

_DONE = (
    "<!doctype html><meta charset=utf-8><title>Signed in</title><p style='font:16px system-ui;margin:12vh auto;"
    "max-width:22rem'>{}</p>"
)


class Callback:
    """Waits for the browser to come back."""

    def __init__(self, state: str, issuer: str, *, says_who: bool = False) -> None:
        """`state`: what was sent along; an answer without it is somebody else's. `issuer`: who must have answered.

        `says_who`: the issuer names itself in each answer (RFC 9207), so one without a name is not from there.
        """
        self._state = state
        self._issuer = issuer
        self._unsaid = "" if says_who else issuer
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._host = ""
        self.redirect_uri = ""

    @contextlib.asynccontextmanager
    async def listening(self, clock: Clock) -> AsyncGenerator[None, None]:
        """Listen on 127.0.0.1, at a port that is free."""
        listener = door.listen("127.0.0.1", 0)
        self._host = f"127.0.0.1:{listener.getsockname()[1]}"
        self.redirect_uri = f"http://{self._host}{PATH}"
        app = web.Application(client_max_size=1024)
        app.router.add_get(PATH, self._arrived)
        async with door.serving("sign-in", app, listener, door.NEIGHBOURS, clock):
            yield

    async def code(self) -> str:
        """What the issuer gave. Raises: Refused DRTP-7081, Retryable DRTP-7082."""
        try:
            async with asyncio.timeout(WAIT_S):
                return await self._answer
        except TimeoutError:
            raise Retryable("DRTP-7082") from None

    async def _arrived(self, request: web.Request) -> web.Response:
        """Pages of other sites can send a browser here too: what is not ours changes nothing, and the wait goes on."""
        query = request.query
        # A name that resolves to this address is somebody's trick (DNS rebinding).
        ours = request.host == self._host and hmac.compare_digest(query.get("state", "").encode(), self._state.encode())
        if not ours or query.get("iss", self._unsaid) != self._issuer or self._answer.done():
            return _page("This is not the answer to a sign-in that was started here.", 400)
        code, error = query.get("code", ""), query.get("error", "")
        if error or not code:
            said = printable(query.get("error_description") or error or "no code came")[:200].rstrip(".")
            self._answer.set_exception(Refused("DRTP-7081", f"The issuer refused: {said}."))
            return _page("The sign-in was refused. The terminal says more.", 200)
        self._answer.set_result(code)
        return _page("You are signed in. You can close this page and go back to the terminal.", 200)


def _page(sentence: str, status: int) -> web.Response:
    response = web.Response(text=_DONE.format(sentence), content_type="text/html", status=status)
    response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    response.force_close()
    return response
