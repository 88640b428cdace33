"""What has changed since somebody last looked: a set, not a queue, so a slow reader costs one entry per thing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Changes(Generic[T]):
    """One writer side marks, one reader takes everything at once. Same loop only."""

    def __init__(self) -> None:
        self._pending: dict[T, None] = {}
        self._marked = asyncio.Event()

    def mark(self, things: Iterable[T]) -> None:
        """Remember `things` until they are taken; marking twice is marking once."""
        for thing in things:
            self._pending[thing] = None
        if self._pending:
            self._marked.set()

    async def take(self) -> tuple[T, ...]:
        """Everything marked, in order of first marking; waits for the first."""
        await self._marked.wait()
        return self.take_now()

    def take_now(self) -> tuple[T, ...]:
        """Everything marked so far, perhaps nothing."""
        self._marked.clear()
        taken = tuple(self._pending)
        self._pending = {}
        return taken
