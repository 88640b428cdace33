"""Each edge says and hears at its door what the guide's tables say, and nothing of anybody else."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from drtp.api.drtp import ClientStatus, ProgrammingStatus
from drtp.api.feed import PROTOCOL, EdgeRole, EnrolRequest, Hello, ReportDelta, SecretRequest
from drtp.api.reports import (
    ConnectorRegistration,
    ExposureReport,
    ExposureState,
    GatewayReport,
    PeerPaths,
    PopReport,
    Registration,
    Report,
    RoundTrips,
    RouteReport,
    ServiceReport,
    TunnelReport,
)
from drtp.api.snapshots import DenyEntry, Entries, TrustEntry
from drtp.api.spiffe import PeerRole
from drtp.client.enrolment import enrol
from drtp.client.identity import Identity
from drtp.client.keys import new_key, request_for
from drtp.client.tls import presenting, trusting
from drtp.kit.clock import SystemClock
from unit.edgeserver.edgebed import AGENT, GATEWAY, Bed, edge_bed, pop, until

PAGE = Path(__file__).parents[3] / "docs" / "guide" / "access.md"
ROLES = ("agent", "connector", "pop", "gateway")
CELL = r" (yes|-) \|"
LINE = re.compile(rf"^\| (comes as|reports) `([a-z]+)` \|{CELL}{CELL}{CELL}{CELL}$", re.MULTILINE)
ROUTE = re.compile(r"^\| `(GET|POST) (\S+)`[^|]*\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)

FEED = {"a feed": "400"}
"""To whom it would speak, it says that a feed is a WebSocket."""

REGISTRATIONS: dict[str, Registration] = {
    "agent": AGENT,
    "connector": ConnectorRegistration(hostname="laptop"),
    "pop": pop(),
    "gateway": GATEWAY,
}
REPORTS: dict[str, tuple[str, Report]] = {
    "service": ("service/c", ServiceReport(connection="c")),
    "tunnel": ("tunnel/s", TunnelReport(server="s", status=ClientStatus.CONNECTED)),
    "roundtrips": ("roundtrips", RoundTrips(millis={"worker-001.pop": 1.0})),
    "route": ("route/c", RouteReport(connection="c", programming=ProgrammingStatus.PROGRAMMED)),
    "pop": ("self", PopReport(health=100)),
    "peers": ("peers", PeerPaths()),
    "exposure": ("http/x", ExposureReport(state=ExposureState.PROGRAMMED)),
    "gateway": ("self", GatewayReport(envoy_ready=True)),
}


class Said(NamedTuple):
    """One cell of the table."""

    how: str
    what: str
    role: str
    allowed: bool


def table() -> list[Said]:
    return [
        Said(how, what, role, cell == "yes")
        for how, what, *cells in LINE.findall(PAGE.read_text())
        for role, cell in zip(ROLES, cells, strict=True)
    ]


async def enrolled(bed: Bed, role: str, name: str = "") -> tuple[Identity, ssl.SSLContext]:
    """An edge of this role, and the TLS that shows its certificate."""
    name = name or role
    if role == "connector":
        token = (await bed.accounts.issue(f"user-of-{name}", timedelta(hours=1))).token
        identity = await enrol(bed.address, bed.identities(name), REGISTRATIONS[role], token=token)
    else:
        identity = await bed.enrolled(name, REGISTRATIONS[role])
    return identity, presenting(identity, bed.identities(name).paths(identity))


@asynccontextmanager
async def feed_of(bed: Bed, tls: ssl.SSLContext, said: Registration) -> AsyncGenerator[aiohttp.ClientWebSocketResponse]:
    """A feed whose hello has been said."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http,
        http.ws_connect(f"{bed.address.url}/v1/feed") as feed,
    ):
        hello = Hello(protocol=PROTOCOL, registration=said, certificate_generation=1)
        await feed.send_str(msgspec.json.encode(hello).decode())
        yield feed


async def goodbye(feed: aiohttp.ClientWebSocketResponse) -> str:
    """The code that the feed ends with."""
    async with asyncio.timeout(5):
        async for frame in feed:
            said = msgspec.json.decode(frame.data)
            if said["type"] == "goodbye":
                return said["code"]
    raise AssertionError("the feed ended without a word")


def test_the_tables_have_each_registration_report_and_route(tmp_path: Path) -> None:
    rows = {(one.how, one.what) for one in table()}
    assert rows == {("comes as", name) for name in REGISTRATIONS} | {("reports", name) for name in REPORTS}
    types = {type(report) for _, report in REPORTS.values()}
    assert types == set(Report.__args__)
    assert {type(one) for one in REGISTRATIONS.values()} == set(Registration.__args__)
    bed = Bed(tmp_path, SystemClock())
    served = {(route.method, route.resource.canonical) for route in bed.server.app.router.routes() if route.resource}
    assert {(method, path) for method, path, *_ in ROUTE.findall(PAGE.read_text())} == {
        one for one in served if one[0] != "HEAD"
    }


@pytest.mark.parametrize("role", ROLES)
async def test_an_edge_comes_as_what_it_is_and_reports_its_own_kinds(tmp_path: Path, role: str) -> None:
    async with edge_bed(tmp_path) as bed:
        identity, tls = await enrolled(bed, role)
        bed.snapshots.publish(EdgeRole(role), identity.uid, {"deny": DenyEntry()})
        for cell in table():
            if cell.role != role:
                continue
            said = REGISTRATIONS[cell.what if cell.how == "comes as" else role]
            async with feed_of(bed, tls, said) as feed:
                if cell.how == "comes as":
                    first = msgspec.json.decode((await asyncio.wait_for(feed.receive(), 5)).data)
                    assert (first["type"] != "goodbye") is cell.allowed, cell
                    continue
                key, report = REPORTS[cell.what]
                await feed.send_str(msgspec.json.encode(ReportDelta(whole=True, upsert={key: report})).decode())
                if cell.allowed:
                    await until(lambda key=key: key in bed.observed.edge(identity.uid).reports)
                else:
                    assert await goodbye(feed) == "DRTP-3004", cell


async def test_each_hears_its_own_snapshot_and_nobody_elses(tmp_path: Path) -> None:
    async with edge_bed(tmp_path) as bed:
        await bed.service("postgres", "eve")
        edges = {role: await enrolled(bed, role) for role in ROLES}
        edges["connector-2"] = await enrolled(bed, "connector", "connector-2")
        edges["agent-2"] = await enrolled(bed, "agent", "agent-2")
        secret = await bed.secret(EdgeRole.AGENT, "postgres", "eve")
        eves = await enrol(bed.address, bed.identities("eves"), AGENT, secret=secret)
        edges["agent-3"] = eves, presenting(eves, bed.identities("eves").paths(eves))
        for name, (identity, _) in edges.items():
            marker: Entries = {"trust": TrustEntry(gateways=(f"marker-{name}",))}
            bed.snapshots.publish(EdgeRole(name.partition("-")[0]), identity.uid, marker)
        for name, (_, tls) in edges.items():
            async with feed_of(bed, tls, REGISTRATIONS[name.partition("-")[0]]) as feed:
                heard = ""
                while f"marker-{name}" not in heard:
                    heard += (await asyncio.wait_for(feed.receive(), 5)).data
                found = set(re.findall(r"marker-[a-z0-9-]+", heard))
                assert found == {f"marker-{name}"}


async def test_each_route_answers_each_sort_of_caller_as_the_table_says(tmp_path: Path) -> None:
    async with edge_bed(tmp_path) as bed:
        token = {"Authorization": f"Bearer {(await bed.token('joe')).reveal()}"}
        _, edge = await enrolled(bed, "agent")
        callers: list[tuple[ssl.SSLContext, dict[str, str]]] = [
            (trusting(bed.authority.bundle_pem), {}),
            (trusting(bed.authority.bundle_pem), token),
            (_certified(bed, "uid-joe"), {}),
            (edge, {}),
        ]
        for method, path, *cells in ROUTE.findall(PAGE.read_text()):
            for (tls, headers), expected in zip(callers, cells, strict=True):
                projects: dict[str, str | int] = (
                    {"joe": 200, "eve": 403} if expected == "by role" else {"joe": FEED.get(expected) or expected}
                )
                for project, wanted in projects.items():
                    status = await _status(bed, tls, method, path, headers, project)
                    assert status == int(wanted), (method, path, project, expected)


def _certified(bed: Bed, uid: str) -> ssl.SSLContext:
    """TLS with a user's certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued = bed.authority.issue(bed.authority.identity(PeerRole.USER, uid), key.public_key())
    pkcs8 = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())
    file = bed.directory / f"{uid}.pem"
    file.write_bytes(issued.chain_pem.encode() + private)
    tls = trusting(bed.authority.bundle_pem)
    tls.load_cert_chain(file)
    return tls


async def _status(bed: Bed, tls: ssl.SSLContext, method: str, path: str, headers: dict[str, str], project: str) -> int:
    bodies: dict[str, Any] = {
        "/v1/secrets": SecretRequest(namespace=project, service="postgres"),
        "/v1/enrol": EnrolRequest(
            csr_pem=request_for(new_key()), registration=AGENT, namespace=project, services=("postgres",)
        ),
    }
    body = msgspec.json.encode(bodies.get(path, {})) if method == "POST" else None
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http,
        http.request(method, f"{bed.address.url}{path}", data=body, headers=headers) as response,
    ):
        return response.status
