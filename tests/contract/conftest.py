"""Every Store passes the same suite; `store` is each of them in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from drtp.store.eventlog import LOG_BYTES_MAX
from drtp.store.memory import MemoryStore
from drtp.store.protocol import Store
from drtp.store.sqlite import SqliteStore

Open = Callable[..., Awaitable[Store]]


@pytest.fixture(params=["memory", "sqlite"])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens a fresh store; `log_bytes_max` caps its event log."""
    async with AsyncExitStack() as stack:

        async def open_one(log_bytes_max: int = LOG_BYTES_MAX) -> Store:
            if request.param == "memory":
                return MemoryStore(log_bytes_max=log_bytes_max)
            store = await SqliteStore.open(tmp_path / "data", log_bytes_max=log_bytes_max)
            stack.push_async_callback(store.close)
            return store

        yield open_one


@pytest.fixture
async def store(open_store: Open) -> Store:
    """An empty store."""
    return await open_store()
