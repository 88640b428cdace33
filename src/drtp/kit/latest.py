"""The newest value of something, and a wake-up when it changes. Older values are never queued."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """One writer sets, any number of readers in the same loop wait. A slow reader sees only the newest value."""

    def __init__(self, value: T | None = None) -> None:
        self._value = value
        self._version = 0 if value is None else 1
        self._changed = asyncio.Event()

    @property
    def value(self) -> T | None:
        """The newest value; None before the first."""
        return self._value

    @property
    def version(self) -> int:
        """Grows by one at each `set`."""
        return self._version

    def set(self, value: T) -> None:
        """Publish and wake every reader."""
        self._value = value
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def newer(self, than: int) -> tuple[int, T]:
        """Wait for a version above `than`; gives (version, value)."""
        while self._version <= than or self._value is None:
            await self._changed.wait()
        return self._version, self._value

    async def first(self) -> T:
        """The value, waiting for the first one."""
        return (await self.newer(0))[1]

    async def __aiter__(self) -> AsyncIterator[T]:
        """Each new value, skipping those that were overtaken; starts with the present one."""
        seen = 0
        while True:
            seen, value = await self.newer(seen)
            yield value
