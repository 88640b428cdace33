"""Keys that wait for a controller: each once, never two turns of one key at the same time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable

from drtp.api.meta import Key
from drtp.kit.clock import Clock

VOID_MAX = 64
"""Void timers that are kept, beside as many as there are good ones."""


class WorkQueue:
    """`add` now, or `add_after` a while; `take` one, `done` with it. A key added while it is worked on comes again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: dict[Key, None] = {}
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, Key]] = []
        self._filled = asyncio.Event()
        self._earlier = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait for their turn now."""
        return len(self._ready)

    @property
    def timers(self) -> int:
        """Timers that are kept, void ones included."""
        return len(self._timers)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is worked on; timers may be running."""
        return not self._ready and not self._working

    def add(self, keys: Iterable[Key]) -> None:
        """These want a turn."""
        for key in keys:
            if key in self._working:
                self._again.add(key)
            else:
                self._ready[key] = None
        if self._ready:
            self._filled.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """This one wants a turn in a while; the earlier of two wishes counts."""
        due = self._clock.monotonic() + seconds
        if due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        if len(self._timers) > 2 * len(self._due) + VOID_MAX:
            # Timers of turns that came earlier, and of objects that are gone, would wait here for their hour.
            self._timers = [(at, one) for one, at in self._due.items()]
            heapq.heapify(self._timers)
        else:
            heapq.heappush(self._timers, (due, key))
        if self._timers[0] == (due, key):
            self._earlier.set()

    async def take(self) -> Key:
        """The next key; its timer is void, since its turn decides anew. Call `done` afterwards, whatever happens."""
        while not self._ready:
            self._filled.clear()
            await self._filled.wait()
        key = next(iter(self._ready))
        del self._ready[key]
        self._due.pop(key, None)
        self._working.add(key)
        return key

    def done(self, key: Key) -> None:
        """The turn is over."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add((key,))

    async def run_timers(self) -> None:
        """Move keys from their timers into the queue, until cancelled."""
        while True:
            self._earlier.clear()
            now = self._clock.monotonic()
            while self._timers and self._timers[0][0] <= now:
                due, key = heapq.heappop(self._timers)
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add((key,))
            if self._timers:
                await self._earlier_or(self._timers[0][0] - now)
            else:
                await self._earlier.wait()

    async def _earlier_or(self, seconds: float) -> None:
        """Wait that long, or until an earlier timer is set."""
        async with asyncio.TaskGroup() as group:
            first = {group.create_task(self._clock.sleep(seconds)), group.create_task(self._wait_earlier())}
            _, late = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            for task in late:
                task.cancel()

    async def _wait_earlier(self) -> None:
        await self._earlier.wait()
