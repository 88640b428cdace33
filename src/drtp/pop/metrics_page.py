"""`/metrics` of a POP, on an address of its own that is meant for the operator's scraper (loopback by custom)."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import exposition

from drtp.kit.clock import Clock
from drtp.kit.door import NEIGHBOURS, serving
from drtp.kit.observe import REGISTRY


@asynccontextmanager
async def metrics_page(listener: socket.socket, clock: Clock) -> AsyncGenerator[None, None]:
    """Serve until left."""
    application = web.Application(client_max_size=1024)
    application.router.add_get("/metrics", _metrics)
    async with serving("metrics", application, listener, NEIGHBOURS, clock):
        yield


async def _metrics(_request: web.Request) -> web.StreamResponse:
    body = exposition.generate_latest(REGISTRY)
    return web.Response(body=body, headers={"Content-Type": exposition.CONTENT_TYPE_LATEST})
