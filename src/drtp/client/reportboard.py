"""What an edge has to say, by key: always whole here, sent as differences, never queued."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from drtp.api.feed import ReportDelta
from drtp.api.reports import Report, Reports


class ReportBoard:
    """The host writes at any rate; the feed takes what changed since it last took. One event loop."""

    def __init__(self) -> None:
        self._reports: Reports = {}
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()

    def set(self, key: str, report: Report) -> None:
        """Say `report` under `key`. Saying the same again costs nothing."""
        if self._reports.get(key) != report:
            self._reports[key] = report
            self._touch(key)

    def remove(self, key: str) -> None:
        """Nothing is to be said under `key` any more."""
        if self._reports.pop(key, None) is not None:
            self._touch(key)

    def replace_all(self, reports: Mapping[str, Report]) -> None:
        """Say exactly `reports`; only differences are sent."""
        for key in self._reports.keys() - reports.keys():
            self.remove(key)
        for key, report in reports.items():
            self.set(key, report)

    @property
    def reports(self) -> Mapping[str, Report]:
        """Everything said now."""
        return self._reports

    def take_whole(self) -> ReportDelta:
        """Everything; what changed before is settled by it."""
        self._settle()
        return ReportDelta(whole=True, upsert=dict(self._reports))

    async def changed(self) -> None:
        """Wait until something is to be taken."""
        await self._wake.wait()

    def take(self) -> ReportDelta:
        """What changed since the last take."""
        dirty = self._settle()
        upsert = {key: self._reports[key] for key in dirty if key in self._reports}
        return ReportDelta(whole=False, upsert=upsert, remove=tuple(sorted(dirty - upsert.keys())))

    def _touch(self, key: str) -> None:
        self._dirty.add(key)
        self._wake.set()

    def _settle(self) -> set[str]:
        dirty, self._dirty = self._dirty, set()
        self._wake.clear()
        return dirty
