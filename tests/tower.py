"""A control tower in memory: the real Store, View, Manager, controllers and Projector under a clock of our own.

Edges are played by putting their reports into Observed, as the edge server does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from drtp.api.drtp import ClientStatus, DRTPServer, DRTPServerSpec, ProgrammingStatus
from drtp.api.feed import ReportDelta
from drtp.api.internal import EdgeRole
from drtp.api.meta import ConditionStatus, Key, Model
from drtp.api.reports import (
    AgentRegistration,
    ExposureReport,
    ExposureState,
    GatewayRegistration,
    LocalState,
    PopRegistration,
    PopReport,
    Report,
    RouteReport,
    ServiceReport,
    SessionState,
)
from drtp.api.snapshots import (
    Backend,
    Entry,
    GatewayListener,
    HttpHost,
    PlanService,
    RouteEntry,
    SniExposure,
    TcpExposure,
    UdpExposure,
)
from drtp.controllers import assembly
from drtp.controllers.loop import Manager
from drtp.controllers.runtime import World
from drtp.kit.clock import FakeClock
from drtp.projections.projector import KINDS, Projector
from drtp.projections.settings import ProjectionSettings
from drtp.rules import conditions
from drtp.store.memory import MemoryStore
from drtp.store.observed import EdgeRef, Observed
from drtp.store.protocol import Object, Stored, merged
from drtp.store.view import View, kind_key

SUFFIX = "drtp.localhost"
DRTP = "datumapis.com/v1alpha"
GATEWAY_API = "gateway.networking.k8s.io/v1"
INTERNAL = "internal.datumapis.com/v1"
M = TypeVar("M", bound=Model)


class Tower:
    """Everything of a control plane but its doors."""

    def __init__(self, clock: FakeClock | None = None, store: MemoryStore | None = None) -> None:
        self.clock = clock or FakeClock()
        self.store = store or MemoryStore(self.clock)
        self.view = View(self.store, {*KINDS, *assembly.KINDS}, self.clock)
        self.observed = Observed()
        self.world = World(self.view, self.observed)
        self.projector = Projector(self.view, ProjectionSettings(SUFFIX))
        self.controllers = assembly.controllers(self.view, SUFFIX)
        self.manager = Manager(self.store, self.world, self.controllers, self.clock, recorder=assembly.record)
        self.changes = self.view.subscribe()
        self.servers: dict[str, str] = {}
        self.restarting = store is not None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Tower]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.view.run()), group.create_task(self.manager.run())]
            async with asyncio.timeout(5):
                await self.view.synced.wait()
            self.projector.rebuild()
            if not self.restarting:
                await self._operator()
            await self.settle()
            yield self
            for task in tasks:
                task.cancel()

    async def settle(self) -> None:
        """Until nothing is left to do but wait for time or edges."""
        async with asyncio.timeout(10):
            quiet = 0
            while quiet < 10:
                await asyncio.sleep(0)
                busy = not self.manager.idle or self.view.revision < self.store.revision
                quiet = 0 if busy else quiet + 1
        self.projector.changed(self.changes.take_now())

    async def advance(self, seconds: float) -> None:
        """Time passes, with a heartbeat of whoever is connected."""
        while seconds > 0:
            step = min(seconds, 5.0)
            for state in self.observed.edges():
                if state.connected:
                    self.observed.heartbeat(state.edge.uid, self.clock.now())
            await self.clock.advance(step)
            await self.settle()
            seconds -= step

    # ---- objects -------------------------------------------------------------------------------------------------

    async def apply(self, body: Object) -> Stored:
        stored = await self.store.create(body)
        await self.settle()
        return stored

    async def patch(self, model: type[Model], namespace: str, name: str, change: Mapping[str, Any]) -> None:
        held = await self.store.get(Key(kind_key(model), namespace, name))
        await self.store.update(merged(held.object, change))
        await self.settle()

    async def delete(self, model: type[Model], namespace: str, name: str) -> None:
        await self.store.delete(Key(kind_key(model), namespace, name))
        await self.settle()

    def get(self, model: type[M], namespace: str, name: str) -> M:
        found = self.view.get(model, namespace, name)
        assert found is not None, f"{model.__name__} {namespace}/{name} is not there"
        return found

    def condition(self, found: Any, kind: str) -> tuple[str, str]:
        """(status, reason) of a condition."""
        one = conditions.find(found.status.conditions, kind)
        assert one is not None, f"no condition {kind}"
        return one.status.value, one.reason

    async def _operator(self) -> None:
        for name in ("datum-system", "joe", "eve", "zephyr"):
            await self.store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await self.store.create(
            {
                "apiVersion": GATEWAY_API,
                "kind": "GatewayClass",
                "metadata": {"name": "datum"},
                "spec": {"controllerName": "datumapis.com/drtp-gateway"},
            }
        )
        everywhere = {"namespaces": {"from": "All"}}
        listeners: list[dict[str, Any]] = [
            {
                "name": "http",
                "port": 8080,
                "protocol": "HTTP",
                "hostname": f"*.{SUFFIX}",
                "allowedRoutes": everywhere,
            },
            {
                "name": "https",
                "port": 8443,
                "protocol": "HTTPS",
                "hostname": f"*.{SUFFIX}",
                "tls": {"certificateRefs": [{"name": "wildcard"}]},
                "allowedRoutes": everywhere,
            },
        ]
        await self.store.create(
            {
                "apiVersion": GATEWAY_API,
                "kind": "Gateway",
                "metadata": {
                    "name": "global",
                    "namespace": "datum-system",
                    "annotations": {"datumapis.com/dedicated-addresses": "127.0.7.0/29"},
                },
                "spec": {
                    "gatewayClassName": "datum",
                    "listeners": listeners,
                    "allowedListeners": everywhere,
                },
            }
        )

    # ---- edges ---------------------------------------------------------------------------------------------------

    async def pop(self, name: str, **spec: Any) -> str:
        """A POP registers and reports. Gives its uid."""
        full = {
            "pop": name[:3],
            "location": {"latitude": "40.7", "longitude": "-74.0"},
            "serverIP": "127.0.0.1",
            "listeners": [{"transport": "TLS", "port": 7000}],
            "healthPort": 7100,
            "failureDomain": name,
            **spec,
        }
        key = Key(kind_key(DRTPServer), "", name)
        if self.view.stored(key) is None:
            await self.store.create(
                {"apiVersion": DRTP, "kind": "DRTPServer", "metadata": {"name": name}, "spec": full}
            )
        uid = (await self.store.get(key)).uid
        self.servers[name] = uid
        await self._identity(uid, {"role": "pop", "edgeName": name})
        registration = PopRegistration(name=name, spec=msgspec.convert(full, DRTPServerSpec), version="1")
        self.observed.connect(EdgeRef(EdgeRole.POP, uid), registration, self.clock.now())
        await self.say(uid, {"self": PopReport(health=100)})
        return uid

    async def gateway(self, uid: str = "gw-1", address: str = "127.0.0.1") -> str:
        await self._identity(uid, {"role": "gateway", "edgeName": uid, "addresses": [address]})
        registration = GatewayRegistration(name=uid, addresses=(address,))
        self.observed.connect(EdgeRef(EdgeRole.GATEWAY, uid), registration, self.clock.now())
        await self.settle()
        return uid

    async def agent(self, uid: str, namespace: str, service: str, **client: Any) -> str:
        """An agent enrols for a service; `client`: more of what it says. Gives the connection's name."""
        await self._identity(uid, {"role": "agent", "namespace": namespace})
        name = f"{service}-{uid}"
        if self.view.stored(Key("DRTPConnection.datumapis.com", namespace, name)) is None:
            await self.store.create(
                {
                    "apiVersion": DRTP,
                    "kind": "DRTPConnection",
                    "metadata": {"name": name, "namespace": namespace},
                    "spec": {
                        "serviceRef": {"name": service},
                        "client": {"agentID": uid, "hostname": "joes-laptop", **client},
                    },
                }
            )
        self.observed.connect(EdgeRef(EdgeRole.AGENT, uid), AgentRegistration(hostname="joes-laptop"), self.clock.now())
        await self.settle()
        return name

    async def say(self, uid: str, reports: dict[str, Report], *, whole: bool = False) -> None:
        self.observed.take_report(uid, ReportDelta(whole=whole, upsert=reports), self.clock.now())
        await self.settle()

    async def hang_up(self, uid: str) -> None:
        self.observed.disconnect(uid, self.clock.now())
        await self.settle()

    async def pop_serves(
        self,
        name: str,
        *,
        session: ClientStatus = ClientStatus.CONNECTED,
        programming: ProgrammingStatus = ProgrammingStatus.PROGRAMMED,
        visitors: int = 0,
        byte_rates: bool = True,
    ) -> None:
        """The POP opens an endpoint for everything it is told, and has a session for it; `visitors` where it leaves."""
        uid = self.servers[name]
        reports: dict[str, Report] = {}
        for index, (key, entry) in enumerate(sorted(self.entries(EdgeRole.POP, uid).items())):
            if isinstance(entry, RouteEntry):
                reports[key] = RouteReport(
                    connection=entry.connection,
                    programming=programming,
                    address="127.0.0.1",
                    port=20000 + index,
                    session=SessionState(status=session, agent=entry.agents[0] if entry.agents else ""),
                    visitors=visitors if entry.leaving else None,
                    byte_rates=byte_rates,
                    sources=entry.sources,
                )
        await self.say(uid, reports)

    async def agent_says(self, uid: str, local: LocalState, message: str = "") -> None:
        reports: dict[str, Report] = {
            key: ServiceReport(connection=key.partition("/")[2], local=local, message=message, sources=entry.sources)
            for key, entry in self.entries(EdgeRole.AGENT, uid).items()
            if isinstance(entry, PlanService)
        }
        await self.say(uid, reports)

    async def gateway_programs(self, uid: str = "gw-1", failing: str = "") -> None:
        """Envoy takes everything (but what starts with `failing`)."""
        kinds = (GatewayListener, HttpHost, TcpExposure, UdpExposure, SniExposure, Backend)
        reports: dict[str, Report] = {}
        for key, entry in self.entries(EdgeRole.GATEWAY, uid).items():
            if isinstance(entry, kinds):
                bad = bool(failing) and key.startswith(failing)
                reports[key] = ExposureReport(
                    state=ExposureState.FAILED if bad else ExposureState.PROGRAMMED,
                    message="address in use" if bad else "",
                    sources=entry.sources,
                )
        await self.say(uid, reports, whole=True)

    def entries(self, role: EdgeRole, uid: str) -> Mapping[str, Entry]:
        return self.projector.entries(EdgeRef(role, uid))

    async def _identity(self, uid: str, spec: Mapping[str, Any]) -> None:
        body = {
            "apiVersion": INTERNAL,
            "kind": "EdgeIdentity",
            "metadata": {"name": uid},
            "spec": {"uri": f"spiffe://t/{uid}", **spec},
        }
        if self.view.stored(Key("EdgeIdentity.internal.datumapis.com", "", uid)) is None:
            await self.store.create(body)
        await self.settle()


def service(name: str = "web", namespace: str = "joe", protocol: str = "HTTP", **spec: Any) -> dict[str, Any]:
    """A DRTPService, exposed unless said otherwise."""
    return {
        "apiVersion": DRTP,
        "kind": "DRTPService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"protocol": protocol, "local": {"host": "localhost", "port": 8080}, "expose": {}, **spec},
    }


def route(kind: str, name: str, namespace: str, backend: str, **spec: Any) -> dict[str, Any]:
    """A hand-written route on the operator's Gateway."""
    refs = [{"group": "datumapis.com", "kind": "DRTPService", "name": backend}]
    return {
        "apiVersion": GATEWAY_API,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "parentRefs": [{"name": "global", "namespace": "datum-system"}],
            "rules": [{"backendRefs": refs}],
            **spec,
        },
    }


TRUE = ConditionStatus.TRUE.value
FALSE = ConditionStatus.FALSE.value
