"""The native objects as hosts hold them: typed documents, and no call that keeps the loop waiting.

Calls that wait for the driver thread run in a worker thread (the GIL is free meanwhile); a host has one owner task
for `apply`, so deltas keep their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec

import drtp_native
from drtp.kit.errors import DrtpError, Invalid, Retryable, Terminal
from drtp.tunnel.config import AgentConfig, GatewayConfig, ServerConfig, TunnelIdentity
from drtp.tunnel.delta import ApplyOutcome, Delta
from drtp.tunnel.events import Event
from drtp.tunnel.stats import Stats

_EVENTS_AT_ONCE = 1024
"""Taken per turn, so that a storm of events cannot keep the loop from its other tasks."""

_encoder = msgspec.json.Encoder()
_outcomes = msgspec.json.Decoder(ApplyOutcome)
_events = msgspec.json.Decoder(list[Event])
_stats = msgspec.json.Decoder(Stats)
_addresses = msgspec.json.Decoder(tuple[str, ...])


def _translated(error: drtp_native.NativeError) -> DrtpError:
    """The core's refusal, by what the host does next."""
    kind, message = str(error.args[0]), str(error.args[1])
    if kind == "identity":
        return Terminal("DRTP-4001", f"The certificate, key or roots cannot be used: {message}.")
    if kind == "config":
        return Invalid("DRTP-4002", f"The tunnel's configuration does not hold together: {message}.")
    if kind == "io":
        return Retryable("DRTP-4003", f"A socket or thread of the tunnel could not be had: {message}.")
    return Terminal("DRTP-4004")


class _Tunnel:
    """What they have in common."""

    _native: (
        drtp_native.TunnelServer | drtp_native.TunnelAgent | drtp_native.TunnelGateway | drtp_native.TunnelConnector
    )
    _closed = False

    async def apply(self, delta: Delta) -> ApplyOutcome:
        """Put a delta in force. Raises: Invalid if the core could not read it as a whole, Terminal after `close`."""
        if self._closed:
            raise Terminal("DRTP-4004")
        outcome = _outcomes.decode(await asyncio.to_thread(self._native.apply, _encoder.encode(delta)))
        if outcome.error is not None:
            raise Invalid("DRTP-4002", f"The tunnel could not take the change: {outcome.error}.")
        return outcome

    async def stats(self, *, flows: bool = False) -> Stats:
        """Counters and gauges, with `flows` the recent ones, too; half a second at most, then `stale`."""
        return _stats.decode(await asyncio.to_thread(self._native.stats, flows))

    async def rotate(self, identity: TunnelIdentity) -> None:
        """Use a new certificate for new handshakes. Raises: Terminal if it cannot be used; the old one stays."""
        try:
            await asyncio.to_thread(
                self._native.rotate, identity.chain_pem, identity.key_pem.reveal(), identity.roots_pem
            )
        except drtp_native.NativeError as error:
            raise _translated(error) from error

    async def events(self) -> AsyncIterator[list[Event]]:
        """Batches of events as they come, never empty, until the reader is cancelled."""
        while True:
            await self._readable()
            batch = _events.decode(self._native.events(_EVENTS_AT_ONCE))
            if batch:
                yield batch

    async def _readable(self) -> None:
        # The descriptor stays readable until all is taken: watched only while somebody waits, or the loop would spin.
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        descriptor = self._native.fileno()
        loop.add_reader(descriptor, _resolve, woken)
        try:
            await woken
        finally:
            loop.remove_reader(descriptor)

    def drain(self, seconds: float) -> None:
        """Start draining: peers are told, no new visitor is taken, what is open after `seconds` is reset."""
        self._native.drain(seconds)

    async def close(self) -> None:
        """End the driver; whatever is open is reset. Idempotent."""
        self._closed = True
        await asyncio.to_thread(self._native.close)


class TunnelServer(_Tunnel):
    """The POP side: agents' listeners, and one endpoint for each route."""

    def __init__(self, config: ServerConfig, identity: TunnelIdentity) -> None:
        """Bind the listeners and start the driver. Raises: Terminal, Invalid, Retryable (an address is taken)."""
        self._server = self._native = _started(drtp_native.TunnelServer, config, identity)

    @property
    def agent_addresses(self) -> tuple[str, ...]:
        """Where agents dial in, `address:port` as bound, in the order of the configuration."""
        return _addresses.decode(self._server.agent_addresses())


class TunnelAgent(_Tunnel):
    """The private side: sessions with POPs, and the local services behind them."""

    def __init__(self, config: AgentConfig, identity: TunnelIdentity) -> None:
        """Start the driver; it dials when a plan is applied. Raises: Terminal, Invalid, Retryable."""
        self._native = _started(drtp_native.TunnelAgent, config, identity)


class TunnelGateway(_Tunnel):
    """The visitors' side of UDP: listeners, and the sessions with POPs that carry their flows."""

    def __init__(self, config: GatewayConfig, identity: TunnelIdentity) -> None:
        """Start the driver; it listens and dials when entries are applied. Raises: Terminal, Invalid, Retryable."""
        self._native = _started(drtp_native.TunnelGateway, config, identity)


class TunnelConnector(_Tunnel):
    """The callers' side of `connect`: local ports, and the sessions with POPs that carry what comes to them, sealed."""

    def __init__(self, config: GatewayConfig, identity: TunnelIdentity) -> None:
        """Start the driver; it listens and dials when entries are applied. Raises: Terminal, Invalid, Retryable."""
        self._native = _started(drtp_native.TunnelConnector, config, identity)


def carry_stdio(path: Path) -> None:
    """Copy standard input to a connector's Unix port and back, until the service has ended its direction; it blocks.

    Raises: Retryable where nobody listens there.
    """
    try:
        drtp_native.carry_stdio(str(path))
    except drtp_native.NativeError as error:
        raise _translated(error) from error


_N = TypeVar(
    "_N",
    drtp_native.TunnelServer,
    drtp_native.TunnelAgent,
    drtp_native.TunnelGateway,
    drtp_native.TunnelConnector,
)


def _started(kind: type[_N], config: ServerConfig | AgentConfig | GatewayConfig, identity: TunnelIdentity) -> _N:
    try:
        return kind(_encoder.encode(config), identity.chain_pem, identity.key_pem.reveal(), identity.roots_pem)
    except drtp_native.NativeError as error:
        raise _translated(error) from error


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
