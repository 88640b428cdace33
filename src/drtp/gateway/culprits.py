"""Which host spoils a route table. RDS is one resource for a listener, so Envoy refuses all of it for one bad host.

The suspects are the hosts that changed since Envoy last took the table; where they are several, `envoy --mode
validate` (50 ms) halves them until the bad ones stand alone. A culprit stays apart until its entry changes.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from drtp.api.snapshots import Entry, HttpHost, SignInEntry
from drtp.gateway import visitors
from drtp.gateway.accesslogs import AccessLogs
from drtp.gateway.http import connection_manager
from drtp.gateway.ledger import Ledger
from drtp.gateway.program import Program
from drtp.gateway.resources import Kind, Ref
from drtp.gateway.routes import route_table, virtual_host
from drtp.kit.clock import Clock
from drtp.kit.observe import logger

Json = dict[str, Any]

_log = logger("gateway")

VALIDATION_DEADLINE_S = 20.0


class Suspects:
    """Hosts that Envoy took, and those it refused: entry key -> its words."""

    def __init__(self, binary: Path, directory: Path, clock: Clock) -> None:
        self._binary = binary
        self._directory = directory
        self._clock = clock
        self._taken: dict[str, dict[str, HttpHost]] = {}
        self._entries: dict[str, HttpHost] = {}
        self.refused: dict[str, str] = {}

    def forget_changed(self, entries: Mapping[str, Entry]) -> None:
        """A refused host whose entry has changed gets a new chance."""
        for key, entry in list(self._entries.items()):
            if entries.get(key) != entry:
                del self._entries[key]
                del self.refused[key]

    async def examine(self, program: Program, ledger: Ledger) -> bool:
        """Look at every route table; True if a culprit was found and the program must be built again."""
        found = False
        for name, hosts in program.hosts.items():
            ref = Ref(Kind.ROUTES, name)
            message = ledger.refusal(ref, program.resources)
            if message is not None:
                found = await self._accuse(name, dict(hosts), program, message) or found
            elif ledger.taken(ref, program.resources):
                self._taken[name] = {key: host for key, host in hosts if key not in self.refused}
        return found

    async def _accuse(self, name: str, hosts: dict[str, HttpHost], program: Program, message: str) -> bool:
        good = self._taken.get(name, {})
        suspects = [
            key
            for key, host in hosts.items()
            if key not in self.refused and key not in program.faults and good.get(key) != host
        ]
        culprits = {suspects[0]: message} if len(suspects) == 1 else await self._halve(suspects, hosts)
        for key, words in culprits.items():
            _log.warning("host refused by envoy", host=key, reason=words[:300])
            self._entries[key] = hosts[key]
            self.refused[key] = words
        return bool(culprits)

    async def _halve(self, keys: Sequence[str], hosts: Mapping[str, HttpHost]) -> dict[str, str]:
        if not keys:
            return {}
        words = await self._validate([hosts[key] for key in keys])
        if words is None:
            return {}
        if len(keys) == 1:
            return {keys[0]: words}
        middle = len(keys) // 2
        return await self._halve(keys[:middle], hosts) | await self._halve(keys[middle:], hosts)

    async def _validate(self, hosts: Sequence[HttpHost]) -> str | None:
        """Envoy's words against a table of these hosts; None if it would take it."""
        with tempfile.NamedTemporaryFile(dir=self._directory, suffix=".json") as file:
            file.write(msgspec.json.encode(_trial(hosts)))
            file.flush()
            process = await asyncio.create_subprocess_exec(
                str(self._binary), "--mode", "validate", "-c", file.name, "-l", "error", "--disable-hot-restart",
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                async with asyncio.timeout(VALIDATION_DEADLINE_S):
                    _out, errors = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode == 0:
            return None
        lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "Envoy refused it without a word"


_SOMEWHERE = SignInEntry(issuer="https://trial", url="https://trial", keys="")


def _trial(hosts: Sequence[HttpHost]) -> Json:
    """A static configuration that holds nothing but these hosts."""
    table = route_table("trial") | {"validate_clusters": False}
    table["virtual_hosts"] = [
        virtual_host(host, lambda _uid: None, _SOMEWHERE, trust_domain="trial.test") for host in hosts
    ]
    manager = connection_manager("trial", "trial", AccessLogs())
    typed: Json = manager["typed_config"]
    del typed["rds"], typed["access_log"]
    for one in typed["http_filters"]:
        if one.pop("config_discovery", None) is not None:
            one["typed_config"] = {"@type": visitors.EXTENSIONS[one["name"]]}
    typed["route_config"] = table
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "trial",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [{"filters": [manager]}],
                }
            ]
        }
    }
