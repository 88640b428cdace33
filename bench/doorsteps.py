"""What those who enrol, sign in and use tokens notice of 2,000 strangers at each step of it: p99 at most 1.2 times.

The strangers finish their TLS handshake and then stall, go on at a byte a second, or send garbage; at one door at a
time, calm and crowded in turns. The control plane's memory comes back.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec

from bench.enrolment import make_services, secrets_of
from bench.figures import Missed, percentile
from bench.processes import MB, look
from drtp.api.feed import EnrolRequest
from drtp.api.reports import AgentRegistration
from drtp.client.context import load_context
from drtp.client.enrolment import fetch_bundle
from drtp.client.joining import JoinString
from drtp.client.keys import new_key, request_for
from drtp.client.tls import trusting
from drtp.issuers.localissuer import PATH, client_of
from scenario.bed import Bed
from scenario.doorsteps import Crowding, doorsteps

STRANGERS = 2_000
RATIO_MAX = 1.2
PER_S = 15.0
"""Honest callers of each sort."""
WINDOW_S = 10.0
SETTLE_S = 12.0
"""Longer than any deadline of a request that never ends."""
EDGE_ROUTES = ("POST /v1/enrol", "POST /v1/renew", "POST /v1/secrets", "GET /v1/feed")
API_ROUTES = (
    "POST /oidc/token",
    "POST /oidc/authorize",
    "POST /oidc/device",
    "POST /oidc/device_authorization",
    "POST /apis/identity.datumapis.com/v1alpha/selftokens",
    "POST /apis/identity.datumapis.com/v1alpha/invitationacceptances",
)
MEMORY_RATIO, MEMORY_BYTES_MORE = 1.05, 6 << 20


@dataclass(frozen=True)
class _Call:
    """One honest request, and the status that it should get."""

    url: str
    tls: ssl.SSLContext
    body: bytes
    status: int
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class _Seen:
    """p99 of honest calls by sort, in seconds; failures; the control plane's own memory after each window."""

    calm: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    crowded: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    calls: int = 0
    failed: int = 0
    memory: list[int] = field(default_factory=list[int])


def run(bed: Bed, count: int) -> str:
    """A thirtieth of `count` rounds, at least one, at both doors. Raises: Missed with the table."""
    make_services(bed)
    (join,) = asyncio.run(secrets_of(bed, 1))
    calls = asyncio.run(_calls(bed, join))
    api = urlsplit(load_context(Path(bed.ready["context"])).api)
    doors = {
        "enrolment": Crowding((join.edge.host, join.edge.port), EDGE_ROUTES, STRANGERS),
        "sign-in and tokens": Crowding((str(api.hostname), api.port or 443), API_ROUTES, STRANGERS),
    }
    seen = {name: _Seen() for name in doors}
    asyncio.run(_window(calls))  # the first of all load what later ones find loaded
    for name, crowding in list(doors.items()) * max(1, count // 30):
        _round(bed, seen[name], calls, crowding)
    return _table(seen)


def _round(bed: Bed, seen: _Seen, calls: dict[str, _Call], crowding: Crowding) -> None:
    """Two crowds, of which the first warms the allocators up; calm before and after the second."""
    with doorsteps(crowding) as strangers:
        strangers.arrived()
    for crowded in (False, True, False):
        if crowded:
            with doorsteps(crowding) as strangers:
                strangers.arrived()
                _note(seen, seen.crowded, asyncio.run(_window(calls)))
            continue
        time.sleep(SETTLE_S)
        _note(seen, seen.calm, asyncio.run(_window(calls)))
        seen.memory.append(look(bed.part("controlplane")).uss)


def _note(seen: _Seen, figures: dict[str, list[float]], window: dict[str, list[float]]) -> None:
    for name, seconds in window.items():
        good = [one for one in seconds if one >= 0]
        seen.calls += len(seconds)
        seen.failed += len(seconds) - len(good)
        figures.setdefault(name, []).append(percentile(good or [WINDOW_S], 0.99))


async def _calls(bed: Bed, join: JoinString) -> dict[str, _Call]:
    """Enrolment asks again with the same key, which is as much work but for the signature, and spends one secret."""
    context = load_context(Path(bed.ready["context"]))
    edge, api = trusting(await fetch_bundle(join.edge)), trusting(context.ca_pem)
    wanted = EnrolRequest(
        csr_pem=request_for(new_key()), registration=AgentRegistration(hostname="bench"), secret=join.secret.reveal()
    )
    token = context.token.reveal() if context.token else ""
    said = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    review = f"{context.api}/apis/authentication.k8s.io/v1/selfsubjectreviews"
    client = client_of(f"{context.api}{PATH}")
    sign_in = urlencode({"grant_type": "refresh_token", "refresh_token": "x", "client_id": client})
    return {
        "enrolment": _Call(f"{join.edge.url}/v1/enrol", edge, msgspec.json.encode(wanted), 200),
        "a token's use": _Call(review, api, b"{}", 201, said),
        "a sign-in's token": _Call(f"{context.api}{PATH}/token", api, sign_in.encode(), 400, form),
    }


async def _window(calls: dict[str, _Call]) -> dict[str, list[float]]:
    """Seconds of each honest call of a window, from when it was due; -1 where it failed."""
    begin = time.monotonic() + 0.1
    async with asyncio.TaskGroup() as group:
        tasks = {
            name: [
                group.create_task(
                    _one(call, begin + (n + shift / len(calls)) / PER_S, f"127.200.{shift}.{1 + n % 250}")
                )
                for n in range(int(PER_S * WINDOW_S))
            ]
            for shift, (name, call) in enumerate(calls.items())
        }
    return {name: [task.result() for task in made] for name, made in tasks.items()}


async def _one(call: _Call, due: float, source: str) -> float:
    await asyncio.sleep(due - time.monotonic())
    connector = aiohttp.TCPConnector(ssl=call.tls, local_addr=(source, 0), force_close=True)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(WINDOW_S)) as http,
            http.post(call.url, data=call.body, headers=call.headers) as response,
        ):
            await response.read()
            return time.monotonic() - due if response.status == call.status else -1.0
    except (aiohttp.ClientError, OSError, TimeoutError):
        return -1.0


def _table(seen: dict[str, _Seen]) -> str:
    title = f"p99 of honest calls, {STRANGERS:,} strangers at the steps of one door's routes ({os.cpu_count()} cores)"
    lines = [f"### {title}", "", "| door | call | calm, ms | crowded, ms | ratio |", "|---|---|---|---|---|"]
    ratios: list[float] = []
    back = True
    for door, of in seen.items():
        for name, crowded in of.crowded.items():
            calm = statistics.median(of.calm[name])
            ratios.append(statistics.median(crowded) / calm)
            figures = f"{calm * 1e3:.1f} | {statistics.median(crowded) * 1e3:.1f} | {ratios[-1]:.2f}"
            lines.append(f"| {door} | {name} | {figures} |")
        back = back and of.memory[-1] <= of.memory[0] * MEMORY_RATIO + MEMORY_BYTES_MORE
        sizes = ", ".join(f"{one / MB:.0f}" for one in of.memory)
        lines.append(f"| {door} | control plane, MB after calm windows | {sizes} | | |")
    ratio, failed = statistics.median(ratios), sum(of.failed for of in seen.values())
    held = {f"Median of the ratios {ratio:.2f}; {RATIO_MAX}": ratio <= RATIO_MAX, "memory's return": back}
    lines += ["", *(f"{what} is {'held' if good else 'missed'}." for what, good in held.items())]
    lines.append(f"{failed} of {sum(of.calls for of in seen.values())} honest calls failed.\n")
    if not all(held.values()) or failed:
        raise Missed("\n".join(lines))
    return "\n".join(lines)
