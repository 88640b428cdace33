"""Those who belong here, at the doors of identity: enrolment, a token's use, a sign-in's token. At a steady pace."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import msgspec

from drtp.api.feed import EnrolRequest
from drtp.api.reports import AgentRegistration
from drtp.client.context import load_context
from drtp.client.enrolment import fetch_bundle
from drtp.client.joining import JoinString
from drtp.client.keys import new_key, request_for
from drtp.client.tls import trusting
from drtp.issuers.localissuer import PATH, client_of
from scenario.bed import Bed

PER_S = 15.0
"""Honest callers of each sort."""


@dataclass(frozen=True)
class Call:
    """One honest request, and the status that it should get."""

    url: str
    tls: ssl.SSLContext
    body: bytes
    status: int
    headers: dict[str, str] = field(default_factory=dict[str, str])


async def honest_calls(bed: Bed, join: JoinString) -> dict[str, Call]:
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
        "enrolment": Call(f"{join.edge.url}/v1/enrol", edge, msgspec.json.encode(wanted), 200),
        "a token's use": Call(review, api, b"{}", 201, said),
        "a sign-in's token": Call(f"{context.api}{PATH}/token", api, sign_in.encode(), 400, form),
    }


async def window_of(calls: dict[str, Call], window_s: float) -> dict[str, list[float]]:
    """Seconds of each honest call of a window, from when it was due; -1 where it failed."""
    begin = time.monotonic() + 0.1
    async with asyncio.TaskGroup() as group:
        tasks = {
            name: [
                group.create_task(
                    _one(call, window_s, begin + (n + shift / len(calls)) / PER_S, f"127.200.{shift}.{1 + n % 250}")
                )
                for n in range(int(PER_S * window_s))
            ]
            for shift, (name, call) in enumerate(calls.items())
        }
    return {name: [task.result() for task in made] for name, made in tasks.items()}


async def _one(call: Call, patience_s: float, due: float, source: str) -> float:
    await asyncio.sleep(due - time.monotonic())
    connector = aiohttp.TCPConnector(ssl=call.tls, local_addr=(source, 0), force_close=True)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(patience_s)) as http,
            http.post(call.url, data=call.body, headers=call.headers) as response,
        ):
            await response.read()
            return time.monotonic() - due if response.status == call.status else -1.0
    except (aiohttp.ClientError, OSError, TimeoutError):
        return -1.0
