"""What a project's and its organisation's quotas leave each connection at a POP."""

from __future__ import annotations

from typing import Any

from drtp.api.snapshots import Limits, RouteEntry
from drtp.projections.projector import Projector
from drtp.projections.settings import ProjectionSettings
from drtp.store.memory import MemoryStore
from tower import SUFFIX
from unit.projections.test_projector import BASE, body, everything, followed, put

STREAMS, NEW_STREAMS = "datumapis.com/streams", "datumapis.com/new-streams-per-second"


def project(name: str, organization: str) -> dict[str, Any]:
    made = body("v1", "Namespace", "", name, {})
    made["metadata"]["labels"] = {"datumapis.com/organization": organization}
    return made


def quota(namespace: str, **hard: str) -> dict[str, Any]:
    named = {"streams": STREAMS, "new_streams": NEW_STREAMS}
    return body("v1", "ResourceQuota", namespace, "all", {"hard": {named[name]: most for name, most in hard.items()}})


async def limits(*objects: dict[str, Any], usual: Limits | None = None) -> Limits:
    """Of joe's one connection at its POP."""
    store = MemoryStore()
    for made in (*BASE, *objects):
        await put(store, made)
    async with followed(store) as view:
        projector = Projector(view, ProjectionSettings(SUFFIX, limits=usual or Limits()))
        projector.rebuild()
        (entry,) = (
            one for entries in everything(projector).values() for one in entries.values() if isinstance(one, RouteEntry)
        )
        return entry.limits


async def test_without_quotas_the_usual_limits_hold() -> None:
    usual = Limits(streams_max=9, new_streams_per_s=8)
    assert await limits(project("joe", "joe"), usual=usual) == usual


async def test_the_lowest_of_project_organisation_and_usual_holds() -> None:
    acme = (project("acme", "acme"), project("joe", "acme"), quota("acme", streams="100", new_streams="1k"))
    assert await limits(*acme) == Limits(streams_max=100, new_streams_per_s=1000)
    assert (await limits(*acme, quota("joe", streams="7"))).streams_max == 7
    assert (await limits(*acme, usual=Limits(new_streams_per_s=3))).new_streams_per_s == 3


async def test_another_organisations_quota_and_a_mere_label_limit_nothing() -> None:
    assert await limits(project("acme", "acme"), project("joe", "other"), quota("acme", streams="1")) == Limits()
    assert await limits(project("acme", ""), project("joe", "acme"), quota("acme", streams="1")) == Limits()
