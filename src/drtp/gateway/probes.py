"""The gateway's own look at each POP, so that a frozen one is left within two seconds, control plane or not.

A kernel goes on accepting for a frozen process, so a connect proves nothing; an HTTPS answer over mutual TLS does.

A POP that stops on purpose says so in its answer, and is left at once. The next question tells it when Envoy has moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec

from drtp.api.probing import LEAVING, SENDS_VISITORS
from drtp.api.snapshots import ProbeTarget
from drtp.client.tls import trusting
from drtp.gateway.program import Credentials
from drtp.kit.clock import Clock
from drtp.kit.latest import Latest
from drtp.kit.observe import logger

_log = logger("gateway")

DEADLINE_S = 1.0
FAILURES_TO_DEAD = 2


def client_context(credentials: Credentials, directory: Path) -> ssl.SSLContext:
    """Mutual TLS 1.3 with the gateway's certificate. `directory` is private; the pair is there for a moment only."""
    context = trusting(credentials.bundle_pem)
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".pem") as pair:  # opened 0600
        pair.write(credentials.chain_pem + b"\n" + credentials.key_pem)
        pair.flush()
        context.load_cert_chain(pair.name)
    return context


class Findings(NamedTuple):
    """Server uids: `dead` failed twice in a row; `leaving` asked for no visitors, and have not asked for them again."""

    dead: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()


class _Answer(msgspec.Struct):
    status: str = ""


class Prober:
    """Probes every target once in each interval; `found` is what came of it."""

    def __init__(self, interval_s: float, clock: Clock) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._targets: Latest[Mapping[str, ProbeTarget]] = Latest({})
        self._context: ssl.SSLContext | None = None
        self._failures: dict[str, int] = {}
        self._leaving: set[str] = set()
        self._unused: Latest[frozenset[str]] = Latest(frozenset())
        self.found: Latest[Findings] = Latest(Findings())

    def aim(self, targets: Mapping[str, ProbeTarget]) -> None:
        """Probe exactly these, by server uid."""
        if targets != self._targets.value:
            self._targets.set(dict(targets))

    def tell(self, unused: frozenset[str]) -> None:
        """Envoy sends visitors to none of these POPs (server uids). They hear of it at once."""
        self._unused.set(unused)

    @property
    def unused(self) -> frozenset[str]:
        """What `tell` said last."""
        return self._unused.value or frozenset()

    def show(self, context: ssl.SSLContext) -> None:
        """Use this certificate from the next connection on."""
        self._context = context
        self._targets.set(dict(self._targets.value or {}))

    async def run(self) -> None:
        """Until cancelled. Every change of targets starts the rounds anew, with fresh connections."""
        seen = 0
        while True:
            seen, targets = await self._targets.newer(seen)
            for gone in self._failures.keys() - targets.keys():
                del self._failures[gone]
            self._leaving &= targets.keys()
            self._publish()
            if self._context is None or not targets:
                continue
            async with asyncio.TaskGroup() as group:
                connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
                timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
                session = aiohttp.ClientSession(connector=connector, timeout=timeout)
                tasks = [group.create_task(self._watch(session, target)) for target in targets.values()]
                try:
                    await self._targets.newer(seen)
                finally:
                    for task in tasks:
                        task.cancel()
                    await session.close()

    async def _watch(self, session: aiohttp.ClientSession, target: ProbeTarget) -> None:
        while True:
            started = self._clock.monotonic()
            said = self._unused.version
            failure = await self._probe(session, target)
            before = self._failures.get(target.server, 0)
            self._failures[target.server] = 0 if not failure else before + 1
            if failure and before + 1 == FAILURES_TO_DEAD:
                _log.warning("POP does not answer", server=target.name, reason=failure)
            elif not failure and before >= FAILURES_TO_DEAD:
                _log.info("POP answers again", server=target.name)
            self._publish()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s - (self._clock.monotonic() - started)):
                    await self._unused.newer(said)

    async def _probe(self, session: aiohttp.ClientSession, target: ProbeTarget) -> str:
        """What is wrong, or "". Whether it leaves is noted, which is nothing wrong."""
        host = f"[{target.address}]" if ":" in target.address else target.address
        url = f"https://{host}:{target.health_port}/healthz"
        try:
            sends = {SENDS_VISITORS: "no" if target.server in self.unused else "yes"}
            async with session.get(url, server_hostname=target.name, allow_redirects=False, headers=sends) as answer:
                said = _status(await answer.content.read(4096)) if answer.status != 200 else ""
                if said in LEAVING:
                    self._note_leaving(target, said)
                    return ""
                if answer.status == 200:
                    self._leaving.discard(target.server)
                    return ""
                return f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return str(error) or type(error).__name__

    def _note_leaving(self, target: ProbeTarget, said: str) -> None:
        if target.server not in self._leaving:
            _log.info("POP asks for no visitors", server=target.name, status=said)
            self._leaving.add(target.server)

    def _publish(self) -> None:
        dead = frozenset(server for server, failures in self._failures.items() if failures >= FAILURES_TO_DEAD)
        found = Findings(dead - self._leaving, frozenset(self._leaving))
        if found != self.found.value:
            self.found.set(found)


def _status(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Answer).status
    except msgspec.DecodeError:
        return ""
