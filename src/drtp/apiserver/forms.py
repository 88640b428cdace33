"""Forms and pages for strangers' browsers: paced, capped, in time, and bound to the browser that got them.

A form's field is sealed together with a `__Host-` cookie, and the browser's own `Origin` must be ours; nothing is kept
for whoever only looks at a page.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Concatenate, ParamSpec, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec
from aiohttp import web

from drtp.apiserver import signinpages as pages
from drtp.issuers.digests import Pepper
from drtp.kit.buckets import AddressBuckets
from drtp.kit.clock import Clock
from drtp.kit.errors import DrtpError, Refused, Retryable

BODY_BYTES_MAX = 16 * 1024
BODY_DEADLINE_S = 10.0
FORM_S = 600
"""A form that was left open for longer is shown again."""
COOKIE = "__Host-drtp-signin"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
P = ParamSpec("P")
S = TypeVar("S", bound=msgspec.Struct)


class Forms:
    """Of the origins of these addresses. `again`: what whoever brings a form that is not taken is told to do."""

    def __init__(self, urls: Iterable[str], clock: Clock, *, again: str) -> None:
        self._clock = clock
        self._again = again
        self._seals = Pepper(secrets.token_bytes(32))
        self._origins = [[origin_of(url)] for url in urls]
        self._looks = AddressBuckets(clock, burst=120, per_s=10)

    def paced(self, handler: Handler, failed: Callable[[DrtpError], web.StreamResponse]) -> Handler:
        """The handler, for strangers: at a pace, without a traceback, each on a connection of its own."""

        async def paced(request: web.Request) -> web.StreamResponse:
            try:
                if not self._looks.take(request.remote or "::"):
                    raise Refused("DRTP-2033")
                response = await handler(request)
            except (Refused, Retryable) as error:
                response = failed(error)
            except web.HTTPException as refusal:
                response = pages.told("Not understood", refusal.text or refusal.reason, status=refusal.status)
            response.force_close()  # whoever has not said who they are keeps no connection
            return response

        return paced

    def ends(self) -> int:
        """When a form that is made now is too old, unix seconds."""
        return int(self._clock.now().timestamp()) + FORM_S

    def shown(
        self,
        request: web.Request,
        value: msgspec.Struct,
        page: Callable[Concatenate[dict[str, str], P], web.Response],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> web.Response:
        """`page` of a form that carries `value` for the browser that asks; what follows is the page's own."""
        cookie = cookie_of(request) or new_cookie()
        return with_cookie(page({"ask": self._sealed(value, cookie)}, *args, **kwargs), cookie)

    def _sealed(self, value: msgspec.Struct, cookie: str) -> str:
        """A field that this browser alone can bring back."""
        text = base64.urlsafe_b64encode(msgspec.json.encode(value)).decode()
        return f"{text}.{self._seals.digest(f'{cookie} {text}')}"

    def opened(self, request: web.Request, form: Mapping[str, str], kind: type[S]) -> S:
        """What a form of ours carries, if this browser got it from us, lately. Raises: web.HTTPForbidden."""
        text, _, seal = form.get("ask", "").rpartition(".")
        cookie = cookie_of(request)
        ours = request.headers.getall("Origin", []) in self._origins
        if not ours or not cookie or not self._seals.fits(f"{cookie} {text}", seal):
            raise web.HTTPForbidden(text=f"This form is not one of ours. {self._again}")
        try:
            value = msgspec.json.decode(base64.urlsafe_b64decode(text), type=kind)
        except msgspec.ValidationError:
            raise web.HTTPForbidden(text="This form belongs to another page.") from None
        if getattr(value, "expires", 0) < self._clock.now().timestamp():
            raise web.HTTPForbidden(text=f"This form is too old. {self._again}")
        return value


def cookie_of(request: web.Request) -> str:
    """What binds forms to a browser; "" before its first."""
    return request.cookies.get(COOKIE, "")


def new_cookie() -> str:
    """For a browser that has none."""
    return secrets.token_urlsafe(24)


def with_cookie(page: web.Response, cookie: str) -> web.Response:
    """Lax: a link from a terminal or a message is how people come here. A `__Host-` cookie is of this host alone."""
    page.set_cookie(COOKIE, cookie, max_age=FORM_S, path="/", secure=True, httponly=True, samesite="Lax")
    return page


def origin_of(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def form_of(request: web.Request) -> dict[str, str]:
    """A posted form, capped before it is buffered, in time, each field once. Raises: web.HTTPException."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType(text="Send a form.")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, len(body))
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The form did not arrive in time.") from None
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=32)
    except ValueError:
        raise web.HTTPBadRequest(text="The form cannot be read.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise web.HTTPBadRequest(text="A field comes twice.")
    return fields
