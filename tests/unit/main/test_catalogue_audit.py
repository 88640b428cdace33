"""The audit log has each step of a subscription for both organisations."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from drtp.api.catalogue import DRTPPublication, DRTPSubscription
from drtp.api.core import ORGANIZATION_LABEL
from drtp.issuers.audit import AuditLog
from drtp.main.catalogue_audit import CatalogueAudit
from tower import Tower, service
from unit.controllers.test_catalogue import decide, publication, subscription, tower_key


class Book:
    """The log of one tower."""

    def __init__(self, tower: Tower, folder: Path) -> None:
        self._path = folder / "audit.log"
        self._log = AuditLog(self._path, tower.clock)
        self.audit = CatalogueAudit(tower.view, self._log)

    def lines(self, organization: str) -> list[dict[str, Any]]:
        read = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [
            {"event": one["event"], **one["fields"]} for one in read if one["fields"]["organization"] == organization
        ]

    def steps(self, organization: str) -> list[str]:
        return [one["event"] for one in self.lines(organization)]


@asynccontextmanager
async def audited(folder: Path) -> AsyncGenerator[tuple[Tower, Book]]:
    tower = Tower()
    book = Book(tower, folder)
    async with tower.running():
        for project, organization in (("joe", "harbour"), ("eve", "lantern")):
            held = await tower.store.get(tower_key(project))
            labelled = {**held.metadata, "labels": {ORGANIZATION_LABEL: organization}}
            await tower.store.update({**held.object, "metadata": labelled})
        await tower.apply(service())
        yield tower, book


async def test_request_approval_and_end_by_the_clock_are_in_both_organisations_log(tmp_path: Path) -> None:
    async with audited(tmp_path) as (tower, book):
        await tower.apply(publication())
        until = (tower.clock.now() + timedelta(minutes=10)).isoformat()
        await tower.apply(subscription(purpose="reports", expires=until))
        await decide(tower, "Approved", reason="as agreed")
        await tower.clock.advance(600)
        await tower.settle()
        wanted = ["subscription requested", "subscription approved", "subscription expired"]
        assert book.steps("lantern") == book.steps("harbour") == wanted
        requested, approved, _ = book.lines("harbour")
        assert (requested["project"], requested["peer"], requested["purpose"]) == ("joe", "eve", "reports")
        assert (approved["publication"], approved["subscription"]) == ("joe/web", "eve/web")
        assert "as agreed" in approved["why"]
        await tower.delete(DRTPSubscription, "eve", "web")
        assert book.steps("lantern")[-1] == book.steps("harbour")[-1] == "subscription ended"


async def test_a_publication_that_goes_is_told_to_both_and_a_vain_request_to_nobody(tmp_path: Path) -> None:
    async with audited(tmp_path) as (tower, book):
        await tower.apply(subscription(name="vain"))
        assert book.steps("lantern") == book.steps("harbour") == []
        await tower.apply(publication())
        await tower.apply(subscription())
        await decide(tower, "Approved")
        await tower.delete(DRTPPublication, "joe", "web")
        assert book.steps("lantern")[-1] == book.steps("harbour")[-1] == "subscription revoked"
        assert book.lines("lantern")[-1]["reason"] == "Withdrawn"


async def test_what_was_there_before_the_start_is_no_news(tmp_path: Path) -> None:
    async with audited(tmp_path) as (tower, book):
        await tower.apply(publication())
        await tower.apply(subscription())
        before = book.steps("lantern")
        again = Tower(tower.clock, tower.store)
        later = Book(again, tmp_path / "again")
        async with again.running():
            assert (before, later.steps("lantern")) == (["subscription requested"], [])
