"""The routes of the local issuer, below `/oidc` at the API's door: for strangers, so each is small, short and paced.

What the client asked for is in the sealed field of its form (`forms.py`): nothing is kept for whoever looks at a page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from drtp.apiserver import signinpages as pages
from drtp.apiserver.forms import Forms, Handler, form_of, origin_of
from drtp.issuers.localissuer import PATH, LocalIssuer, NotYet, Tokens
from drtp.issuers.waiting import Code, Entered
from drtp.kit.clock import Clock
from drtp.kit.codes import CODES
from drtp.kit.errors import DrtpError, Refused, Retryable
from drtp.kit.secret import Secret

WORD_MAX = 512
"""Of `state` and `nonce`, which the client gets back; ours has 43 characters."""

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

_REDIRECT = re.compile(r"http://(?:127\.0\.0\.1|\[::1\]):[1-9][0-9]{0,4}/callback")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class _Ask(msgspec.Struct, frozen=True):
    """What a client asked `authorize` for, checked. `expires`: of the form, unix seconds."""

    redirect_uri: str
    challenge: str
    state: str
    nonce: str
    offline: bool
    expires: int


class _Form(msgspec.Struct, frozen=True):
    """A form that asks for nothing but who one is."""

    expires: int


class SignIn:
    """Handlers over a local issuer."""

    def __init__(self, issuer: LocalIssuer, clock: Clock, visited: Callable[[str], str] = lambda _state: "") -> None:
        """`visited`: the public place that a visitor's sign-in with this state is for; "" for none."""
        self._issuer = issuer
        self._visited = visited
        self._clock = clock
        self._forms = Forms((issuer.issuer, issuer.pages), clock, again="Start again with datumctl login.")

    def add_to(self, app: web.Application) -> None:
        """Serve them."""
        router = app.router
        router.add_get(f"{PATH}/.well-known/openid-configuration", self._paced(self._discovery))
        router.add_get(f"{PATH}/keys", self._paced(self._keys))
        router.add_get(f"{PATH}/authorize", self._paced(self._authorize))
        router.add_post(f"{PATH}/authorize", self._paced(self._authorized))
        router.add_get(f"{PATH}/device", self._paced(self._device))
        router.add_post(f"{PATH}/device", self._paced(self._device_decided))
        router.add_post(f"{PATH}/device_authorization", self._paced(self._device_start))
        router.add_post(f"{PATH}/token", self._paced(self._token))
        router.add_post(f"{PATH}/revoke", self._paced(self._revoke))

    def _paced(self, handler: Handler) -> Handler:
        return self._forms.paced(handler, _error)

    # ---- documents -------------------------------------------------------------------------------------------------

    async def _discovery(self, _request: web.Request) -> web.Response:
        issuer, shown = self._issuer.issuer, self._issuer.pages
        return _json(
            {
                "issuer": issuer,
                "authorization_endpoint": f"{shown}/authorize",
                "token_endpoint": f"{issuer}/token",
                "device_authorization_endpoint": f"{issuer}/device_authorization",
                "revocation_endpoint": f"{issuer}/revoke",
                "jwks_uri": f"{issuer}/keys",
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "grant_types_supported": ["authorization_code", "refresh_token", DEVICE_GRANT],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "token_endpoint_auth_methods_supported": ["none"],
                "code_challenge_methods_supported": ["S256"],
                "scopes_supported": ["openid", "offline_access"],
                "claims_supported": ["iss", "sub", "aud", "exp", "iat", "nonce"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def _keys(self, _request: web.Request) -> web.Response:
        return _json(self._issuer.keys.published())

    # ---- a browser on the user's own machine -----------------------------------------------------------------------

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        ask = _asked(request.query, self._issuer, self._forms.ends())
        if ask.redirect_uri == self._issuer.visits_uri and not self._visited(ask.state):
            raise web.HTTPBadRequest(text="This sign-in has been begun too long ago. Open the site again.")
        return self._form(request, ask)

    def _form(self, request: web.Request, ask: _Ask, fault: DrtpError | None = None) -> web.Response:
        fresh = msgspec.structs.replace(ask, expires=self._forms.ends())
        where = origin_of(ask.redirect_uri)
        said = fault.what if fault is not None else ""
        return self._forms.shown(
            request,
            fresh,
            pages.sign_in,
            action=f"{PATH}/authorize",
            where=where,
            host=self._visited(ask.state) if ask.redirect_uri == self._issuer.visits_uri else "",
            fault=said,
            status=_status(fault) if fault is not None else 200,
        )

    async def _authorized(self, request: web.Request) -> web.StreamResponse:
        form = await form_of(request)
        ask = self._forms.opened(request, form, _Ask)
        try:
            who = await self._signed_in(form, request)
        except (Refused, Retryable) as fault:
            return self._form(request, ask, fault)
        code = self._issuer.code_for(Code(who, ask.redirect_uri, ask.challenge, ask.nonce, ask.offline))
        answer = urlencode({"code": code, "state": ask.state, "iss": self._issuer.issuer})
        headers = {**pages.UNKEPT, "Location": f"{ask.redirect_uri}?{answer}", "Referrer-Policy": "no-referrer"}
        return web.Response(status=303, headers=headers)

    # ---- a browser somewhere else ----------------------------------------------------------------------------------

    async def _device_start(self, request: web.Request) -> web.StreamResponse:
        form = await form_of(request)
        if form.get("client_id") != self._issuer.client:
            return _oauth_error("invalid_client")
        scopes = form.get("scope", "").split()
        started = self._issuer.start_device(request.remote or "::", offline="offline_access" in scopes)
        where = f"{self._issuer.pages}/device"
        return _json(
            {
                "device_code": started.device_code.reveal(),
                "user_code": started.user_code,
                "verification_uri": where,
                "verification_uri_complete": f"{where}?{urlencode({'user_code': started.user_code})}",
                "expires_in": started.lifetime_s,
                "interval": started.interval_s,
            }
        )

    async def _device(self, request: web.Request) -> web.StreamResponse:
        return self._device_form(request, request.query.get("user_code", "")[:20])

    def _device_form(self, request: web.Request, code: str, fault: DrtpError | None = None) -> web.Response:
        form = _Form(self._forms.ends())
        said, status = (fault.what, _status(fault)) if fault is not None else ("", 200)
        action = f"{PATH}/device"
        return self._forms.shown(request, form, pages.device, action=action, code=code, fault=said, status=status)

    async def _device_decided(self, request: web.Request) -> web.StreamResponse:
        form = await form_of(request)
        self._forms.opened(request, form, _Form)
        code = form.get("user_code", "")[:20]
        try:
            who = await self._signed_in(form, request)
        except (Refused, Retryable) as fault:
            return self._device_form(request, code, fault)
        granted = form.get("do") == "grant"
        decide = self._issuer.grant if granted else self._issuer.deny
        if not decide(code, who):
            return self._device_form(request, code, Refused("DRTP-2032", "No device waits with this code."))
        if not granted:
            return pages.told("Refused", "The device is not signed in.")
        return pages.told("Signed in", "The device goes on by itself. You can close this page.")

    # ---- clients ---------------------------------------------------------------------------------------------------

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = await form_of(request)
        if form.get("client_id") != self._issuer.client:
            return _oauth_error("invalid_client")
        remote = request.remote or ""
        try:
            match form.get("grant_type"):
                case "authorization_code":
                    verifier = form.get("code_verifier", "")
                    if _VERIFIER.fullmatch(verifier) is None:
                        return _oauth_error("invalid_request")
                    redirect_uri = form.get("redirect_uri", "")
                    tokens = await self._issuer.redeem(form.get("code", ""), verifier, redirect_uri, remote)
                case "refresh_token":
                    tokens = await self._issuer.refresh(form.get("refresh_token", ""), remote)
                case "urn:ietf:params:oauth:grant-type:device_code":
                    tokens = await self._issuer.device_tokens(form.get("device_code", ""))
                case _:
                    return _oauth_error("unsupported_grant_type")
        except NotYet as waiting:
            return _oauth_error(waiting.error)
        except Refused as refusal:
            return _oauth_error("invalid_grant", refusal)
        return _granted(tokens)

    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        """RFC 7009: the answer is the same for a token that is nobody's."""
        form = await form_of(request)
        await self._issuer.sign_out(form.get("token", ""), request.remote or "")
        return _json({})

    # ---- forms -----------------------------------------------------------------------------------------------------

    async def _signed_in(self, form: Mapping[str, str], request: web.Request) -> Entered:
        name, password = form.get("name", "").strip()[:128], form.get("password", "")
        return await self._issuer.signed_in(name, Secret(password), request.remote or "::")


def _asked(query: Mapping[str, str], issuer: LocalIssuer, expires: int) -> _Ask:
    """What a client asks for. Raises: web.HTTPBadRequest; nothing is sent to an address that may be wrong."""
    redirect_uri = query.get("redirect_uri", "")
    known = _REDIRECT.fullmatch(redirect_uri) is not None or redirect_uri == issuer.visits_uri
    if query.get("client_id") != issuer.client or not known:
        raise web.HTTPBadRequest(text="This is not the sign-in of a program that is known here.")
    scopes = query.get("scope", "").split()
    challenge, state, nonce = (query.get(name, "") for name in ("code_challenge", "state", "nonce"))
    understood = (
        query.get("response_type") == "code"
        and query.get("response_mode", "query") == "query"
        and query.get("code_challenge_method") == "S256"
        and _CHALLENGE.fullmatch(challenge) is not None
        and "openid" in scopes
        and 0 < len(state) <= WORD_MAX
        and len(nonce) <= WORD_MAX
    )
    if not understood:
        raise web.HTTPBadRequest(text="The program asks for a sign-in that is not offered here.")
    return _Ask(redirect_uri, challenge, state, nonce, "offline_access" in scopes, expires)


def _granted(tokens: Tokens) -> web.Response:
    # OAuth wants an access token; ours is the ID token, which is what the API takes.
    text = tokens.id_token.reveal()
    answer = {"access_token": text, "id_token": text, "token_type": "Bearer", "expires_in": tokens.lifetime_s}
    if tokens.refresh is not None:
        answer["refresh_token"] = tokens.refresh.reveal()
    return _json(answer)


def _oauth_error(error: str, cause: DrtpError | None = None) -> web.Response:
    body = {"error": error} | ({"error_description": f"{cause.code}: {cause.what}"} if cause is not None else {})
    return _json(body, status=401 if error == "invalid_client" else 400)


def _error(error: DrtpError) -> web.Response:
    entry = CODES[error.code]
    body = {"error": "temporarily_unavailable", "error_description": f"{error.code}: {entry.what}"}
    return _json(body, status=_status(error))


def _status(error: DrtpError) -> int:
    return 429 if error.code == "DRTP-2033" else 503 if isinstance(error, Retryable) else 401


def _json(value: Any, status: int = 200) -> web.Response:
    response = web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
    response.headers.update(pages.UNKEPT)
    return response
