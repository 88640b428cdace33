"""One running server for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from unit.apiserver.serving import Served, serving


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Served]:
    """A server with the usual namespaces and users."""
    async with serving(tmp_path) as served:
        yield served
