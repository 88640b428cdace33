"""The control plane's process is killed under writes; what it acknowledged it has afterwards.

`DRTP_CONTROLPLANE_KILLS=100 pytest -s tests/unit/main/test_kills.py` is the long campaign; it prints its figures.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from drtp.api.people import SYSTEM_MASTERS
from drtp.api.reports import AgentRegistration
from drtp.client.api import ApiClient, resource_path
from drtp.client.context import Context
from drtp.client.enrolment import enrol
from drtp.client.identity import IdentityStore
from drtp.client.joining import parse_join
from drtp.kit.errors import Conflict, Retryable
from drtp.kit.files import write_atomic
from drtp.kit.secret import Secret
from drtp.main.settings import ControlPlaneSettings
from unit.main.controlplane_bed import context_of, operator, process, settings
from unit.main.test_controlplane import ALPHA, GATEWAY_API, service

KILLS = int(os.environ.get("DRTP_CONTROLPLANE_KILLS", "3"))
LANES = 4
CLASSES = "gatewayclasses"


@dataclass
class Books:
    """What the clients were told. `None` in `services`: deleted."""

    services: dict[str, tuple[str, int] | None] = field(default_factory=dict)
    """name -> (uid, port)"""
    doubtful: dict[str, list[tuple[str, int] | None]] = field(default_factory=dict)
    """name -> every state that it may have, for lack of an answer; a uid of "" is any."""
    status: int = 0
    status_sent: int = 0
    enrolled: dict[str, str] = field(default_factory=dict)
    """state directory -> certificate"""
    secrets: dict[str, str] = field(default_factory=dict)
    """state directory -> join string"""
    acknowledged: int = 0


class Clients:
    """People and edges that write, each one thing after the other, until the door is gone."""

    def __init__(self, where: ControlPlaneSettings, root: Path, rng: random.Random) -> None:
        self.books = Books()
        self._where = where
        self._root = root
        self._rng = rng
        self._made = 0
        self._keys: dict[str, Secret[bytes]] = {}

    async def write(self, context: Context) -> None:
        """Returns when nobody answers any more."""
        async with ApiClient(context) as api, asyncio.TaskGroup() as group:
            for lane in (*[self._services] * LANES, self._status):
                group.create_task(_until_gone(lane, api))
            group.create_task(_until_gone(self._enrol, api))

    async def _services(self, api: ApiClient) -> None:
        books = self.books
        self._made += 1
        name = f"w-{self._made}"
        port = self._rng.randrange(1, 60000)
        wanted = service(name)
        wanted["spec"]["local"]["port"] = port
        books.doubtful[name] = [None, ("", port)]
        made = await api.create(wanted, "drtpservices", namespace="default")
        uid = made["metadata"]["uid"]
        self._know(name, (uid, port))
        following = self._rng.randrange(1, 60000)
        books.doubtful[name] = [(uid, port), (uid, following)]
        patch = {"spec": {"local": {"port": following}}}
        await api.patch(ALPHA, "drtpservices", name, patch, namespace="default")
        self._know(name, (uid, following))
        if self._rng.random() < 0.7:
            books.doubtful[name] = [(uid, following), None]
            await api.delete(ALPHA, "drtpservices", name, namespace="default")
            self._know(name, None)

    def _know(self, name: str, state: tuple[str, int] | None) -> None:
        self.books.services[name] = state
        del self.books.doubtful[name]
        self.books.acknowledged += 1

    async def _status(self, api: ApiClient) -> None:
        """Of another controller's class, which ours leaves alone."""
        held = await api.get(GATEWAY_API, CLASSES, "foreign")
        self.books.status_sent = self.books.status + 1
        path = resource_path(GATEWAY_API, CLASSES, name="foreign") + "/status"
        await api.request("PUT", path, body=held | {"status": _said(self.books.status_sent)})
        self.books.status = self.books.status_sent
        self.books.acknowledged += 1

    async def _enrol(self, _api: ApiClient) -> None:
        books = self.books
        self._made += 1
        directory = f"edge-{self._made}"
        try:
            _, answer = await operator(
                self._where, "POST", "/v1/secrets", {"role": "agent", "name": "kept", "namespace": "default"}
            )
        except (OSError, aiohttp.ClientError) as error:
            raise Retryable("DRTP-3001") from error
        books.secrets[directory] = answer["secret"]
        books.enrolled[directory] = await self.enrolled(directory)
        books.acknowledged += 1

    async def enrolled(self, directory: str, secret: str = "") -> str:
        """The certificate that the secret gives the key of this directory, which asks as if it had no answer yet."""
        join = parse_join(secret or self.books.secrets[directory])
        shutil.rmtree(self._root / directory, ignore_errors=True)
        identities = IdentityStore(self._root / directory)
        key = self._keys.setdefault(directory, identities.pending_key())
        write_atomic(self._root / directory / "identity" / "pending.pem", key.reveal())
        identity = await enrol(join.edge, identities, AgentRegistration(hostname="h"), secret=join.secret)
        return identity.chain_pem.decode()


def _said(number: int) -> dict[str, Any]:
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": str(number),
        "lastTransitionTime": "2030-01-01T00:00:00Z",
    }
    return {"conditions": [condition]}


async def _until_gone(work: Callable[[ApiClient], Awaitable[None]], api: ApiClient) -> None:
    while True:
        try:
            await work(api)
        except Retryable:
            return


async def compare(clients: Clients, api: ApiClient, where: ControlPlaneSettings) -> None:
    """Exactly what was acknowledged; what was not, before or after, never between."""
    books = clients.books
    assert (await operator(where, "GET", "/v1/check"))[1] == {"faults": []}
    held = {
        one["metadata"]["name"]: (one["metadata"]["uid"], one["spec"]["local"]["port"])
        for one in (await api.list(ALPHA, "drtpservices", namespace="default"))["items"]
        if "deletionTimestamp" not in one["metadata"] and one["metadata"]["name"] != "kept"
    }
    for name, states in books.doubtful.items():
        state = held.get(name)
        assert any(state == one or (state and one == ("", state[1])) for one in states), (name, state, states)
        books.services[name] = state
    books.doubtful = {}
    assert held == {name: state for name, state in books.services.items() if state is not None}
    said = (await api.get(GATEWAY_API, CLASSES, "foreign")).get("status") or _said(0)
    found = int(said["conditions"][0]["message"])
    assert found in {books.status, books.status_sent}
    books.status = found
    for directory in books.secrets:
        # Whether or not the answer was seen: this key gets its certificate, the same as before, and no other key does.
        given = await clients.enrolled(directory)
        assert books.enrolled.get(directory, given) == given
        with pytest.raises(Conflict, match="DRTP-2002"):
            await clients.enrolled(f"thief-of-{directory}", books.secrets[directory])
    books.secrets, books.enrolled = {}, {}


@asynccontextmanager
async def administrator(where: ControlPlaneSettings) -> AsyncGenerator[tuple[ApiClient, Context]]:
    context = await context_of(where, SYSTEM_MASTERS)
    async with ApiClient(context) as api:
        yield api, context


@pytest.mark.timeout(120 + 10 * KILLS)
async def test_no_kill_of_the_control_plane_loses_what_its_doors_acknowledged(tmp_path: Path) -> None:
    where = settings(tmp_path)
    rng = random.Random()
    clients = Clients(where, tmp_path, rng)
    began = time.monotonic()
    for life in range(KILLS):
        async with process(where) as (child, ready):
            assert ready
            async with administrator(where) as (api, context):
                if life == 0:
                    await api.create(service("kept"), "drtpservices", namespace="default")
                    await api.create(_foreign(), CLASSES)
                else:
                    await compare(clients, api, where)
                async with asyncio.TaskGroup() as group:
                    group.create_task(clients.write(context))
                    await asyncio.sleep(rng.uniform(0.3, 1.0))
                    child.kill()
    async with process(where) as (child, ready), administrator(where) as (api, _context):
        await compare(clients, api, where)
    acknowledged = clients.books.acknowledged
    print(f"{KILLS} kills, {acknowledged} writes acknowledged, 0 lost, {time.monotonic() - began:.1f} s")
    assert acknowledged > 5 * KILLS


def _foreign() -> dict[str, Any]:
    return {
        "apiVersion": GATEWAY_API,
        "kind": "GatewayClass",
        "metadata": {"name": "foreign"},
        "spec": {"controllerName": "example.com/other"},
    }
