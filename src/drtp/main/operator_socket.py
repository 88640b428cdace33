"""The operator's door: a Unix socket that only the control plane's own user may open (0600, in a directory of 0700).

    POST /v1/secrets       {role, name[, namespace, uses, lifetimeS, sourceCidrs]} -> {secret, id, expiresAt}
    POST /v1/tokens        {name, namespaces[, role, groups, lifetimeS]} -> {token, id}
    POST /v1/certificates  {name} -> {certificate, key, ca}: an administrator's, for hours
    POST /v1/drain         {server[, drain]} -> {server, unschedulable}
    POST /v1/authority     {do[, holdS, graceS, force]} -> as GET; do: rotate, intermediates, step, rollback
    GET  /v1/authority     -> {phase, active, next, roots, intermediates, behind, notBefore}
    POST /v1/audit         {event, fields} -> {head}: what the operator's tools did on this machine
    GET  /v1/access        -> {api, edge, suffix, trustDomain, ca, foundingCa, webCa, pin}: what to trust, where
    GET  /v1/status        -> {version, pid, revision, synced, edges, quarantined, auditHead}
    GET  /v1/check         -> {faults}: what SQLite finds wrong with the store's file
    GET  /metrics          -> Prometheus text

`secret` is the one string that suffices to join. Errors: {code, message, remedy} under a fitting HTTP status.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from drtp import __version__
from drtp.api.feed import EdgeRole
from drtp.api.internal import Bound
from drtp.api.meta import Key, Model
from drtp.api.people import SYSTEM_MASTERS, account_uid
from drtp.api.spiffe import PeerRole
from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority
from drtp.issuers.rotation import GRACE, HOLD, Rotation
from drtp.issuers.secrets import LIFETIME_S, EnrolmentSecrets
from drtp.issuers.tokens import TOKEN_LIFETIME, Accounts
from drtp.kit import door
from drtp.kit.clock import Clock
from drtp.kit.errors import Conflict, DrtpError, Invalid, NotFound, Refused, Retryable
from drtp.kit.observe import REGISTRY, logger
from drtp.main.authoritystate import told
from drtp.main.roles import TENANT_ROLE, set_projects
from drtp.main.settings import ControlPlaneSettings
from drtp.store.observed import Observed
from drtp.store.protocol import merged
from drtp.store.sqlite import SqliteStore
from drtp.store.view import View

_BODY_BYTES_MAX = 64 * 1024

_log = logger("operator")
M = TypeVar("M", bound=Model)


class MintSecret(Model, frozen=True, kw_only=True):
    """A join secret. `name`: the POP's server name, the gateway's name, or the service of an agent."""

    role: EdgeRole
    name: str
    namespace: str = ""
    uses: int = 1
    lifetime_s: int = msgspec.field(name="lifetimeS", default=LIFETIME_S)
    source_cidrs: tuple[str, ...] = ()


class MintToken(Model, frozen=True, kw_only=True):
    """A bearer token for the person or program of this `name`, who gets exactly these namespaces and groups.

    `role` is the cluster role that the person has in the namespaces.
    """

    name: str
    namespaces: tuple[str, ...] = ("default",)
    role: str = TENANT_ROLE
    groups: tuple[str, ...] = ()
    lifetime_s: int = msgspec.field(name="lifetimeS", default=int(TOKEN_LIFETIME.total_seconds()))


class MintCertificate(Model, frozen=True, kw_only=True):
    """An administrator's client certificate, with its key."""

    name: str = "admin"


class Drain(Model, frozen=True, kw_only=True):
    """Take a tunnel server out of use, or (`drain` false) back into it."""

    server: str
    drain: bool = True


class Happened(Model, frozen=True, kw_only=True):
    """An event for the audit log."""

    event: str
    fields: dict[str, str] = {}


class AuthorityDeed(Enum):
    """What may be done to the authority."""

    ROTATE = "rotate"
    INTERMEDIATES = "intermediates"
    STEP = "step"
    ROLLBACK = "rollback"


class Authorise(Model, frozen=True, kw_only=True):
    """Rotate the root or the intermediates, go on, or go back."""

    do: AuthorityDeed
    hold_s: int = msgspec.field(name="holdS", default=int(HOLD.total_seconds()))
    grace_s: int = msgspec.field(name="graceS", default=int(GRACE.total_seconds()))
    force: bool = False
    by: str = "operator"


@dataclass(frozen=True)
class OperatorSocket:
    """The handlers, over the parts of a running control plane."""

    settings: ControlPlaneSettings
    store: SqliteStore
    view: View
    observed: Observed
    authority: Authority
    secrets: EnrolmentSecrets
    accounts: Accounts
    clock: Clock
    audit: AuditLog
    rotation: Rotation

    def app(self) -> web.Application:
        """The application behind the socket."""
        app = web.Application(client_max_size=_BODY_BYTES_MAX)
        app.router.add_post("/v1/secrets", _taking(MintSecret, self.mint_secret))
        app.router.add_post("/v1/tokens", _taking(MintToken, self.mint_token))
        app.router.add_post("/v1/certificates", _taking(MintCertificate, self.mint_certificate))
        app.router.add_post("/v1/drain", _taking(Drain, self.drain))
        app.router.add_post("/v1/audit", _taking(Happened, self.record))
        app.router.add_post("/v1/authority", _taking(Authorise, self.change_authority))
        app.router.add_get("/v1/authority", _giving(self.tell_authority))
        app.router.add_get("/v1/access", _giving(self.access))
        app.router.add_get("/v1/status", _giving(self.status))
        app.router.add_get("/v1/check", _giving(self.check))
        app.router.add_get("/metrics", _metrics)
        return app

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Serve until left. A socket left by a killed process is replaced."""
        path = self.settings.operator_socket
        with suppress(FileNotFoundError):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(door.BACKLOG)
        listener.setblocking(False)
        async with door.serving("operator", self.app(), listener, door.NEIGHBOURS, self.clock):
            yield
        with suppress(FileNotFoundError):
            path.unlink()

    async def mint_secret(self, ask: MintSecret) -> dict[str, Any]:
        """Make a join secret."""
        bound = await self._bound(ask)
        minted = await self.secrets.mint(
            ask.role,
            bound,
            uses_max=ask.uses,
            lifetime_s=ask.lifetime_s,
            source_cidrs=ask.source_cidrs,
            created_by="operator",
        )
        host, _, port = self.settings.edge_url.removeprefix("https://").rpartition(":")
        join = f"{minted.secret.reveal()}@{host}:{port}#{self.authority.pin}"
        return {"secret": join, "id": minted.id, "expiresAt": minted.expires_at.isoformat()}

    async def _bound(self, ask: MintSecret) -> Bound:
        if ask.role is EdgeRole.AGENT:
            key = Key("DRTPService.datumapis.com", ask.namespace or "default", ask.name)
            return Bound(kind=key.kind, name=key.name, namespace=key.namespace, uid=(await self.store.get(key)).uid)
        if ask.role is EdgeRole.POP:
            return Bound(kind="DRTPServer.datumapis.com", name=ask.name)
        return Bound(kind="EdgeIdentity.internal.datumapis.com", name=ask.name)

    async def mint_token(self, ask: MintToken) -> dict[str, Any]:
        """Make an API token."""
        uid = account_uid(ask.name)
        await self.accounts.ensure(uid, ask.name, groups=ask.groups)
        await set_projects(self.store, uid, ask.name, ask.namespaces, ask.role)
        for project in ask.namespaces:
            self.audit.write("role granted", project=project, role=ask.role, to=f"User {ask.name}", by="operator")
        if ask.groups:
            self.audit.write(
                "user put into groups", user=uid, name=ask.name, groups=", ".join(ask.groups), by="operator"
            )
        lifetime = timedelta(seconds=ask.lifetime_s)
        minted = await self.accounts.mint_token(uid, lifetime=lifetime, description="operator socket")
        await self.view.reached(self.store.revision)  # the token works with its roles at once
        return {"token": minted.secret.reveal(), "id": minted.id}

    async def mint_certificate(self, ask: MintCertificate) -> dict[str, Any]:
        """Make an administrator's certificate and key."""
        uid = account_uid(ask.name)
        await self.accounts.ensure(uid, ask.name, groups=(SYSTEM_MASTERS,))
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self.authority.issue(self.authority.identity(PeerRole.USER, uid), key.public_key())
        self.audit.write(
            "certificate minted", user=uid, name=ask.name, by="operator", expires=issued.not_after.isoformat()
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {"certificate": issued.chain_pem, "key": pem.decode(), "ca": self.authority.bundle_pem.decode()}

    async def drain(self, ask: Drain) -> dict[str, Any]:
        """Cordon a tunnel server; its agents are moved by controllers."""
        stored = await self.store.get(Key("DRTPServer.datumapis.com", "", ask.server))
        await self.store.update(merged(stored.object, {"spec": {"unschedulable": ask.drain or None}}))
        _log.info("server drained" if ask.drain else "server taken back", server=ask.server)
        event = "tunnel server drained" if ask.drain else "tunnel server taken back"
        self.audit.write(event, object=f"DRTPServer {ask.server}", by="operator")
        return {"server": ask.server, "unschedulable": ask.drain}

    async def change_authority(self, ask: Authorise) -> dict[str, Any]:
        """Take one step; whatever follows is done by the rotation itself."""
        match ask.do:
            case AuthorityDeed.ROTATE:
                hold, grace = timedelta(seconds=max(0, ask.hold_s)), timedelta(seconds=max(0, ask.grace_s))
                await self.rotation.begin(ask.by[:64], hold=hold, grace=grace)
            case AuthorityDeed.INTERMEDIATES:
                await self.rotation.renew_intermediates(ask.by[:64])
            case AuthorityDeed.STEP:
                await self.rotation.step(ask.by[:64], force=ask.force)
            case AuthorityDeed.ROLLBACK:
                await self.rotation.roll_back(ask.by[:64])
        return await self.tell_authority()

    async def tell_authority(self) -> dict[str, Any]:
        """Where the authority is, and what the next step waits for."""
        return told(self.authority, await self.rotation.outlook())

    async def record(self, ask: Happened) -> dict[str, Any]:
        """Write down what a tool of the operator's did."""
        said = ((name, value) for name, value in ask.fields.items() if name not in {"event", "project", "also"})
        fields = {name[:32]: value[:512] for name, value in said}
        self.audit.write(ask.event[:64], **fields)
        return {"head": self.audit.head}

    async def access(self) -> dict[str, Any]:
        """Where everything is, and what to trust: nothing here is secret."""
        return {
            "api": self.settings.api_url,
            "edge": self.settings.edge_url,
            "suffix": self.settings.suffix,
            "trustDomain": self.settings.trust_domain,
            "ca": self.authority.bundle_pem.decode(),
            "foundingCa": self.authority.founding_pem.decode(),
            "webCa": self.authority.web_bundle_pem.decode(),
            "pin": self.authority.pin,
        }

    async def status(self) -> dict[str, Any]:
        """What runs and who is connected."""
        edges = [
            {
                "role": state.edge.role.value,
                "uid": state.edge.uid,
                "name": state.name,
                "connected": state.connected,
                "lastSeen": state.last_seen.isoformat(),
            }
            for state in self.observed.edges()
        ]
        return {
            "version": __version__,
            "pid": os.getpid(),
            "revision": self.store.revision,
            "synced": self.view.synced.is_set(),
            "edges": edges,
            "auditHead": self.audit.head,
            "quarantined": {str(key): why for key, why in self.view.quarantined.items()},
        }

    async def check(self) -> dict[str, Any]:
        """Look at every page of the store's file; writes wait meanwhile."""
        return {"faults": list(await self.store.integrity_check())}


@asynccontextmanager
async def metrics_served(port: int, clock: Clock) -> AsyncGenerator[None]:
    """`/metrics` on loopback, for a scraper on this machine, until left. Raises: OSError."""
    app = web.Application(client_max_size=1024)
    app.router.add_get("/metrics", _metrics)
    async with door.serving("metrics", app, door.listen("127.0.0.1", port), door.NEIGHBOURS, clock):
        yield


async def _metrics(_request: web.Request) -> web.Response:
    return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})


_STATUS: tuple[tuple[type[DrtpError], int], ...] = (
    (Invalid, 400),
    (Refused, 403),
    (NotFound, 404),
    (Conflict, 409),
    (Retryable, 503),
)

_Handler = Callable[[web.Request], Awaitable[web.Response]]


def _taking(model: type[M], handle: Callable[[M], Awaitable[dict[str, Any]]]) -> _Handler:
    """A handler that reads its body as `model`."""

    async def handler(request: web.Request) -> web.Response:
        try:
            ask = msgspec.json.decode(await request.read() or b"{}", type=model)
        except msgspec.MsgspecError as error:
            return _failure(Invalid("DRTP-1014", f"The body is not what this call takes: {error}."))
        return await _answer(handle(ask))

    return handler


def _giving(handle: Callable[[], Awaitable[dict[str, Any]]]) -> _Handler:
    async def handler(_request: web.Request) -> web.Response:
        return await _answer(handle())

    return handler


async def _answer(work: Awaitable[dict[str, Any]]) -> web.Response:
    try:
        return web.json_response(await work)
    except DrtpError as error:
        return _failure(error)


def _failure(error: DrtpError) -> web.Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    body = json.dumps({"code": error.code, "message": error.what, "remedy": error.remedy})
    return web.Response(status=status, text=body, content_type="application/json")
