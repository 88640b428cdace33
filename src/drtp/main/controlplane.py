"""The control plane: every room of the tower, put together in one process.

    store -> view -> controllers -> store
                `-> projections -> publisher -> edge server -> edges
    edges -> edge server -> observed -> controllers

Stopping goes the other way round: the doors close first (watches ended, edges told when to come back), then what
decides, then the store. A kill at any moment loses nothing that was acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter as Counts
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec
from prometheus_client import Gauge

from drtp import __version__
from drtp.api.drtp import EndpointMode
from drtp.api.feed import EdgeRole
from drtp.api.internal import EdgeIdentity
from drtp.api.meta import Key
from drtp.api.rbac import RoleBinding
from drtp.api.registry import REGISTRY
from drtp.apiserver.admissions import Admissions
from drtp.apiserver.catalogue import Catalogue
from drtp.apiserver.organizations import Organizations
from drtp.apiserver.rbac import Rbac
from drtp.apiserver.server import ApiServer, ServerInfo
from drtp.apiserver.servicecredentials import ServiceCredentials
from drtp.apiserver.signin import SignIn
from drtp.apiserver.visiting import VISIT, Visiting
from drtp.controllers import assembly, events
from drtp.controllers.loop import Manager
from drtp.controllers.runtime import World
from drtp.edgeserver.issuing import Issuing
from drtp.edgeserver.server import EdgeServer
from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority
from drtp.issuers.credentials import Credentials
from drtp.issuers.digests import Pepper
from drtp.issuers.idtokens import IdTokens
from drtp.issuers.invitations import Invitations
from drtp.issuers.localissuer import PATH, LocalIssuer
from drtp.issuers.logins import Logins
from drtp.issuers.passwords import Passwords
from drtp.issuers.people import People
from drtp.issuers.relying import RelyingParty
from drtp.issuers.rotation import Rotation
from drtp.issuers.secrets import EnrolmentSecrets
from drtp.issuers.serving import ControlplaneTls, ensure_serving_secret, keep_serving_secret
from drtp.issuers.signingkeys import SigningKeys
from drtp.issuers.tokens import Accounts
from drtp.issuers.visits import Visits, publish_sign_in
from drtp.kit.backoff import full_jitter
from drtp.kit.clock import Clock, SystemClock
from drtp.kit.descriptors import raise_descriptor_limit
from drtp.kit.errors import DrtpError, Retryable
from drtp.kit.files import private_directory
from drtp.kit.observe import REGISTRY as METRICS
from drtp.kit.observe import logger
from drtp.main.bootstrap import SERVING_SECRET, bootstrap
from drtp.main.catalogue_audit import CatalogueAudit
from drtp.main.issuers import offered, trusted_issuers
from drtp.main.operator_socket import OperatorSocket, metrics_served
from drtp.main.publisher import Publisher
from drtp.main.settings import ControlPlaneSettings, settle
from drtp.main.signin import browser_tls
from drtp.projections.projector import Projector
from drtp.projections.settings import ProjectionSettings
from drtp.rules import permissions
from drtp.rules.renewals import is_ending
from drtp.store.incarnation import next_incarnation
from drtp.store.observed import Observed
from drtp.store.sqlite import SqliteStore
from drtp.store.view import View

_COLLECT_EVERY_S = 60.0
"""So long a Secret may outlive the one-time secret that it holds."""

_ANNOUNCE_EVERY_S = 600.0
_TELL_EVERY_S = 3600.0
_COUNT_EVERY_S = 30.0

_ENDING = Gauge(
    "drtp_certificates_ending",
    "Connected edges whose certificate is in the last third of its life, not renewed.",
    ["role"],
    registry=METRICS,
)
_SIGNER_ENDS = Gauge(
    "drtp_signer_not_after_seconds",
    "When the newest signer of the authority ends, unix time, by usage, `root` among them.",
    ["usage"],
    registry=METRICS,
)

_log = logger("controlplane")


@dataclass(frozen=True)
class Tower:
    """The rooms below the doors, of one running control plane."""

    settings: ControlPlaneSettings
    clock: Clock
    store: SqliteStore
    view: View
    observed: Observed
    authority: Authority
    rotation: Rotation
    audit: AuditLog
    catalogue_audit: CatalogueAudit
    secrets: EnrolmentSecrets
    invitations: Invitations
    accounts: Accounts
    logins: Logins
    credentials: Credentials
    local: LocalIssuer
    id_tokens: IdTokens
    projector: Projector
    publisher: Publisher
    manager: Manager
    tls: ControlplaneTls


async def run_controlplane(settings: ControlPlaneSettings, *, clock: Clock | None = None) -> int:
    """Run until SIGTERM or SIGINT; gives the exit status. Raises: Terminal where it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with running_controlplane(settings, clock or SystemClock()) as tower:
            announce(tower.settings)
            await stop.wait()
            _log.info("stopping")
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return 0


@asynccontextmanager
async def running_controlplane(settings: ControlPlaneSettings, clock: Clock) -> AsyncGenerator[Tower]:
    """A control plane that answers at all its doors while the block runs."""
    raise_descriptor_limit()
    private_directory(settings.directory)
    async with AsyncExitStack() as stack:
        tower = await _build(settle(settings), clock, stack)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(work)
                for work in (
                    tower.view.run(),
                    tower.publisher.run(),
                    tower.manager.run(),
                    tower.tls.run(),
                    tower.id_tokens.run(),
                    _persisting(tower, _keep_serving),
                    _persisting(tower, _collect),
                    _persisting(tower, _tell_gateways),
                    _announce_audit(tower),
                    _count_ending(tower),
                    tower.rotation.run(),
                    _persisting(tower, _follow_rotation),
                )
            ]
            await tower.view.synced.wait()
            async with _doors(tower):
                yield tower
            for task in background:
                task.cancel()


def announce(settings: ControlPlaneSettings) -> None:
    """The ready line, one JSON object: to the descriptor in the settings, or to standard output."""
    line = msgspec.json.encode(
        {
            "event": "ready",
            "api": settings.api_url,
            "edge": settings.edge_url,
            "operator": str(settings.operator_socket),
            "pid": os.getpid(),
        }
    )
    if settings.ready_fd is None:
        sys.stdout.write(line.decode() + "\n")
        sys.stdout.flush()
    else:
        with os.fdopen(settings.ready_fd, "wb") as ready:
            ready.write(line + b"\n")


async def _build(settings: ControlPlaneSettings, clock: Clock, stack: AsyncExitStack) -> Tower:
    directory = settings.directory
    store = await SqliteStore.open(directory / "store", clock)
    stack.push_async_callback(store.close)
    audit = AuditLog(private_directory(directory / "audit") / "audit.log", clock)
    stack.callback(audit.close)
    authority = Authority(directory / "authority", settings.trust_domain, settings.suffix, clock)
    rotation = Rotation(store, authority, audit, clock)
    await rotation.load()  # before anything is issued
    await bootstrap(store, settings)
    # Before any gateway asks: a listener without its certificate would be published once as broken.
    await ensure_serving_secret(store, authority, clock, name=SERVING_SECRET, hosts=_public_hosts(settings))
    view = View(store, (info.key for info in REGISTRY if not info.computed), clock)
    audit.uid_of = lambda project: stored.uid if (stored := view.stored(Key("Namespace", "", project))) else ""
    observed = Observed()
    mode = settings.endpoint_mode or EndpointMode.MTLS
    projector = Projector(view, ProjectionSettings(settings.suffix, mode, settings.plain_from))
    controllers = assembly.controllers(view, settings.suffix)
    peppers = directory / "peppers"
    once = Pepper.open(peppers, "enrolment")  # of all that is good once: a restore makes it anew
    logins = Logins(store, Pepper.open(peppers, "logins"), audit, clock)
    accounts = Accounts(store, Pepper.open(peppers, "tokens"), audit, clock, settings.trust_domain, logins)
    passwords = Passwords()
    stack.callback(passwords.close)
    keys = SigningKeys(directory / "signing", clock)
    pages = f"{settings.sign_in_url or settings.api_url}{PATH}"
    issuer = f"{settings.api_url}{PATH}"
    local = LocalIssuer(issuer, store, logins, passwords, keys, audit=audit, clock=clock, pages=pages)
    return Tower(
        settings=settings,
        clock=clock,
        store=store,
        view=view,
        observed=observed,
        authority=authority,
        rotation=rotation,
        audit=audit,
        catalogue_audit=CatalogueAudit(view, audit),
        secrets=EnrolmentSecrets(store, once, audit, clock),
        invitations=Invitations(store, once, audit, clock),
        accounts=accounts,
        logins=logins,
        credentials=Credentials(store, accounts, passwords, authority, audit=audit, clock=clock),
        local=local,
        id_tokens=IdTokens(trusted_issuers(settings), clock, local),
        projector=projector,
        publisher=Publisher(view, projector, await next_incarnation(store, clock)),
        manager=Manager(store, World(view, observed), controllers, clock, recorder=events.record),
        tls=ControlplaneTls(authority, directory / "tls", settings.names, clock, browser_tls(settings)),
    )


@asynccontextmanager
async def _doors(tower: Tower) -> AsyncGenerator[None]:
    """API, edge server, operator socket; closed in this order, each with its own farewell."""
    settings = tower.settings
    authoriser = Rbac(tower.view)
    info = ServerInfo(
        settings.edge_url,
        settings.suffix,
        settings.trust_domain,
        __version__,
        bundle=lambda: tower.authority.public_bundle_pem,
        login=offered(trusted_issuers(settings), tower.local),
        control_plane=lambda: f"{settings.edge_url.removeprefix('https://')}#{tower.authority.pin}",
    )
    people = People(tower.accounts, tower.id_tokens)
    edges = EdgeServer(
        tower.store,
        tower.observed,
        tower.publisher,
        Issuing(tower.authority, tower.secrets, tower.accounts, tower.invitations, tower.audit),
        authenticator=people,
        authoriser=authoriser,
        clock=tower.clock,
        advertised_host=settings.names[0],
        advertised_port=settings.edge_port,
    )

    def joined() -> str:
        """What follows a secret: where to enrol, and the root that counts at this moment."""
        return f"@{settings.edge_url.removeprefix('https://')}#{tower.authority.pin}"

    relying = RelyingParty(tower.local, trusted_issuers(settings), tower.clock)
    api = ApiServer(
        tower.store,
        people,
        authoriser,
        info,
        tower.clock,
        issuer=tower.accounts,
        revoker=edges.revocation,
        audit=tower.audit,
        service_credentials=ServiceCredentials(tower.store, authoriser, tower.secrets, joined),
        organizations=Organizations(tower.store, authoriser, tower.invitations, tower.audit),
        catalogue=Catalogue(tower.view, tower.clock),
        admissions=Admissions(tower.store, tower.view, authoriser),
        own=tower.credentials,
        sign_in=SignIn(tower.local, tower.clock, relying.place_of),
        visiting=_visiting(tower, relying),
    )
    operator = OperatorSocket(
        settings=settings,
        store=tower.store,
        view=tower.view,
        observed=tower.observed,
        authority=tower.authority,
        secrets=tower.secrets,
        accounts=tower.accounts,
        clock=tower.clock,
        audit=tower.audit,
        rotation=tower.rotation,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(operator.serving())
        if settings.metrics_port is not None:
            await stack.enter_async_context(metrics_served(settings.metrics_port, tower.clock))
        await stack.enter_async_context(edges.serving(settings.host, settings.edge_port, tower.tls.context))
        await stack.enter_async_context(api.serve(settings.host, settings.api_port, tower.tls.context))
        yield


async def _persisting(tower: Tower, work: Callable[[Tower], Awaitable[None]]) -> None:
    """Chores outlive a full disk or a lost race: said, then tried again ever more slowly, with the doors open."""
    delays = full_jitter(1.0, 300.0)
    while True:
        try:
            await work(tower)
        except DrtpError as error:
            _log.warning("chore failed", chore=work.__name__.strip("_"), code=error.code, reason=error.what)
        await tower.clock.sleep(next(delays))


async def _keep_serving(tower: Tower) -> None:
    hosts = _public_hosts(tower.settings)
    await keep_serving_secret(tower.store, tower.authority, tower.clock, name=SERVING_SECRET, hosts=hosts)


async def _collect(tower: Tower) -> None:
    while True:
        collected = (tower.secrets, tower.invitations, tower.logins, tower.accounts)
        gone = sum([await one.collect() for one in collected])
        if gone:
            _log.info("expired secrets, sign-ins and tokens forgotten", count=gone)
        await tower.clock.sleep(_COLLECT_EVERY_S)


async def _tell_gateways(tower: Tower) -> None:
    """Where visitors sign in, and the keys that prove it: each is there a day before it signs."""
    while True:
        await publish_sign_in(tower.store, tower.local, f"{tower.local.pages}{VISIT.removeprefix(PATH)}")
        await tower.clock.sleep(_TELL_EVERY_S)


def _visiting(tower: Tower, relying: RelyingParty) -> Visiting:
    def bound_groups() -> frozenset[str]:
        """Groups that an organisation has given a role: no gateway or POP asks for others."""
        bindings = (one for one in tower.view.list(RoleBinding) if permissions.is_of_organization(one.role_ref))
        return frozenset(name for one in bindings for kind, name in permissions.grantees_of(one) if kind == "Group")

    visits = Visits(
        tower.store,
        tower.accounts,
        tower.id_tokens,
        tower.local,
        bound_groups=bound_groups,
        audit=tower.audit,
        clock=tower.clock,
    )
    return Visiting(relying, visits, tower.projector.host_of_sign_in, tower.clock)


async def _count_ending(tower: Tower) -> None:
    """Whether renewals work, as one figure for each kind of edge and each signer."""
    await tower.view.synced.wait()
    while True:
        now = tower.clock.now()
        ending = Counts(
            identity.spec.role
            for identity in tower.view.list(EdgeIdentity)
            if (state := tower.observed.edge(identity.metadata.name)) and state.connected and is_ending(identity, now)
        )
        for role in EdgeRole:
            _ENDING.labels(role.value).set(ending[role])
        for number, root in tower.authority.roots.items():
            if number in tower.authority.state.trusted:
                _SIGNER_ENDS.labels("root").set(root.not_valid_after_utc.timestamp())
        for usage, _, certificate in tower.authority.intermediates():
            _SIGNER_ENDS.labels(usage.value).set(certificate.not_valid_after_utc.timestamp())
        await tower.clock.sleep(_COUNT_EVERY_S)


async def _follow_rotation(tower: Tower) -> None:
    """The doors take each state of the authority at once."""
    async for _state in tower.rotation.changed:
        try:
            tower.tls.refresh()
        except OSError as error:
            raise Retryable("DRTP-1006", f"The doors' certificate cannot be written: {error}.") from error


async def _announce_audit(tower: Tower) -> None:
    """Whoever keeps logs elsewhere can tell later whether the audit log's files were written anew."""
    while True:
        tower.audit.announce()
        await tower.clock.sleep(_ANNOUNCE_EVERY_S)


def _public_hosts(settings: ControlPlaneSettings) -> tuple[str, ...]:
    return (f"*.{settings.suffix}", settings.suffix)
