"""A real edge server over TLS on loopback, with a memory Store, and edges that enrol with it."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from drtp.api.drtp import DRTPServerSpec, Location, ServerListener, Transport
from drtp.api.feed import EdgeRole
from drtp.api.internal import Bound
from drtp.api.meta import Key
from drtp.api.rbac import KINDS
from drtp.api.reports import AgentRegistration, GatewayRegistration, PopRegistration, Registration
from drtp.api.snapshots import Entries, Generation, Snapshot
from drtp.apiserver.rbac import Rbac
from drtp.client.enrolment import enrol
from drtp.client.feed import Feed
from drtp.client.identity import Identity, IdentityStore
from drtp.client.joining import EdgeAddress
from drtp.edgeserver.issuing import Issuing
from drtp.edgeserver.server import EdgeServer
from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority
from drtp.issuers.digests import Pepper
from drtp.issuers.invitations import Invitations
from drtp.issuers.logins import Logins
from drtp.issuers.secrets import EnrolmentSecrets
from drtp.issuers.serving import ControlplaneTls
from drtp.issuers.tokens import Accounts
from drtp.kit.clock import Clock, FakeClock, SystemClock
from drtp.kit.latest import Latest
from drtp.kit.secret import Secret
from drtp.main.roles import ensure_roles, set_projects
from drtp.store.memory import MemoryStore
from drtp.store.observed import Observed
from drtp.store.view import View

T = TypeVar("T")

AGENT = AgentRegistration(hostname="joes-laptop", version="0.1.0", latitude="40.7", longitude="-74.0")
GATEWAY = GatewayRegistration(name="gw-1", addresses=("127.0.0.1",))


def pop(name: str = "worker-001.pop") -> PopRegistration:
    """A POP's registration."""
    return PopRegistration(
        name=name,
        spec=DRTPServerSpec(
            pop="nyc",
            location=Location(latitude="40.7", longitude="-74.0"),
            server_ip="127.0.0.1",
            listeners=(ServerListener(transport=Transport.TLS, port=4443),),
        ),
    )


def clock_from_now() -> FakeClock:
    """A clock that tests move: ten hours before now, because TLS looks at the real time."""
    return FakeClock(datetime.now(UTC) - timedelta(hours=10))


class Snapshots:
    """A `SnapshotSource` that a test writes."""

    def __init__(self) -> None:
        self.of: dict[tuple[EdgeRole, str], Latest[Snapshot]] = {}
        self._sequence = 0

    def subscribe(self, role: EdgeRole, uid: str) -> Latest[Snapshot]:
        return self.of.setdefault((role, uid), Latest())

    def release(self, role: EdgeRole, uid: str) -> None:
        pass

    def publish(self, role: EdgeRole, uid: str, entries: Entries) -> Generation:
        self._sequence += 1
        generation = Generation(1, self._sequence)
        self.subscribe(role, uid).set(Snapshot(generation=generation, entries=entries))
        return generation


class Bed:
    """One control plane's door and everything behind it."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self.clock = clock
        self.store = MemoryStore(clock)
        self.observed = Observed()
        self.snapshots = Snapshots()
        self.authority = Authority(directory / "authority", "drtp.test", "prism.test", clock)
        self.audit = AuditLog(directory / "audit" / "audit.log", clock)
        once = Pepper.open(directory / "authority", "enrolment")
        self.secrets = EnrolmentSecrets(self.store, once, self.audit, clock)
        self.invitations = Invitations(self.store, once, self.audit, clock)
        pepper = Pepper.open(directory / "authority", "tokens")
        logins = Logins(self.store, pepper, self.audit, clock)
        self.accounts = Accounts(self.store, pepper, self.audit, clock, "drtp.test", logins)
        self.tls = ControlplaneTls(self.authority, directory / "tls", ("127.0.0.1", "localhost"), clock)
        self.view = View(self.store, (kind.key for kind in KINDS))
        self.authoriser = Rbac(self.view)
        self.server = self.new_server()
        self.port = 0

    def new_server(self) -> EdgeServer:
        return EdgeServer(
            self.store,
            self.observed,
            self.snapshots,
            Issuing(self.authority, self.secrets, self.accounts, self.invitations, self.audit),
            authenticator=self.accounts,
            authoriser=self.authoriser,
            clock=self.clock,
        )

    @property
    def address(self) -> EdgeAddress:
        return EdgeAddress("127.0.0.1", self.port, self.authority.pin)

    async def prepare(self) -> None:
        for name in ("joe", "eve"):
            await self.store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await self.service("postgres")
        await ensure_roles(self.store)

    async def service(self, name: str, namespace: str = "joe") -> str:
        spec = {"protocol": "TCP", "local": {"host": "127.0.0.1", "port": 5432}}
        stored = await self.store.create(
            {
                "apiVersion": "datumapis.com/v1alpha",
                "kind": "DRTPService",
                "metadata": {"name": name, "namespace": namespace},
                "spec": spec,
            }
        )
        return stored.uid

    async def secret(self, role: EdgeRole, name: str, namespace: str = "joe", **how) -> Secret[str]:
        if role is EdgeRole.AGENT:
            stored = await self.store.get(Key("DRTPService.datumapis.com", namespace, name))
            bound = Bound(kind="DRTPService.datumapis.com", name=name, namespace=namespace, uid=stored.uid)
        else:
            bound = Bound(kind="DRTPServer.datumapis.com", name=name)
        return (await self.secrets.mint(role, bound, **how)).secret

    def identities(self, name: str) -> IdentityStore:
        return IdentityStore(self.directory / name)

    async def until_renewed(self, feed: Feed, name: str, hours: int) -> None:
        """Hours pass until a certificate's renewal is under way, and none more: its answer has deadlines of its own."""
        assert isinstance(self.clock, FakeClock)
        pending = self.directory / name / "identity" / "pending.pem"
        generation = feed.identity.value.generation
        for _ in range(hours):
            if pending.exists() or feed.identity.value.generation > generation:
                break
            await self.clock.advance(3600)
            await asyncio.sleep(0.05)
        await until(lambda: feed.identity.value.generation == generation + 1)

    async def enrolled(self, name: str, registration: Registration = AGENT, bound: str = "postgres") -> Identity:
        role = EdgeRole.AGENT
        if isinstance(registration, PopRegistration | GatewayRegistration):
            role = EdgeRole.POP if isinstance(registration, PopRegistration) else EdgeRole.GATEWAY
            bound = registration.name
        secret = await self.secret(role, bound)
        return await enrol(self.address, self.identities(name), registration, secret=secret)

    def feed(self, name: str, registration: Registration = AGENT) -> Feed:
        return Feed(self.identities(name), lambda: registration, self.directory / name, self.clock)

    @contextlib.asynccontextmanager
    async def running(self, feed: Feed) -> AsyncGenerator[Feed]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(feed.run())
            try:
                yield feed
            finally:
                task.cancel()

    async def token(self, *namespaces: str) -> Secret[str]:
        await self.accounts.ensure("uid-joe", "joe")
        await set_projects(self.store, "uid-joe", "joe", namespaces)
        await self.authoriser.reached(self.store.revision)
        return (await self.accounts.mint_token("uid-joe")).secret


@contextlib.asynccontextmanager
async def edge_bed(directory: Path, clock: Clock | None = None) -> AsyncGenerator[Bed]:
    """A prepared and serving one."""
    bed = Bed(directory, clock or SystemClock())
    await bed.prepare()
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(bed.view.run())
        await bed.view.synced.wait()
        async with bed.server.serving("127.0.0.1", 0, bed.tls.context) as bed.port:
            yield bed
        following.cancel()


async def until(condition: Callable[[], T], within_s: float = 5.0) -> T:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(within_s):
        while not (value := condition()):
            await asyncio.sleep(0.002)
        return value
