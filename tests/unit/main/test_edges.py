"""The composed control plane with real edges' feeds: POP, gateway and agent enrol, are told, and report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from drtp.api.drtp import ClientStatus, DRTPServerSpec, Location, ProgrammingStatus, ServerListener, Transport
from drtp.api.reports import (
    AgentRegistration,
    ExposureReport,
    ExposureState,
    GatewayRegistration,
    GatewayReport,
    LocalState,
    PopRegistration,
    PopReport,
    Registration,
    RouteReport,
    ServiceReport,
    SessionState,
    TunnelReport,
)
from drtp.api.snapshots import Backend, DenyEntry, PlanServer, PlanService, RouteEntry, Snapshot, TrustEntry
from drtp.client.api import ApiClient
from drtp.client.enrolment import enrol
from drtp.client.feed import Feed
from drtp.client.identity import Identity, IdentityStore
from drtp.client.joining import EdgeAddress, parse_join
from drtp.kit.clock import SystemClock
from drtp.main.controlplane import running_controlplane
from drtp.main.settings import ControlPlaneSettings
from unit.main.controlplane_bed import api_client, context_of, operator, settings
from unit.main.test_controlplane import ALPHA, service

DEADLINE_S = 20.0


@dataclass
class Edge:
    """One edge's feed, and its reports made from what it is told."""

    identity: Identity
    feed: Feed
    told: Callable[[Snapshot], None]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feed.run())
            async for snapshot in self.feed.snapshot:
                self.told(snapshot)
                self.feed.applied(snapshot.generation)


def pop_spec(name: str) -> DRTPServerSpec:
    return DRTPServerSpec(
        pop=name,
        location=Location(latitude="40.7", longitude="-74"),
        server_ip="127.0.0.1",
        listeners=(ServerListener(transport=Transport.TLS, port=7446),),
        health_port=7448,
        failure_domain=name,
    )


class Bed:
    def __init__(self, where: ControlPlaneSettings, root: Path) -> None:
        self.where = where
        self.root = root
        self.edges: dict[str, Edge] = {}

    async def join(
        self, role: str, name: str, registration: Registration, told: Callable[[Edge, Snapshot], None]
    ) -> Edge:
        _, answer = await operator(self.where, "POST", "/v1/secrets", {"role": role, "name": name})
        join = parse_join(answer["secret"])
        identities = IdentityStore(self.root / name / "identity")
        identity = await enrol(join.edge, identities, registration, secret=join.secret)
        return self.edge(name, identity, registration, told)

    def edge(
        self, name: str, identity: Identity, registration: Registration, told: Callable[[Edge, Snapshot], None]
    ) -> Edge:
        identities = IdentityStore(self.root / name / "identity")
        feed = Feed(identities, lambda: registration, self.root / name, SystemClock())
        edge = Edge(identity, feed, lambda snapshot: told(edge, snapshot))
        self.edges[name] = edge
        return edge

    async def pop(self, name: str) -> Edge:
        registration = PopRegistration(name=name, spec=pop_spec(name), version="1")
        edge = await self.join("pop", name, registration, pop_told)
        edge.feed.reports.set("self", PopReport(health=100))
        return edge

    async def gateway(self, name: str) -> Edge:
        registration = GatewayRegistration(name=name, addresses=("127.0.0.1",), version="1")
        edge = await self.join("gateway", name, registration, gateway_told)
        edge.feed.reports.set("self", GatewayReport(envoy_ready=True))
        return edge

    async def agent(self, api: ApiClient, name: str) -> Edge:
        await api.create(
            service(name) | {"spec": service(name)["spec"] | {"expose": {}}}, "drtpservices", namespace="default"
        )
        context = await context_of(self.where)
        _, access = await operator(self.where, "GET", "/v1/access")
        host, _, port = access["edge"].removeprefix("https://").rpartition(":")
        address = EdgeAddress(host, int(port), bundle_pem=access["ca"].encode())
        registration = AgentRegistration(hostname="joes-laptop", version="1")
        identities = IdentityStore(self.root / name / "identity")
        identity = await enrol(
            address, identities, registration, token=context.token, namespace="default", services=(name,)
        )
        return self.edge(name, identity, registration, agent_told)


def pop_told(edge: Edge, snapshot: Snapshot) -> None:
    """Programs every route at once, and sees its agent connected."""
    for key, entry in snapshot.entries.items():
        if isinstance(entry, RouteEntry):
            session = SessionState(status=ClientStatus.CONNECTED, agent=entry.agents[0], lanes=1)
            edge.feed.reports.set(
                key,
                RouteReport(
                    connection=entry.connection,
                    programming=ProgrammingStatus.PROGRAMMED,
                    address="127.0.0.1",
                    port=20000,
                    session=session,
                    sources=entry.sources,
                ),
            )


def gateway_told(edge: Edge, snapshot: Snapshot) -> None:
    for key, entry in snapshot.entries.items():
        if isinstance(entry, TrustEntry | DenyEntry):
            continue
        edge.feed.reports.set(key, ExposureReport(state=ExposureState.PROGRAMMED, sources=entry.sources))


def agent_told(edge: Edge, snapshot: Snapshot) -> None:
    for key, entry in snapshot.entries.items():
        if isinstance(entry, PlanServer):
            report = TunnelReport(server=entry.server, status=ClientStatus.CONNECTED, role=entry.role)
            edge.feed.reports.set(f"tunnel/{entry.server}", report)
        if isinstance(entry, PlanService):
            reachable = ServiceReport(connection=entry.connection, local=LocalState.REACHABLE, sources=entry.sources)
            edge.feed.reports.set(key, reachable)


@asynccontextmanager
async def running(*edges: Edge) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(edge.run()) for edge in edges]
        yield
        for task in tasks:
            task.cancel()


async def eventually(read: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        while not holds(value := await read()):
            await asyncio.sleep(0.02)
        return value


async def told(edge: Edge, holds: Callable[[Snapshot], bool]) -> Snapshot:
    """The edge's snapshot, once `holds` holds of it."""
    async with asyncio.timeout(DEADLINE_S):
        async for snapshot in edge.feed.snapshot:
            if holds(snapshot):
                return snapshot
    raise AssertionError


def condition(obj: dict[str, Any], kind: str) -> str:
    found = obj.get("status", {}).get("conditions", [])
    return next((one["status"] for one in found if one["type"] == kind), "")


def endpoints(snapshot: Snapshot) -> set[str]:
    """Server names of every backend's endpoints."""
    backends = [entry for entry in snapshot.entries.values() if isinstance(entry, Backend)]
    return {endpoint.server_name for backend in backends for endpoint in backend.endpoints}


def routes(snapshot: Snapshot) -> list[RouteEntry]:
    return [entry for entry in snapshot.entries.values() if isinstance(entry, RouteEntry)]


BOTH = {"pop-1.tunnel.prism.localhost", "pop-2.tunnel.prism.localhost"}


class Served(NamedTuple):
    """A service `web` that is ready over two POPs and a gateway."""

    bed: Bed
    pops: tuple[Edge, Edge]
    gateway: Edge
    agent: Edge

    @property
    def edges(self) -> tuple[Edge, ...]:
        return (*self.pops, self.gateway, self.agent)


async def web(api: ApiClient) -> dict[str, Any]:
    return await api.get(ALPHA, "drtpservices", "web", namespace="default")


async def joined(where: ControlPlaneSettings, api: ApiClient, root: Path) -> Served:
    bed = Bed(where, root)
    pops = (await bed.pop("pop-1"), await bed.pop("pop-2"))
    gateway = await bed.gateway("gateway-1")
    return Served(bed, pops, gateway, await bed.agent(api, "web"))


async def test_a_served_service_becomes_ready_through_all_edges(tmp_path: Path) -> None:
    where = settings(tmp_path)
    async with running_controlplane(where, SystemClock()), api_client(where) as api:
        served = await joined(where, api, tmp_path)
        async with running(*served.edges):
            ready = await eventually(lambda: web(api), lambda obj: condition(obj, "Ready") == "True")
            assert ready["status"]["addresses"][0]["url"].startswith("http://")
            await told(served.gateway, lambda snapshot: endpoints(snapshot) == BOTH)
            plan = await told(
                served.agent,
                lambda snapshot: any(isinstance(one, PlanService) and one.ready for one in snapshot.entries.values()),
            )
            assert len([entry for entry in plan.entries.values() if isinstance(entry, PlanServer)]) == 2


async def test_a_restart_of_the_control_plane_changes_nothing_for_anybody(tmp_path: Path) -> None:
    where = settings(tmp_path)
    async with AsyncExitStack() as edges:
        async with running_controlplane(where, SystemClock()), api_client(where) as api:
            served = await joined(where, api, tmp_path)
            await edges.enter_async_context(running(*served.edges))
            await eventually(lambda: web(api), lambda obj: condition(obj, "Ready") == "True")
            before = await told(served.gateway, lambda snapshot: endpoints(snapshot) == BOTH)
            generation = (await web(api))["metadata"]["generation"]
        seen: list[set[str]] = []

        async def collect() -> None:
            async for snapshot in served.gateway.feed.snapshot:
                seen.append(endpoints(snapshot))

        async with running_controlplane(where, SystemClock()), api_client(where) as api, asyncio.TaskGroup() as group:
            collecting = group.create_task(collect())
            # Before any edge is back, and when all are, the service is what it was.
            assert condition(await web(api), "Ready") == "True"
            allow = {"spec": {"edgeAllowlist": ["10.0.0.0/8"]}}
            await api.patch(ALPHA, "drtpservices", "web", allow, namespace="default")
            for pop in served.pops:
                await told(pop, lambda snapshot: any("10.0.0.0/8" in str(one.access) for one in routes(snapshot)))
            now = await eventually(lambda: web(api), lambda obj: obj["status"]["observedGeneration"] > generation)
            assert condition(now, "Ready") == "True"
            await told(served.gateway, lambda snapshot: snapshot.generation > before.generation)
            collecting.cancel()
        assert all(one == BOTH for one in seen)


async def test_deleting_the_service_takes_it_from_every_edge(tmp_path: Path) -> None:
    where = settings(tmp_path)
    async with running_controlplane(where, SystemClock()), api_client(where) as api:
        served = await joined(where, api, tmp_path)
        async with running(*served.edges):
            await eventually(lambda: web(api), lambda obj: condition(obj, "Ready") == "True")
            await api.delete(ALPHA, "drtpservices", "web", namespace="default")
            for pop in served.pops:
                await told(pop, lambda snapshot: not routes(snapshot))
            await told(served.gateway, lambda snapshot: not endpoints(snapshot))
