"""Incremental projections equal a full rebuild, and a change costs what it touches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drtp.api.internal import EdgeRole
from drtp.api.meta import Key
from drtp.api.snapshots import (
    Backend,
    GatewayListener,
    HttpHost,
    PlanServer,
    PlanService,
    RouteEntry,
    SniExposure,
    TcpExposure,
)
from drtp.kit.observe import REGISTRY
from drtp.projections.cells import Cells, Reader, Result, Unit
from drtp.projections.projector import KINDS, Projector
from drtp.projections.settings import ProjectionSettings
from drtp.store.memory import MemoryStore
from drtp.store.observed import EdgeRef
from drtp.store.protocol import AlreadyExists, NotFound, kind_of
from drtp.store.view import View
from tower import DRTP, GATEWAY_API, INTERNAL, SUFFIX, route, service

SETTINGS = ProjectionSettings(SUFFIX)
NAMESPACES = ("joe", "eve", "datum-system")
NAMES = ("a", "b")


@asynccontextmanager
async def followed(store: MemoryStore) -> AsyncGenerator[View]:
    view = View(store, KINDS)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(view.run())
        await view.synced.wait()
        yield view
        task.cancel()


def everything(projector: Projector) -> dict[EdgeRef, Any]:
    return {edge: dict(projector.entries(edge)) for edge in projector.edges()}


# ---- objects ---------------------------------------------------------------------------------------------------------

namespaces = st.sampled_from(NAMESPACES)
names = st.sampled_from(NAMES)
hosts = st.sampled_from([f"a.{SUFFIX}", f"*.{SUFFIX}", f"b.{SUFFIX}", "other.example"])
cidrs = st.sampled_from([None, [], ["203.0.113.0/24"], ["not a network"]])
ports = st.sampled_from([8080, 8443, 15432])


def body(api: str, kind: str, namespace: str, name: str, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec, **more}


@st.composite
def services(draw: st.DrawFn) -> dict[str, Any]:
    made = service(draw(names), draw(namespaces), draw(st.sampled_from(["HTTP", "TCP", "TLS"])))
    allow = draw(cidrs)
    made["spec"] |= {"enabled": draw(st.booleans())} | ({} if allow is None else {"edgeAllowlist": allow})
    return made


@st.composite
def connections(draw: st.DrawFn) -> dict[str, Any]:
    servers = draw(st.lists(st.sampled_from(["nyc", "ewr"]), unique=True))
    assigned = [
        {"role": role, "serverRef": {"name": server}}
        for role, server in zip(["Primary", "Secondary"], servers, strict=False)
    ]
    state = {"programmingStatus": "Programmed", "clientStatus": draw(st.sampled_from(["Connected", "Waiting"]))}
    status = {"servers": [{**one, **state, "podAddress": "127.0.0.1", "podPort": 20000} for one in assigned]}
    spec = {"serviceRef": {"name": draw(names)}, "client": {"agentID": draw(names)}, "servers": assigned}
    return body(DRTP, "DRTPConnection", draw(namespaces), draw(names), spec, status=status)


@st.composite
def servers(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(["nyc", "ewr"]))
    spec = {
        "pop": name,
        "location": {"latitude": "1", "longitude": "2"},
        "serverIP": "127.0.0.1",
        "listeners": [{"transport": "TLS", "port": draw(st.sampled_from([7000, 7001]))}],
        "healthPort": 7100,
    }
    return body(DRTP, "DRTPServer", "", name, spec)


@st.composite
def identities(draw: st.DrawFn) -> dict[str, Any]:
    role = draw(st.sampled_from(["agent", "agent", "gateway", "pop"]))
    spec: dict[str, Any] = {"role": role, "uri": "x", "namespace": draw(namespaces), "revoked": draw(st.booleans())}
    if draw(st.booleans()):
        spec["formerKeys"] = [{"key": "ab" * 32, "until": "2030-01-01T00:00:00Z"}]
    return body(
        INTERNAL, "EdgeIdentity", "", draw(st.sampled_from(["a", "b", "g"])), spec | {"addresses": ["127.0.0.1"]}
    )


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    target = {"group": "datumapis.com", "kind": "DRTPService", "name": draw(names)}
    action = draw(st.sampled_from(["Allow", "Deny", "Perhaps"]))
    rule = {"name": "r", "action": "Allow", "clientCIDRs": draw(cidrs) or []}
    return body(
        DRTP,
        "DRTPAccessPolicy",
        draw(namespaces),
        draw(names),
        {"targetRefs": [target], "rules": [rule], "defaultAction": action},
    )


@st.composite
def gateways(draw: st.DrawFn) -> dict[str, Any]:
    everywhere = {"namespaces": {"from": draw(st.sampled_from(["All", "Same"]))}}
    protocol = st.sampled_from(["HTTP", "HTTPS", "TCP", "TLS"])
    listeners = [
        {"name": f"l{index}", "port": draw(ports), "protocol": draw(protocol), "allowedRoutes": everywhere}
        | ({"hostname": f"*.{SUFFIX}"} if draw(st.booleans()) else {})
        for index in range(draw(st.integers(1, 3)))
    ]
    spec = {"gatewayClassName": "datum", "listeners": listeners, "allowedListeners": everywhere}
    return body(GATEWAY_API, "Gateway", "datum-system", "global", spec)


@st.composite
def listener_sets(draw: st.DrawFn) -> dict[str, Any]:
    listener = {"name": "l", "port": draw(ports), "protocol": "TCP"}
    spec = {"parentRef": {"name": "global", "namespace": "datum-system"}, "listeners": [listener]}
    return body(GATEWAY_API, "ListenerSet", draw(namespaces), draw(names), spec)


@st.composite
def routes(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["HTTPRoute", "TCPRoute", "TLSRoute"]))
    made = route(kind, draw(names), draw(namespaces), draw(names))
    made["spec"]["hostnames"] = draw(st.lists(hosts, max_size=2, unique=True))
    if draw(st.booleans()):
        made["spec"]["parentRefs"] = [
            {"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": draw(names)}
        ]
    if draw(st.booleans()):
        made["spec"]["rules"][0]["backendRefs"][0]["namespace"] = draw(namespaces)
    return made


@st.composite
def grants(draw: st.DrawFn) -> dict[str, Any]:
    origin = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": draw(namespaces)}
    spec = {"from": [origin], "to": [{"group": "datumapis.com", "kind": "DRTPService"}]}
    return body(GATEWAY_API, "ReferenceGrant", draw(namespaces), draw(names), spec)


@st.composite
def claims(draw: st.DrawFn) -> dict[str, Any]:
    owner = {"ownerNamespace": draw(namespaces)}
    if draw(st.booleans()):
        spec = {"kind": "Port", "value": "shared:15432", **owner}
        return body(INTERNAL, "Claim", "", "port.shared.15432", spec)
    return body(INTERNAL, "Claim", "", f"hostname.is-a.{SUFFIX}", {"kind": "Hostname", "value": f"a.{SUFFIX}", **owner})


@st.composite
def projects(draw: st.DrawFn) -> dict[str, Any]:
    made = body("v1", "Namespace", "", draw(namespaces), {})
    made["metadata"]["labels"] = {"datumapis.com/organization": draw(st.sampled_from(["joe", "eve", "none"]))}
    return made


@st.composite
def quotas(draw: st.DrawFn) -> dict[str, Any]:
    some = st.sampled_from(["datumapis.com/streams", "datumapis.com/bytes-per-second"])
    hard = draw(st.dictionaries(some, st.sampled_from(["1k", "5k"])))
    return body("v1", "ResourceQuota", draw(namespaces), draw(names), {"hard": hard})


CLASS = body(GATEWAY_API, "GatewayClass", "", "datum", {"controllerName": "datumapis.com/drtp-gateway"})

EVERYWHERE = {"namespaces": {"from": "All"}}
SERVER = {
    "pop": "nyc",
    "location": {"latitude": "1", "longitude": "2"},
    "serverIP": "127.0.0.1",
    "listeners": [{"transport": "TLS", "port": 7000}],
    "healthPort": 7100,
}
LISTENERS = [
    {"name": "http", "port": 8080, "protocol": "HTTP", "allowedRoutes": EVERYWHERE},
    {"name": "tls", "port": 8443, "protocol": "TLS", "tls": {"mode": "Passthrough"}, "allowedRoutes": EVERYWHERE},
]
GLOBAL = {"gatewayClassName": "datum", "listeners": LISTENERS, "allowedListeners": EVERYWHERE}
ASSIGNED = {"role": "Primary", "serverRef": {"name": "nyc"}}
LIVE = {"programmingStatus": "Programmed", "clientStatus": "Connected", "podAddress": "127.0.0.1", "podPort": 20000}
HOST = {"kind": "Hostname", "value": f"a.{SUFFIX}"}
PORT = {"kind": "Port", "value": "shared:15432"}
LISTENER_SET = {"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "a"}
BASE = [
    CLASS,
    body(INTERNAL, "EdgeIdentity", "", "g", {"role": "gateway", "uri": "x", "addresses": ["127.0.0.1"]}),
    body(INTERNAL, "EdgeIdentity", "", "a", {"role": "agent", "uri": "x", "namespace": "joe"}),
    body(GATEWAY_API, "Gateway", "datum-system", "global", GLOBAL),
    body(DRTP, "DRTPServer", "", "nyc", SERVER),
    service("a", "joe"),
    body(
        DRTP,
        "DRTPConnection",
        "joe",
        "a",
        {"serviceRef": {"name": "a"}, "client": {"agentID": "a"}, "servers": [ASSIGNED]},
        status={"servers": [{**ASSIGNED, **LIVE}]},
    ),
    body(
        INTERNAL,
        "Claim",
        "",
        f"hostname.is-a.{SUFFIX}",
        {"kind": "Hostname", "value": f"a.{SUFFIX}", "ownerNamespace": "joe"},
    ),
    body(
        INTERNAL, "Claim", "", "port.shared.15432", {"kind": "Port", "value": "shared:15432", "ownerNamespace": "joe"}
    ),
    route("HTTPRoute", "a", "joe", "a", hostnames=[f"a.{SUFFIX}"]),
    body(
        GATEWAY_API,
        "ListenerSet",
        "joe",
        "a",
        {
            "parentRef": {"name": "global", "namespace": "datum-system"},
            "listeners": [{"name": "l", "port": 15432, "protocol": "TCP"}],
        },
    ),
    route(
        "TCPRoute",
        "a",
        "joe",
        "a",
        parentRefs=[{"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "a"}],
    ),
    service("b", "joe", "TLS"),
    route("TLSRoute", "b", "joe", "b", hostnames=[f"a.{SUFFIX}"]),
]

things = st.one_of(
    services(),
    connections(),
    servers(),
    identities(),
    policies(),
    gateways(),
    listener_sets(),
    routes(),
    grants(),
    claims(),
    projects(),
    quotas(),
    st.just(CLASS),
)
steps = st.lists(st.tuples(st.sampled_from(["put", "put", "put", "delete"]), things), min_size=5, max_size=25)


async def put(store: MemoryStore, made: dict[str, Any]) -> None:
    try:
        await store.create(made)
    except AlreadyExists:
        await store.update(made)
    if "status" in made:
        await store.update_status(made)


async def run(script: list[tuple[str, dict[str, Any]]]) -> None:
    store = MemoryStore()
    async with followed(store) as view:
        projector = Projector(view, SETTINGS)
        projector.rebuild()
        changes = view.subscribe()
        for verb, made in script:
            if verb == "put":
                await put(store, made)
            else:
                kind = kind_of(made["apiVersion"], made["kind"])
                try:
                    await store.delete(Key(kind, made["metadata"].get("namespace", ""), made["metadata"]["name"]))
                except NotFound:
                    continue
            await view.reached(store.revision)
            before = everything(projector)
            told = projector.changed(changes.take_now())
            after = everything(projector)
            assert told == {edge for edge in before.keys() | after.keys() if before.get(edge) != after.get(edge)}
        whole = Projector(view, SETTINGS)
        whole.rebuild()
        assert everything(projector) == everything(whole)
        assert not projector.faults


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=steps)
def test_increments_equal_a_full_rebuild(script: list[tuple[str, dict[str, Any]]]) -> None:
    asyncio.run(run([*(("put", made) for made in BASE), *script]))


async def test_the_base_of_the_scripts_has_every_kind_of_entry() -> None:
    store = MemoryStore()
    for made in BASE:
        await put(store, made)
    async with followed(store) as view:
        projector = Projector(view, SETTINGS)
        projector.rebuild()
        kinds = {type(entry) for entries in everything(projector).values() for entry in entries.values()}
        wanted = {RouteEntry, PlanServer, PlanService, GatewayListener, Backend, HttpHost, TcpExposure, SniExposure}
        assert wanted <= kinds


async def test_a_change_among_a_thousand_services_computes_a_handful_of_units() -> None:
    store = MemoryStore()
    await put(store, CLASS)
    everywhere = {"namespaces": {"from": "All"}}
    listener = {"name": "http", "port": 8080, "protocol": "HTTP", "allowedRoutes": everywhere}
    await put(
        store, body(GATEWAY_API, "Gateway", "joe", "global", {"gatewayClassName": "datum", "listeners": [listener]})
    )
    gateway = {"role": "gateway", "uri": "x", "addresses": ["127.0.0.1"]}
    await put(store, body(INTERNAL, "EdgeIdentity", "", "gw-1", gateway))
    for index in range(1000):
        await put(store, service(f"s{index}"))
        made = route("HTTPRoute", f"s{index}", "joe", f"s{index}", hostnames=[f"s{index}.{SUFFIX}"])
        made["spec"]["parentRefs"] = [{"name": "global"}]
        await put(store, made)
    async with followed(store) as view:
        projector = Projector(view, SETTINGS)
        projector.rebuild()
        edge = EdgeRef(EdgeRole.GATEWAY, "gw-1")
        assert sum(isinstance(one, HttpHost) for one in projector.entries(edge).values()) == 1000
        changes = view.subscribe()
        await store.update(service("s7", edgeAllowlist=["203.0.113.0/24"]))
        await view.reached(store.revision)
        before = projector.runs
        assert projector.changed(changes.take_now()) == {edge}
        assert projector.runs - before <= 4


async def test_a_change_among_an_agents_five_hundred_services_computes_a_handful_of_units() -> None:
    def connected(name: str) -> dict[str, Any]:
        spec = {"serviceRef": {"name": name}, "client": {"agentID": "a"}, "servers": [ASSIGNED]}
        return body(DRTP, "DRTPConnection", "joe", name, spec)

    def identity(**more: Any) -> dict[str, Any]:
        return body(INTERNAL, "EdgeIdentity", "", "a", {"role": "agent", "uri": "x", "namespace": "joe", **more})

    store = MemoryStore()
    for made in (body(DRTP, "DRTPServer", "", "nyc", SERVER), identity()):
        await put(store, made)
    for index in range(500):
        await put(store, service(f"s{index}"))
        await put(store, connected(f"s{index}"))
    async with followed(store) as view:
        projector = Projector(view, SETTINGS)
        projector.rebuild()
        changes = view.subscribe()
        agent = EdgeRef(EdgeRole.AGENT, "a")
        assert len(projector.entries(agent)) == 502, "services, the server, and whom to measure"

        async def runs(*made: dict[str, Any]) -> tuple[int, set[EdgeRef]]:
            before = projector.runs
            for one in made:
                await put(store, one)
            await view.reached(store.revision)
            told = projector.changed(changes.take_now())
            return projector.runs - before, told

        assert await runs(identity(generation=2, certificatePem="another")) == (1, set())
        said, told = await runs(connected("s7") | {"status": {"servers": [{**ASSIGNED, **LIVE}]}})
        assert (said, told) == (1, set())
        added, told = await runs(service("more"), connected("more"))
        assert added <= 3
        assert told >= {agent}
        remembered = projector.remembered
        for index in range(20):
            await runs(service(f"passing{index}"), connected(f"passing{index}"))
        assert projector.remembered > remembered
        for index in range(20):
            await store.delete(Key("DRTPConnection.datumapis.com", "joe", f"passing{index}"))
            await store.delete(Key("DRTPService.datumapis.com", "joe", f"passing{index}"))
        await runs()
        assert projector.remembered == remembered, "what is gone is not remembered"
        denied, told = await runs(identity(locked=True))
        assert denied >= 500
        assert not projector.entries(agent)


async def test_one_broken_unit_withdraws_its_own_entries_and_no_others() -> None:
    store = MemoryStore()
    await put(store, CLASS)
    server = {
        "pop": "nyc",
        "location": {"latitude": "1", "longitude": "2"},
        "serverIP": "127.0.0.1",
        "listeners": [{"transport": "TLS", "port": 7000}],
    }
    await put(store, body(DRTP, "DRTPServer", "", "nyc", server))
    for name in NAMES:
        await put(store, service(name))
        spec = {
            "serviceRef": {"name": name},
            "client": {},
            "servers": [{"role": "Primary", "serverRef": {"name": "nyc"}}],
        }
        await put(store, body(DRTP, "DRTPConnection", "joe", name, spec))
    async with followed(store) as view:
        projector = Projector(view, SETTINGS)
        projector.rebuild()
        changes = view.subscribe()
        await store.update(service("a", local={"host": "", "port": 99999999}))
        await view.reached(store.revision)
        (edge,) = projector.changed(changes.take_now())
        assert [one.name for one in projector.entries(edge).values() if isinstance(one, RouteEntry)] == ["b"]


async def test_a_unit_that_cannot_be_computed_is_counted_until_it_can() -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("drtp_projection_faults", {"unit": "odd"}) or 0.0

    faulty = True

    def compute(unit: Unit, read: Reader) -> Result:
        if faulty:
            raise ValueError(unit[0])
        return Result()

    cells = Cells(View(MemoryStore(), ()), compute, {"odd": 0}, (), rests=lambda _unit: False)
    cells.change((), (("odd", "a"), ("odd", "b")))
    cells.change((), (("odd", "a"),))
    assert (counted(), len(cells.faults)) == (2, 2)
    faulty = False
    cells.change((), (("odd", "a"), ("odd", "b")))
    assert (counted(), len(cells.faults)) == (0, 0)
