"""What a project's and its organisation's quotas leave each connection at a POP."""

from __future__ import annotations

from typing import Any

from drtp.api.snapshots import Limits, RouteEntry, Share
from drtp.projections.projector import Projector
from drtp.projections.settings import ProjectionSettings
from drtp.store.memory import MemoryStore
from tower import SUFFIX
from unit.projections.test_projector import BASE, body, everything, followed, put

NAMES = {
    "streams": "datumapis.com/streams",
    "new_streams": "datumapis.com/new-streams-per-second",
    "rate": "datumapis.com/bytes-per-second",
}


def project(name: str, organization: str) -> dict[str, Any]:
    made = body("v1", "Namespace", "", name, {})
    made["metadata"]["labels"] = {"datumapis.com/organization": organization}
    return made


def quota(namespace: str, **hard: str) -> dict[str, Any]:
    return body("v1", "ResourceQuota", namespace, "all", {"hard": {NAMES[name]: most for name, most in hard.items()}})


async def limits(*objects: dict[str, Any], usual: Limits | None = None) -> Limits:
    return (await route(*objects, usual=usual)).limits


async def route(*objects: dict[str, Any], usual: Limits | None = None) -> RouteEntry:
    """Joe's one connection at its POP."""
    store = MemoryStore()
    for made in (*BASE, *objects):
        await put(store, made)
    async with followed(store) as view:
        projector = Projector(view, ProjectionSettings(SUFFIX, limits=usual or Limits()))
        projector.rebuild()
        (entry,) = (
            one for entries in everything(projector).values() for one in entries.values() if isinstance(one, RouteEntry)
        )
        return entry


async def test_without_quotas_the_usual_limits_hold() -> None:
    usual = Limits(streams_max=9, new_streams_per_s=8, bytes_per_s=7)
    assert await limits(project("joe", "joe"), usual=usual) == usual


async def test_the_lowest_of_project_organisation_and_usual_holds() -> None:
    acme = (project("acme", "acme"), project("joe", "acme"), quota("acme", streams="100", new_streams="1k"))
    assert await limits(*acme) == Limits(streams_max=100, new_streams_per_s=1000)
    assert (await limits(*acme, quota("joe", streams="7"))).streams_max == 7
    assert (await limits(*acme, usual=Limits(new_streams_per_s=3))).new_streams_per_s == 3


async def test_another_organisations_quota_and_a_mere_label_limit_nothing() -> None:
    assert await limits(project("acme", "acme"), project("joe", "other"), quota("acme", streams="1")) == Limits()
    assert await limits(project("acme", ""), project("joe", "acme"), quota("acme", streams="1")) == Limits()


async def test_bytes_are_shared_by_a_project_and_by_its_organisation_each_under_its_own_name() -> None:
    acme = (project("acme", "acme"), project("joe", "acme"), quota("acme", rate="1G"))
    assert (await route(*acme)).shares == (Share("acme", 10**9),)
    both = await route(*acme, quota("joe", rate="20M"))
    assert both.shares == (Share("joe", 20 * 10**6), Share("acme", 10**9))
    assert both.limits == Limits()
    own = await route(project("joe", "joe"), quota("joe", rate="1M"))
    assert own.shares == (Share("joe", 10**6),)


async def test_the_lowest_rate_of_a_place_is_what_it_shares() -> None:
    low = body("v1", "ResourceQuota", "joe", "low", {"hard": {NAMES["rate"]: "5k"}})
    assert (await route(quota("joe", rate="1M"), low)).shares == (Share("joe", 5_000),)
    assert (await route(quota("joe", streams="7"))).shares == (Share("joe", streams_max=7),)


async def test_visitors_are_shared_as_bytes_are_and_no_connection_has_more_than_all() -> None:
    acme = (project("acme", "acme"), project("joe", "acme"), quota("acme", streams="100", new_streams="1k", rate="1G"))
    found = await route(*acme, quota("joe", new_streams="7"))
    assert found.shares == (
        Share("joe", new_streams_per_s=7),
        Share("acme", bytes_per_s=10**9, streams_max=100, new_streams_per_s=1000),
    )
    assert found.limits == Limits(streams_max=100, new_streams_per_s=7)
