"""What edges say of themselves becomes objects: a POP's DRTPServer, an agent's DRTPConnections. Edges write none.

An edge can change nothing but its own: the names come from its identity record, only the descriptions from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from drtp.api import drtp
from drtp.api.admission import admit
from drtp.api.internal import Bound, EdgeIdentitySpec
from drtp.api.meta import Key
from drtp.api.registry import REGISTRY
from drtp.api.reports import AgentRegistration, PopRegistration
from drtp.kit.errors import Conflict, Invalid, NotFound, Refused
from drtp.kit.observe import logger, printable
from drtp.store.protocol import Create, Delete, Object, Store, Stored, Update, Write

log = logger("edgeserver")

SERVER = f"DRTPServer.{drtp.GROUP}"
SERVICE = f"DRTPService.{drtp.GROUP}"
CONNECTION = f"DRTPConnection.{drtp.GROUP}"
TEXT_MAX = 253
VERSION_MAX = 63


class Registrations:
    """Writes the objects of edges that enrol or connect. Idempotent: an unchanged registration writes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def server(self, name: str, registration: PopRegistration) -> Stored:
        """Make or update the DRTPServer `name`. Cordoning is the operator's: an existing `unschedulable` stays.

        Raises: Refused DRTP-3007 for another server's name or values that are not valid.
        """
        if registration.name != name:
            raise Refused("DRTP-3007", f"This identity is of server {name!r}, not of {printable(registration.name)!r}.")
        present = await self._find(Key(SERVER, "", name))
        spec: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(registration.spec))
        if present is not None:
            spec["unschedulable"] = present.object["spec"].get("unschedulable", False)
        obj = {"apiVersion": drtp.API_VERSION, "kind": "DRTPServer", "metadata": {"name": name}, "spec": spec}
        admitted = _admitted(SERVER, obj, present)
        return await (self._store.create(admitted) if present is None else self._store.update(admitted))

    async def existing_server(self, name: str) -> Stored | None:
        """The DRTPServer `name`, if there is one."""
        return await self._find(Key(SERVER, "", name))

    async def connections(
        self, agent: str, identity: EdgeIdentitySpec, registration: AgentRegistration, remote: str
    ) -> list[Write]:
        """The writes that give the agent one DRTPConnection for each of its services that still exists."""
        client = _client(agent, registration, remote)
        writes: list[Write] = []
        for service in identity.bound:
            if await self.service(service) is not None:
                writes.extend(await self._connection(agent, service, client))
        return writes

    async def partings(self, agent: str, services: Iterable[Bound]) -> list[Write]:
        """The writes that take an agent's DRTPConnections to `services` away: it serves them no more."""
        found = [await self._find(key) for one in services for key in _connection_keys(agent, one)]
        return [Delete(one.key, uid=one.uid) for one in found if one is not None and _agent_of(one) == agent]

    async def service(self, bound: Bound) -> Stored | None:
        """The service, if it is still the very one that was bound."""
        found = await self._find(Key(SERVICE, bound.namespace, bound.name))
        return found if found is not None and (not bound.uid or found.uid == bound.uid) else None

    async def is_bereft(self, identity: EdgeIdentitySpec) -> bool:
        """Whether the identity was made for services, and every one of them is gone for good."""
        for one in identity.bound:
            if one.kind != SERVICE or await self.service(one) is not None:
                return False
        return bool(identity.bound)

    async def apply(self, writes: list[Write]) -> None:
        """Write; a lost race is no matter, because the next Hello says the same again."""
        try:
            if writes:
                await self._store.apply(writes)
        except (Conflict, NotFound) as error:
            log.info("registration raced", reason=str(error))

    async def _connection(self, agent: str, service: Bound, client: dict[str, Any]) -> list[Write]:
        for key in _connection_keys(agent, service):
            present = await self._find(key)
            if present is None:
                return [Create(_admitted(CONNECTION, _new_connection(key.name, service, client), None))]
            if _agent_of(present) == agent:
                changed: dict[str, Any] = {**present.object, "spec": {**present.object["spec"], "client": client}}
                same = present.object["spec"]["client"] == client
                return [] if same else [Update(_admitted(CONNECTION, changed, present))]
        raise Refused("DRTP-3007", f"Two agents want the connection {service.name}-{agent}.")

    async def _find(self, key: Key) -> Stored | None:
        try:
            return await self._store.get(key)
        except NotFound:
            return None


def _connection_keys(agent: str, service: Bound) -> list[Key]:
    """Where an agent's connection to a service may be: under a short name, or a long one if others are called so."""
    names = (f"{service.name[:200]}-{agent.replace('-', '')[:digits]}" for digits in (8, 32))
    return [Key(CONNECTION, service.namespace, name) for name in names]


def _agent_of(connection: Stored) -> str:
    client: Mapping[str, Any] = connection.object["spec"].get("client") or {}
    return str(client.get("agentID", ""))


def _new_connection(name: str, service: Bound, client: dict[str, Any]) -> Object:
    owner = {"apiVersion": drtp.API_VERSION, "kind": "DRTPService", "name": service.name, "uid": service.uid}
    return {
        "apiVersion": drtp.API_VERSION,
        "kind": "DRTPConnection",
        "metadata": {"name": name, "namespace": service.namespace, "ownerReferences": [owner]},
        "spec": {"serviceRef": {"name": service.name}, "client": client},
    }


def _client(agent: str, registration: AgentRegistration, remote: str) -> dict[str, Any]:
    """What is said of the agent. Its address is what we saw, whatever it may say (CVE-2026-55428)."""
    location = _location(registration)
    said = {
        "agentID": agent,
        "ip": remote.partition("%")[0],
        "hostname": printable(registration.hostname)[:TEXT_MAX],
        "version": printable(registration.version)[:VERSION_MAX],
        "location": location,
    }
    return {name: value for name, value in said.items() if value}


def _location(registration: AgentRegistration) -> dict[str, str] | None:
    try:
        latitude, longitude = float(registration.latitude or "nan"), float(registration.longitude or "nan")
    except ValueError:
        return None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    return {
        "latitude": f"{latitude:.6f}".rstrip("0").rstrip("."),
        "longitude": f"{longitude:.6f}".rstrip("0").rstrip("."),
    }


def _admitted(kind: str, obj: Object, old: Stored | None) -> dict[str, Any]:
    try:
        return admit(REGISTRY[kind], obj, old.object if old else None)
    except Invalid as error:
        raise Refused("DRTP-3007", error.what) from None
