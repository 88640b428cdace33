"""The Kubernetes API of the embedded control plane: who asks, may they, then the answer. In this order, always."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
from aiohttp import web
from prometheus_client import Counter, Histogram

from drtp.api import rbac
from drtp.api.drtp import GROUP as DRTP_GROUP
from drtp.api.jsonvalue import JsonObject
from drtp.api.meta import Key
from drtp.api.people import Authenticator, CredentialIssuer, TokenIssuer, User
from drtp.api.revoking import Revoker
from drtp.apiserver import (
    accounttokens,
    discovery,
    openapi,
    owncredentials,
    policyreviews,
    reviews,
    revocations,
    usertokens,
)
from drtp.apiserver.admissions import Admissions
from drtp.apiserver.auditqueries import AuditQueries
from drtp.apiserver.calls import BODY_BYTES_MAX, Call, read_object
from drtp.apiserver.changes import Changes
from drtp.apiserver.failures import Failure, not_served, resource_name, translated
from drtp.apiserver.granting import Granting
from drtp.apiserver.namespaces import KIND as NAMESPACE
from drtp.apiserver.namespaces import Janitor
from drtp.apiserver.organizations import Organizations
from drtp.apiserver.paths import Target, kind_at, target_of, verb_of
from drtp.apiserver.rbac import Rbac
from drtp.apiserver.reads import Readable, Reads
from drtp.apiserver.reconsidering import Reconsidering
from drtp.apiserver.selectors import selected_name
from drtp.apiserver.servicecredentials import ServiceCredentials
from drtp.apiserver.signin import SignIn
from drtp.apiserver.visiting import Visiting
from drtp.apiserver.watches import Watches
from drtp.apiserver.writes import Writes, is_apply
from drtp.issuers.audit import AuditLog
from drtp.kit import door, errors
from drtp.kit.clock import Clock
from drtp.kit.observe import REGISTRY, logger
from drtp.store.protocol import Store

KUBERNETES_VERSION = "v1.33.0"
"""The Kubernetes whose conventions are followed; kubectl compares it with its own."""

KEEPALIVE_S = 75.0
SHUTDOWN_S = 5.0
CONNECTIONS_MAX = 4096

log = logger("apiserver")
_REQUESTS = Counter("drtp_api_requests", "Answered, by method and status.", ["method", "code"], registry=REGISTRY)
_SECONDS = Histogram("drtp_api_request_seconds", "To the answer; watches not counted.", ["method"], registry=REGISTRY)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
"""Others are a stranger's words, and share one label."""


class ServerInfo(NamedTuple):
    """What `/.well-known/drtp` tells to anyone: where edges go, and the names of this installation."""

    edge_url: str
    suffix: str
    trust_domain: str
    version: str
    bundle: Callable[[], bytes] = bytes
    """The public roots now, for `/.well-known/drtp/bundle`."""
    login: tuple[JsonObject, ...] = ()
    """The issuers that people sign in with, the usual one first: issuer, clientID, scopes, and ca (PEM) if private."""
    control_plane: Callable[[], str] | None = None
    """Where edges go and what to trust there, in one string: `host:port#pin`. Asked anew: roots are rotated."""


class Serving(NamedTuple):
    """A listening server; `port` is the bound one."""

    host: str
    port: int


class ApiServer:
    """Serves the API over TLS. One per control plane."""

    def __init__(
        self,
        store: Store,
        authenticator: Authenticator,
        authoriser: Rbac,
        info: ServerInfo,
        clock: Clock,
        *,
        issuer: TokenIssuer,
        revoker: Revoker,
        catalogue: Readable,
        admissions: Admissions,
        audit: AuditLog,
        service_credentials: ServiceCredentials,
        organizations: Organizations,
        own: CredentialIssuer,
        sign_in: SignIn | None = None,
        visiting: Visiting | None = None,
    ) -> None:
        self._admissions = admissions
        self._service_credentials = service_credentials
        self._organizations = organizations
        self._own = own
        self._sign_in = sign_in
        self._visiting = visiting
        self._issuer = issuer
        self._revoker = revoker
        self._authenticator = authenticator
        self._authoriser = authoriser
        self._info = info
        self._clock = clock
        self._store = store
        self._reads = Reads(store, clock)
        self._watches = Watches(store, self._reads, clock, self._stands)
        self._reconsidering = Reconsidering(store, self._watches, authoriser, clock, may=self._may, stands=self._stands)
        self._computed = Reads(catalogue, clock)
        self._writes = Writes(
            store, self._reads, Granting(authoriser), organizations=organizations, changes=Changes(audit), clock=clock
        )
        self._audit = audit
        self._audit_queries = AuditQueries(audit, clock)
        self._janitor = Janitor(store, clock)
        self._clock = clock
        self.door: door.Door | None = None
        """While it serves."""
        self._ready = True

    @property
    def app(self) -> web.Application:
        """A new application that serves this API."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        if self._sign_in is not None:
            self._sign_in.add_to(app)
        if self._visiting is not None:
            self._visiting.add_to(app)
        app.router.add_route("*", r"/{path:[\s\S]*}", self._handle)
        return app

    @asynccontextmanager
    async def serve(self, host: str, port: int, tls: Callable[[], ssl.SSLContext]) -> AsyncGenerator[Serving]:
        """Listen until the block is left; then watches are ended and running requests finished. `port` 0 picks one.

        `tls` is asked for each connection.
        """
        listener = door.listen(host, port)
        bound: tuple[str, int] = listener.getsockname()[:2]
        async with door.serving(
            "api",
            self.app,
            listener,
            door.public_limits(CONNECTIONS_MAX),
            self._clock,
            tls=tls,
            keepalive_s=KEEPALIVE_S,
            shutdown_s=SHUTDOWN_S,
            cancels_handlers=True,
            takes_web_socket=True,
        ) as self.door:
            try:
                async with asyncio.TaskGroup() as tasks:
                    chores = [tasks.create_task(self._janitor.run()), tasks.create_task(self._reconsidering.run())]
                    log.info("api served", host=bound[0], port=bound[1])
                    try:
                        yield Serving(bound[0], bound[1])
                    finally:
                        self._ready = False
                        for chore in chores:
                            chore.cancel()
            finally:
                await self._watches.close()

    # ---- one request -----------------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        began = self._clock.monotonic()
        try:
            response = await self._answer(request)
        except Failure as failure:
            response = _refusal(failure)
        except errors.DrtpError as error:
            target = target_of(request.path)
            group, plural, name = (target.group, target.plural, target.name) if target else ("", "", "")
            response = _refusal(translated(error, group, plural, name))
        except web.HTTPException as error:
            response = _refusal(Failure(error.status, "DRTP-1014", error.reason))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            # The door's last word: the caller gets a Status, the log the story. The message may hold data: not sent.
            log.exception("request failed inside", method=request.method, path=request.path)
            response = _refusal(Failure(500, "DRTP-1021", "Internal error occurred; the server's log tells more"))
        method = request.method if request.method in _METHODS else "other"
        _REQUESTS.labels(method, str(response.status)).inc()
        if not response.prepared:
            _SECONDS.labels(method).observe(self._clock.monotonic() - began)
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if (public := self._public(request)) is not None:
            public.force_close()  # whoever has not said who they are keeps no connection
            return public
        user = await self._user(request)
        target = target_of(request.raw_path.partition("?")[0])
        if target is not None:
            return await self._resource(request, user, target)
        self._authorise_document(request, user)
        return _document(request)

    def _public(self, request: web.Request) -> web.Response | None:
        """What needs no identity, or None."""
        match request.path.rstrip("/"):
            case "/healthz" | "/livez":
                return web.Response(text="ok")
            case "/readyz":
                return web.Response(text="ok") if self._ready else web.Response(text="shutting down", status=503)
            case "/version":
                return _json(_version())
            case "/.well-known/drtp/bundle":
                return web.Response(body=self._info.bundle(), content_type="application/x-pem-file")
            case "/.well-known/drtp":
                return _json(
                    {
                        "edge": self._info.edge_url,
                        "suffix": self._info.suffix,
                        "trustDomain": self._info.trust_domain,
                        "version": self._info.version,
                    }
                    | ({"login": self._info.login} if self._info.login else {})
                    | ({"controlPlane": self._info.control_plane()} if self._info.control_plane is not None else {})
                )
            case _:
                return None

    async def _user(self, request: web.Request) -> User:
        """Raises: Failure 401, the same for every cause."""
        said = request.headers.getall("Authorization", [])
        # Of two, who reads the first and who reads the last would see different callers.
        scheme, _, token = said[0].partition(" ") if len(said) == 1 else ("", "", "")
        token = token.strip() if scheme.lower() == "bearer" else ""
        tls = request.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        user = await self._authenticator.authenticate(token, certificate, request.remote or "")
        if user is None:
            raise Failure(401, "DRTP-1011", "Unauthorized")
        if any(name.lower().startswith("impersonate-") for name in request.headers):
            # Ignoring it would show an operator their own rights under somebody else's name.
            raise Failure(403, "DRTP-1012", "impersonation is not offered; use a token of that user")
        return user

    async def _resource(self, request: web.Request, user: User, target: Target) -> web.StreamResponse:
        group, version, plural, namespace = target[:4]
        if (group, plural, target.subresource, request.method) == ("", "serviceaccounts", "token", "POST"):
            self._authorise(user, "create", target)
            body = await read_object(request)
            issued = accounttokens.issue(
                body, user, target, store=self._store, issuer=self._issuer, authoriser=self._authoriser
            )
            return _json(await issued, status=201)
        if discovery.review_at(group, version, plural, namespaced=bool(namespace)) is not None:
            return await self._review(request, user, target)
        watching = request.query.get("watch", "") in {"1", "true"}
        verb = verb_of(request.method, target, watching=watching and request.method == "GET")
        self._authorise(user, verb, _asked(request, target, verb))
        if verb == "patch" and is_apply(request.content_type):
            self._authorise(user, "create", target)  # an apply makes what does not exist yet
        info = kind_at(target)
        call = Call(request, user, target, info, verb)
        response = await self._dispatch(call)
        if (target.group == rbac.GROUP or info.key == NAMESPACE) and verb not in {"get", "list", "watch"}:
            await self._authoriser.reached(self._store.revision)
        return response

    def _may(self, call: Call) -> bool:
        """Whether roles let the caller of `call` do it now."""
        return self._may_as(call.user, call)

    async def _stands(self, call: Call) -> bool:
        """Whether whoever sent `call` would be let in now, by what the connection shows and roles give."""
        try:
            return self._may_as(await self._user(call.request), call)
        except Failure:
            return False

    def _may_as(self, user: User, call: Call) -> bool:
        try:
            self._authorise(user, call.verb, _asked(call.request, call.target, call.verb))
        except Failure:
            return False
        return True

    def _authorise(self, user: User, verb: str, target: Target) -> None:
        """Raises: Failure 403, before anything is looked up, the kind itself included."""
        # A Namespace is itself the tenant that the question is about.
        itself = (target.group, target.plural) == ("", "namespaces")
        decision = self._authoriser.decide(
            user,
            verb,
            target.group,
            target.plural,
            target.subresource,
            target.name if itself else target.namespace,
            target.name,
        )
        if decision.allowed:
            return
        what = resource_name(target.group, target.plural)
        quoted = f'{what} "{target.name}"' if target.name else what
        full = f"{target.plural}/{target.subresource}" if target.subresource else target.plural
        where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
        reason = f": {decision.reason}" if decision.reason else ""
        message = (
            f'{quoted} is forbidden: User "{user.name}" cannot {verb} resource "{full}" '
            f'in API group "{target.group}" {where}{reason}'
        )
        raise Failure(403, "DRTP-1012", message, details={"name": target.name, "kind": target.plural})

    def _authorise_document(self, request: web.Request, user: User) -> None:
        """Raises: Failure 403, whether there is such a document or not."""
        verb = request.method.lower()
        if not self._authoriser.reaches(user, "get" if verb == "head" else verb, request.path).allowed:
            raise Failure(403, "DRTP-1012", f'forbidden: User "{user.name}" cannot {verb} path "{request.path}"')

    async def _dispatch(self, call: Call) -> web.StreamResponse:  # noqa: PLR0911 - one line each
        if call.info.computed:
            return await self._read_computed(call)
        match call.verb:
            case "get":
                return await self._reads.get(call)
            case "list":
                return await self._reads.list(call)
            case "watch":
                return await self._watches.run(call)
            case "create":
                return await self._writes.create(call)
            case "update":
                return await self._writes.update(call)
            case "patch":
                return await self._writes.patch(call)
            case "delete":
                return await self._writes.delete(call)
            case _:
                return await self._writes.delete_collection(call)

    async def _read_computed(self, call: Call) -> web.StreamResponse:
        """What is made for each reader is read, and nothing else. Raises: Failure 405."""
        match call.verb:
            case "get":
                return await self._computed.get(call)
            case "list":
                return await self._computed.list(call)
            case _:
                raise Failure(405, "DRTP-1018", "the server does not allow this method on the requested resource")

    async def _review(self, request: web.Request, user: User, target: Target) -> web.Response:
        if request.method != "POST" or target.name:
            raise Failure(405, "DRTP-1018", "the server does not allow this method on the requested resource")
        self._authorise(user, "create", target)
        return _json(await self._posted(request, await read_object(request), user, target), status=201)

    async def _posted(  # noqa: PLR0911 - one line each
        self, request: web.Request, body: JsonObject, user: User, target: Target
    ) -> JsonObject:
        namespace = target.namespace
        match target.plural:
            case "usertokens":
                made = await usertokens.issue(body, self._issuer)
                self._tell_token(request, user, made["status"])
                return made
            case "revocations" | "clusterrevocations":
                done = await revocations.revoke(body, namespace, user, self._revoker)
                self._tell_revocation(request, user, target, done["spec"])
                return done
            case "auditqueries" | "clusterauditqueries":
                return await self._audit_queries.answer(body, namespace, await self._uid_of(target))
            case "servicecredentials":
                return await self._service_credentials.make(body, namespace, user)
            case "projectrequests":
                return await self._organizations.make_project(body, namespace, user)
            case "invitations":
                return await self._organizations.invite(body, namespace, user)
            case "invitationacceptances":
                return await self._organizations.accept(body, user)
            case "policyreviews":
                # The answer speaks of policies: whoever may not read them gets none.
                self._authorise(user, "list", target._replace(group=DRTP_GROUP, plural="drtpaccesspolicies"))
                return await policyreviews.answer(body, namespace, self._store, self._admissions, self._clock.now())
            case plural if plural in owncredentials.PLURALS:
                return await owncredentials.answer(plural, body, user, self._own)
            case _:
                return reviews.answer(target.plural, body, user, self._authoriser, namespace)

    def _tell_token(self, request: web.Request, user: User, given: JsonObject) -> None:
        self._audit.write(
            "user token given",
            user=str(given["uid"]),
            by=user.name,
            remote=request.remote or "",
            decision="allowed",
        )

    def _tell_revocation(self, request: web.Request, user: User, target: Target, spec: JsonObject) -> None:
        """Who asked for it, from where; what it took away has lines of its own."""
        what = next(name for name in spec if name != "reason")
        self._audit.write(
            "revocation",
            project=target.namespace,
            object=f"{what} {spec[what]}",
            by=user.name,
            remote=request.remote or "",
            decision="allowed",
            reason=str(spec.get("reason") or ""),
        )

    async def _uid_of(self, target: Target) -> str:
        """The uid of the project that the path is in, "" in the cluster. Raises: NotFound."""
        return (await self._store.get(Key("Namespace", "", target.namespace))).uid if target.namespace else ""


def _asked(request: web.Request, target: Target, verb: str) -> Target:
    """What roles are asked about: a collection narrowed to one name is that object, as roles for objects have it."""
    if target.name or verb not in {"list", "watch", "deletecollection"}:
        return target
    return target._replace(name=selected_name(request.query.get("fieldSelector", "")))


def _json(value: object, status: int = 200, content_type: str = "application/json") -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, headers={"Content-Type": content_type})


def _refusal(failure: Failure) -> web.Response:
    headers = {"Content-Type": "application/json"}
    if failure.http == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="drtp"'
    if failure.details and "retryAfterSeconds" in failure.details:
        headers["Retry-After"] = str(failure.details["retryAfterSeconds"])
    response = web.Response(body=failure.encoded(), status=failure.http, headers=headers)
    if failure.http == 401:
        response.force_close()
    return response


def _document(request: web.Request) -> web.Response:
    """Discovery and OpenAPI, for every user. Raises: Failure 404, 405."""
    if request.method not in {"GET", "HEAD"}:
        raise Failure(405, "DRTP-1018", "the server does not allow this method on the requested resource")
    path = request.path.rstrip("/")
    if path in {"/api", "/apis"} and "as=APIGroupDiscoveryList" in request.headers.get("Accept", ""):
        return _json(discovery.aggregated(core=path == "/api"), content_type=discovery.AGGREGATED)
    if path == "/openapi/v3":
        return web.Response(body=openapi.index(), content_type="application/json")
    if path.startswith("/openapi/v3/"):
        return _openapi(path.removeprefix("/openapi/v3/"))
    if path == "":
        return _json({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]})
    found = discovery.legacy(path)
    if found is None:
        raise not_served()
    return _json(found)


def _openapi(root: str) -> web.Response:
    kind, _, rest = root.partition("/")
    group, _, version = rest.partition("/") if kind == "apis" else ("", "", rest)
    if version not in discovery.served().get(group, {}):
        raise not_served()
    return web.Response(body=openapi.document(group, version), content_type="application/json")


def _version() -> dict[str, str]:
    major, minor, _patch = KUBERNETES_VERSION.removeprefix("v").split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{KUBERNETES_VERSION}-drtp",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "",
    }
