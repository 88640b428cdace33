"""An edge that is connected and not renewed says so on its object, and no longer than that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from drtp.api.drtp import DRTPConnection, DRTPServer
from drtp.api.internal import EdgeIdentity
from drtp.api.meta import Model
from drtp.rules import conditions
from tower import Tower, service

HOUR = timedelta(hours=1)


@pytest.fixture
async def tower() -> AsyncIterator[Tower]:
    async with Tower().running() as running:
        yield running


async def ends(tower: Tower, uid: str, when: datetime) -> None:
    await tower.patch(EdgeIdentity, "", uid, {"spec": {"notAfter": when.isoformat()}})


def told(tower: Tower, model: type[Model], namespace: str, name: str) -> str | None:
    found = conditions.find(tower.get(model, namespace, name).status.conditions, "CertificateEnding")  # pyright: ignore[reportAttributeAccessIssue]
    return f"{found.status.value} {found.reason}" if found else None


async def test_a_connected_server_with_an_old_certificate_has_the_condition_until_it_renews(tower: Tower) -> None:
    uid = await tower.pop("nyc-1")
    await ends(tower, uid, tower.clock.now() + 9 * HOUR)
    await tower.advance(15)
    assert told(tower, DRTPServer, "", "nyc-1") is None
    await ends(tower, uid, tower.clock.now() + 7 * HOUR)
    await tower.advance(15)
    assert told(tower, DRTPServer, "", "nyc-1") == "True RenewalFails"
    await ends(tower, uid, tower.clock.now() + 24 * HOUR)
    await tower.advance(15)
    assert told(tower, DRTPServer, "", "nyc-1") is None


async def test_an_agents_connection_tells_by_itself_when_the_time_has_come(tower: Tower) -> None:
    await tower.pop("nyc-1")
    await tower.apply(service("web"))
    name = await tower.agent("a1", "joe", "web")
    await ends(tower, "a1", tower.clock.now() + 8 * HOUR + timedelta(seconds=20))
    await tower.say("a1", {})
    await tower.patch(DRTPConnection, "joe", name, {"metadata": {"labels": {"seen": "yes"}}})
    assert told(tower, DRTPConnection, "joe", name) is None
    await tower.advance(40)
    assert told(tower, DRTPConnection, "joe", name) == "True RenewalFails"
    await ends(tower, "a1", tower.clock.now() + 24 * HOUR)
    await tower.advance(70)
    assert told(tower, DRTPConnection, "joe", name) is None
