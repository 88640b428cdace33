"""The agent's own status pages on loopback: `/ready` and `/metrics`. They read, and change nothing.

Only requests that name localhost, the address itself or a declared host are answered: a page elsewhere whose name
resolves to loopback (DNS rebinding) gets 403.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import exposition

from drtp.agent.view import AgentPhase, AgentView, Failure
from drtp.kit.clock import Clock
from drtp.kit.door import NEIGHBOURS, serving
from drtp.kit.errors import Terminal
from drtp.kit.observe import REGISTRY


class Readiness(NamedTuple):
    """What `/ready` says; whatever is in it encodes to JSON."""

    ready: bool
    phase: AgentPhase
    services: Sequence[object]
    failure: Failure | None


def free_socket(address: str, port: int, ports: int = 1) -> socket.socket:
    """A listening socket on the first free one of `ports`, from `port` on. Raises: Terminal DRTP-4016."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for candidate in range(port, min(port + ports, 65536)) if port else (0,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.bind((address, candidate))
            listener.listen(64)
            listener.setblocking(False)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise Terminal("DRTP-4016", f"{address}:{candidate} cannot be used: {error.strerror}.") from error
    which = "is taken" if ports == 1 else f"and the {ports - 1} ports after it are taken"
    raise Terminal("DRTP-4016", f"{address}:{port} {which}.")


@asynccontextmanager
async def status_pages(
    listener: socket.socket, state: Callable[[], Readiness], hosts: tuple[str, ...], clock: Clock
) -> AsyncGenerator[str, None]:
    """Serve until left; gives the URL. `state` is asked at each request for `/ready`."""
    address, port = listener.getsockname()[:2]
    named = f"[{address}]" if ":" in address else address
    allowed = {name.lower() for name in ("localhost", named, *hosts)}
    application = web.Application(middlewares=[_only_for(allowed)], client_max_size=1024)
    application.router.add_get("/ready", _ready_page(state))
    application.router.add_get("/metrics", _metrics_page)
    async with serving("pages", application, listener, NEIGHBOURS, clock):
        yield f"http://{named}:{port}"


def _only_for(allowed: set[str]) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.host.lower()
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        if name not in allowed or "Origin" in request.headers:
            raise web.HTTPForbidden(text="These pages answer to this machine only.\n")
        return await handler(request)

    return check


def _ready_page(state: Callable[[], Readiness]) -> Handler:
    async def ready(_request: web.Request) -> web.StreamResponse:
        """200 when every service can be reached on some path; 503 otherwise. JSON either way."""
        seen = state()
        document = {"ready": seen.ready, "phase": seen.phase, "services": seen.services, "failure": seen.failure}
        return web.json_response(body=msgspec.json.encode(document), status=200 if seen.ready else 503)

    return ready


def agent_readiness(view: AgentView) -> Readiness:
    """Ready: every enabled service was proven end to end on some path."""
    services = [
        {
            "service": service.key,
            "ready": service.ready,
            "reason": service.reason,
            "message": service.message,
            "paths": service.paths,
        }
        for service in view.services
    ]
    return Readiness(view.ready, view.phase, services, view.failure)


async def _metrics_page(_request: web.Request) -> web.StreamResponse:
    return web.Response(
        body=exposition.generate_latest(REGISTRY), headers={"Content-Type": exposition.CONTENT_TYPE_LATEST}
    )
