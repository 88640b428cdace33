"""What `datumctl diagnose` looks at, step by step: the first line that is not OK is where the way ends."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from drtp.api.drtp import API_VERSION, DRTPServer, Protocol
from drtp.api.meta import Model
from drtp.api.snapshots import PlanServer
from drtp.client.api import ApiClient
from drtp.client.context import Context
from drtp.client.dialling import web_session
from drtp.client.identity import Identity, IdentityStore
from drtp.client.looking import (
    LOOK_S,
    Shown,
    addresses_of,
    certificate_at,
    round_trip_ms,
    web_socket_answer,
)
from drtp.client.proxies import Proxies, proxies
from drtp.client.snapshotfile import SnapshotFile
from drtp.kit.clock import Clock, SystemClock
from drtp.kit.codes import CODES
from drtp.kit.errors import DrtpError, Invalid
from drtp.main.datum.target import Target, host_port
from drtp.tunnel import TUNNEL_ALPN

CLOCK_WARN_S = 30
CLOCK_FAIL_S = 240
"""Fresh certificates begin five minutes in the past: beyond that nothing of the control plane's is valid here."""

UDP_REFUSAL_S = 0.5
"""A refusal by this machine comes at once, one by a neighbour soon."""


class Verdict(Enum):
    """How one look went."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


class Finding(Model, frozen=True, omit_defaults=False):
    """One line. `code` and `remedy` are empty for what is well."""

    verdict: Verdict
    check: str
    subject: str
    what: str
    code: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A POP, or a door of the control plane: where it is, and which name its certificate carries."""

    label: str
    host: str
    port: int
    name: str

    @property
    def address(self) -> str:
        """`host:port`."""
        return host_port(self.host, self.port)


class _WellKnown(Model, frozen=True):
    """What is looked at of `/.well-known/drtp`."""

    version: str = "unknown"
    suffix: str = ""
    edge: str = ""


def found(check: str, subject: str, what: str) -> Finding:
    """It is well."""
    return Finding(Verdict.OK, check, subject, what)


def fault(check: str, subject: str, code: str, what: str, verdict: Verdict = Verdict.FAIL) -> Finding:
    """It is not."""
    return Finding(verdict, check, subject, what, code, CODES[code].remedy)


class Diagnosis:
    """One run of all looks."""

    def __init__(self, context: Context | None, state_root: Path, target: Target | None, clock: Clock | None) -> None:
        self._context = context
        self._state_root = state_root
        self._target = target
        self._clock = clock or SystemClock()
        self._rules = Proxies()
        self._suffix = ""
        self._edge: Place | None = None

    async def findings(self) -> AsyncIterator[Finding]:
        """In the order in which a start needs them.

        A proxy that refuses the credentials is asked once: more of the same may lock an account.
        """
        async for finding in self._looks():
            yield finding
            if finding.code == "DRTP-4050":
                break
        if self._target is not None:
            yield await self._local(self._target)

    async def _looks(self) -> AsyncGenerator[Finding]:
        try:
            self._rules = proxies()
        except Invalid as error:
            yield fault("proxy", "environment", error.code, error.what)
            return
        yield self._proxy()
        roots = await asyncio.to_thread(self._roots)
        pops: list[Place] = []
        if self._context is not None:
            async for finding in self._control_plane(self._context):
                yield finding
            pops = await self._pops_of_api(self._context)
        pops = pops or await asyncio.to_thread(self._pops_on_disk)
        if not pops:
            yield fault("pops", "list", "DRTP-7018", "No tunnel server is known here.", Verdict.WARN)
        for pop in pops:
            async for finding in self._pop(pop, roots):
                yield finding
        yield self._udp(pops)

    def _proxy(self) -> Finding:
        rules = self._rules
        if rules.proxy is None:
            words = f"none, by {rules.source}" if rules.source else "none is set"
            return found("proxy", "environment", words)
        exempt = f", not for {', '.join(rules.exempt)}" if rules.exempt else ""
        return found("proxy", "environment", f"{rules.proxy} by {rules.source}{exempt}")

    def _roots(self) -> bytes:
        """What the agents here and the context trust."""
        pems = [identity.bundle_pem for _, identity in self._identities()]
        return b"\n".join([*pems, self._context.ca_pem if self._context else b""])

    def _identities(self) -> Iterator[tuple[Path, Identity]]:
        """Of the agents that ran here; those that cannot be read are passed over."""
        for path in sorted(self._state_root.glob("*/*/identity")):
            with contextlib.suppress(DrtpError, OSError):
                if (identity := IdentityStore(path.parent).load()) is not None:
                    yield path.parent, identity

    # ---- the control plane

    async def _control_plane(self, context: Context) -> AsyncGenerator[Finding]:
        parts = urlsplit(context.api)
        api = Place("api", parts.hostname or "", parts.port or 443, parts.hostname or "")
        reached = False
        async for finding in self._door(api, context.ca_pem):
            reached = finding.verdict is not Verdict.FAIL
            yield finding
        if not reached:
            return
        async for finding in self._answer(context):
            yield finding
        if self._edge is not None:
            async for finding in self._door(self._edge, context.ca_pem):
                yield finding

    async def _door(self, door: Place, roots: bytes) -> AsyncGenerator[Finding]:
        """Where something looks into TLS, the WebSocket is the only way in."""
        intercepted = False
        async for finding in self._place(door, roots, "http/1.1", "DRTP-3001"):
            intercepted = finding.code == "DRTP-4055"
            yield finding
        if intercepted:
            looked = await self._web_socket(door)
            yield looked if looked.verdict is Verdict.OK else msgspec.structs.replace(looked, verdict=Verdict.FAIL)

    async def _answer(self, context: Context) -> AsyncGenerator[Finding]:
        """What the API says, and by its clock."""
        from drtp.client.tls import trusting

        try:
            async with (
                asyncio.timeout(LOOK_S),
                web_session(trusting(context.ca_pem)) as http,
                http.get(f"{context.api}/.well-known/drtp") as response,
            ):
                date, body = response.headers.get("Date", ""), await response.content.read(64 << 10)
            told = msgspec.json.decode(body, type=_WellKnown)
        except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
            yield fault("answer", "api", "DRTP-3001", f"The API does not answer: {str(error) or 'not in time'}.")
            return
        yield found("answer", "api", f"version {told.version}")
        yield self._clocks(date)
        self._suffix = told.suffix
        parts = urlsplit(told.edge)
        if parts.hostname:
            self._edge = Place("edge", parts.hostname, parts.port or 443, parts.hostname)
        if context.token is not None or context.cert_pem is not None:
            yield await self._account(context)

    async def _account(self, context: Context) -> Finding:
        try:
            async with ApiClient(context) as api, asyncio.timeout(LOOK_S):
                await api.list(API_VERSION, "drtpservices", namespace=context.namespace)
        except TimeoutError:
            return fault("account", "api", "DRTP-3001", "The API does not answer in time.")
        except DrtpError as error:
            return Finding(Verdict.FAIL, "account", "api", error.what, error.code, error.remedy)
        return found("account", "api", f"may read project {context.namespace}")

    def _clocks(self, date: str) -> Finding:
        try:
            apart_s = (self._clock.now() - parsedate_to_datetime(date)).total_seconds()
        except ValueError:
            return fault("clock", "api", "DRTP-3004", "The API does not say what time it is.", Verdict.WARN)
        ahead = "ahead of" if apart_s > 0 else "behind"
        words = f"{abs(apart_s):.0f} s {ahead} the control plane's"
        if abs(apart_s) < CLOCK_WARN_S:
            return found("clock", "api", words)
        verdict = Verdict.FAIL if abs(apart_s) > CLOCK_FAIL_S else Verdict.WARN
        return fault("clock", "api", "DRTP-3012", f"This machine's clock is {words}.", verdict)

    # ---- tunnel servers

    async def _pops_of_api(self, context: Context) -> list[Place]:
        try:
            async with ApiClient(context) as api, asyncio.timeout(LOOK_S):
                listed = (await api.list(API_VERSION, "drtpservers"))["items"]
        except (DrtpError, TimeoutError):
            return []
        servers = msgspec.convert(listed, type=list[DRTPServer])
        return [
            Place(
                f"pop {server.metadata.name}",
                server.spec.server_ip,
                next((listener.port for listener in server.spec.listeners), 443),
                f"{server.metadata.name}.tunnel.{self._suffix}",
            )
            for server in servers
        ]

    def _pops_on_disk(self) -> list[Place]:
        """Those of the agents that ran here."""
        places: dict[str, Place] = {}
        for directory, identity in self._identities():
            snapshot = SnapshotFile(directory).load(identity.uid)
            for entry in snapshot.entries.values() if snapshot else ():
                if isinstance(entry, PlanServer):
                    label = f"pop {entry.name.partition('.tunnel.')[0]}"
                    places[entry.server] = Place(label, entry.address, entry.port, entry.name)
        return list(places.values())

    async def _pop(self, pop: Place, roots: bytes) -> AsyncGenerator[Finding]:
        reached = False
        async for finding in self._place(pop, roots, TUNNEL_ALPN, "DRTP-4053"):
            reached = finding.verdict is not Verdict.FAIL
            yield finding
        if reached:
            yield await self._web_socket(pop)

    async def _web_socket(self, pop: Place) -> Finding:
        try:
            status = await web_socket_answer(pop.host, pop.port, self._rules, pop.name)
        except DrtpError as error:
            return Finding(Verdict.WARN, "websocket", pop.label, error.what, error.code, error.remedy)
        except OSError as error:
            words = f"No WebSocket at {pop.address}: {_reason(error)}."
            return fault("websocket", pop.label, "DRTP-4056", words, Verdict.WARN)
        if " 101 " in f"{status} ":
            return found("websocket", pop.label, "opens")
        words = f"{pop.address} answers {status or 'nothing'!r}."
        return fault("websocket", pop.label, "DRTP-4056", words, Verdict.WARN)

    # ---- any place

    async def _place(self, place: Place, roots: bytes, alpn: str, code: str) -> AsyncGenerator[Finding]:
        """Its name, TCP to it, and the certificate that it shows. Ends after the first that fails."""
        proxied = self._rules.to(place.host, place.port)
        named = await self._name(place, proxied=proxied is not None)
        if named is not None:
            yield named
            if named.verdict is Verdict.FAIL:
                return
        by = f" by {proxied}" if proxied else ""
        try:
            took_ms = await round_trip_ms(place.host, place.port, self._rules, self._clock)
        except DrtpError as error:
            yield Finding(Verdict.FAIL, "tcp", place.label, error.what, error.code, error.remedy)
            return
        except OSError as error:
            yield fault("tcp", place.label, code, f"{place.address} cannot be reached{by}: {_reason(error)}.")
            return
        yield found("tcp", place.label, f"{place.address}{by} in {took_ms:.1f} ms")
        yield await self._tls(place, roots, alpn, code)

    async def _name(self, place: Place, *, proxied: bool) -> Finding | None:
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(place.host)
            return None
        try:
            addresses = await addresses_of(place.host)
        except OSError as error:
            if proxied:
                return found("name", place.label, f"{place.host} is the proxy's to resolve")
            return fault("name", place.label, "DRTP-3001", f"{place.host} is not resolved: {_reason(error)}.")
        return found("name", place.label, f"{place.host} is {', '.join(addresses)}")

    async def _tls(self, place: Place, roots: bytes, alpn: str, code: str) -> Finding:
        try:
            shown = await certificate_at(
                place.host, place.port, self._rules, name=place.name, roots_pem=roots, alpn=alpn
            )
        except ssl.SSLError as error:
            words = f"{place.address} does not speak TLS as it should: {error.reason or error}."
            return fault("tls", place.label, "DRTP-4055", words, Verdict.WARN)
        except DrtpError as error:
            return Finding(Verdict.FAIL, "tls", place.label, error.what, error.code, error.remedy)
        except OSError as error:
            return fault("tls", place.label, code, f"{place.address} ended the handshake: {_reason(error)}.")
        return self._judged(place, shown)

    @staticmethod
    def _judged(place: Place, shown: Shown) -> Finding:
        if shown.trusted:
            return found("tls", place.label, f"issued by {shown.issuer}")
        if "expired" in shown.fault or "not yet valid" in shown.fault:
            return fault("tls", place.label, "DRTP-3012", f"The certificate of {place.address}: {shown.fault}.")
        words = f"{place.address} shows a certificate issued by {shown.issuer}, which is not trusted: {shown.fault}."
        # Interception is what the WebSocket is for.
        return fault("tls", place.label, "DRTP-4055", words, Verdict.WARN)

    # ---- this machine

    def _udp(self, pops: list[Place]) -> Finding:
        """Nothing of ours answers a datagram: whether the machine has a way out for one is all that shows."""
        words = "not needed: UDP services go inside the tunnel"
        for pop in pops:
            with contextlib.suppress(OSError, ValueError):
                family = socket.AF_INET6 if ipaddress.ip_address(pop.host).version == 6 else socket.AF_INET
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.connect((pop.host, pop.port))
                    return found("udp", "machine", f"{words}; from {probe.getsockname()[0]} a datagram could leave")
        return found("udp", "machine", f"{words}; no route for a datagram was found")

    async def _local(self, target: Target) -> Finding:
        place, straight = target.local, Proxies()
        if target.protocol is Protocol.UDP:
            return await self._local_udp(place.host, place.port)
        try:
            took_ms = await round_trip_ms(place.host, place.port, straight, self._clock)
        except (OSError, DrtpError) as error:
            reason = _reason(error) if isinstance(error, OSError) else error.what
            words = f"{host_port(place.host, place.port)} does not answer: {reason}."
            return fault("local", "service", "DRTP-4013", words)
        return found("local", "service", f"{target.written} accepts in {took_ms:.1f} ms")

    async def _local_udp(self, host: str, port: int) -> Finding:
        """An empty datagram is an offer that any service may pass over; a refusal comes back from the kernel."""
        loop = asyncio.get_running_loop()
        try:
            family, kind, number, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM))[0]
            with socket.socket(family, kind, number) as probe:
                probe.setblocking(False)
                probe.connect(address)
                probe.send(b"")
                async with asyncio.timeout(UDP_REFUSAL_S):
                    await loop.sock_recv(probe, 1)
        except TimeoutError:
            return found("local", "service", f"udp://{host_port(host, port)} refuses no datagram")
        except OSError as error:
            return fault("local", "service", "DRTP-4013", f"udp://{host_port(host, port)}: {_reason(error)}.")
        return found("local", "service", f"udp://{host_port(host, port)} answers")


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    # asyncio's own sentence names the address again, as a Python tuple.
    if (error.errno or 0) > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno or 0)
    return error.strerror or str(error) or type(error).__name__
