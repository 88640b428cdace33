"""A process that bears others, which a campaign kills: it has everything imported, so that a life begins in no time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator


@contextlib.asynccontextmanager
async def nursery_of(code: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Python that runs `code`, spoken to by its standard input and output, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": "src"},
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
