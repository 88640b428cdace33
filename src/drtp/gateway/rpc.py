"""The gRPC server on a Unix socket, and the only file that knows gRPC's types."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeArgument=false, reportUnknownParameterType=false

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from drtp.gateway.ads import DiscoveryService
from drtp.gateway.flows import FlowBook
from drtp.gateway.protos import (
    ACCESS_LOGS,
    DISCOVERY,
    DiscoveryRequest,
    decode_request,
    encode_response,
)

_MESSAGE_BYTES_MAX = 64 * 2**20  # Envoy names everything it holds when it reconnects


@contextlib.asynccontextmanager
async def serve_envoy(socket: Path, discovery: DiscoveryService, flows: FlowBook) -> AsyncGenerator[None]:
    """Discovery and access logs for our own Envoy. The socket is 0600, in a directory that is 0700 before it exists."""

    async def discover(requests: AsyncIterator[DiscoveryRequest], context: Any) -> None:
        await discovery.stream(requests, context.write)

    async def log(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        await flows.stream(requests)
        return b""

    deltas = grpc.stream_stream_rpc_method_handler(
        discover, request_deserializer=decode_request, response_serializer=encode_response
    )
    logs = grpc.stream_unary_rpc_method_handler(log)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX)])
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(DISCOVERY, {"DeltaAggregatedResources": deltas}),
            grpc.method_handlers_generic_handler(ACCESS_LOGS, {"StreamAccessLogs": logs}),
        )
    )
    socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    socket.chmod(0o600)
    try:
        yield
    finally:
        await server.stop(grace=None)
