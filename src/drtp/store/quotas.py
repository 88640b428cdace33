"""Quotas, judged with the writes they limit and in the same transaction: nobody is between the count and the create.

Pure. A batch of changes implies what each quota concerned has used; what would go beyond one refuses the whole batch.
Only growth is refused: a limit that is set below what there is takes nothing away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from drtp.api import quotas
from drtp.api.core import ORGANIZATION_LABEL
from drtp.api.jsonvalue import JsonObject
from drtp.api.meta import Key
from drtp.kit.errors import Refused
from drtp.store.protocol import Stored, UpdateStatus
from drtp.store.semantics import Effect

QUOTA = "ResourceQuota"
CONNECTION = "DRTPConnection.datumapis.com"
NAMESPACE = "Namespace"


class Look(Protocol):
    """The objects there are at one moment."""

    def find(self, key: Key) -> Stored | None:
        """One object."""
        ...

    def listed(self, kind: str, namespace: str | None) -> Iterable[Stored]:
        """Objects of a kind, in one namespace or all."""
        ...

    def count(self, kind: str, namespace: str) -> int:
        """How many there are in one namespace."""
        ...


def implied(effects: Sequence[Effect], before: Look, after: Look) -> list[UpdateStatus]:
    """The status of every quota that these changes concern. Raises: Refused DRTP-2024."""
    found: list[UpdateStatus] = []
    for namespace in sorted(_concerned(effects, after)):
        for stored in after.listed(QUOTA, namespace):
            found.append(_judged(stored, before, after))
    return found


def _concerned(effects: Sequence[Effect], after: Look) -> set[str]:
    """Namespaces whose quotas may have used more or less than before."""
    concerned: set[str] = set()
    for one in effects:
        if not one.changes:
            continue
        namespace = one.key.namespace
        if one.key.kind == QUOTA:
            concerned.add(namespace)
        elif one.key.kind == NAMESPACE:
            concerned |= {_organization(side) for side in (one.before, one.after)}
        elif one.before is None or one.after is None:
            concerned.add(namespace)
            if one.key.kind == CONNECTION:
                concerned.add(_organization(after.find(Key(NAMESPACE, "", namespace))))
    return concerned - {""}


def _organization(namespace: Stored | None) -> str:
    return (namespace.labels.get(ORGANIZATION_LABEL) or "") if namespace is not None else ""


def _judged(stored: Stored, before: Look, after: Look) -> UpdateStatus:
    namespace, used = stored.key.namespace, dict[str, str]()
    hard = quotas.limits(stored.object)
    for name, most in sorted(hard.items()):
        there_are = _used(name, namespace, after)
        if there_are is None:
            continue
        if there_are > most and there_are > (were := _used(name, namespace, before) or 0):
            asked = f"requested: {name}={there_are - were}, used: {name}={were}, limited: {name}={most}"
            raise Refused("DRTP-2024", f"exceeded quota: {stored.key.name}, {asked}")
        used[name] = str(there_are)
    status = {"hard": {name: str(most) for name, most in sorted(hard.items())}, "used": used}
    metadata = {"name": stored.key.name, "namespace": namespace}
    return UpdateStatus({"apiVersion": "v1", "kind": QUOTA, "metadata": metadata, "status": status})


def _used(name: str, namespace: str, look: Look) -> int | None:
    """None for what nobody counts here: POPs hold it."""
    if name in quotas.AT_POPS:
        return None
    if name == quotas.PROJECTS:
        return max(0, len(_projects(namespace, look)) - 1)  # the organisation's own is none of them
    if name == quotas.AGENTS:
        return len({agent for project in _projects(namespace, look) for agent in _agents(project, look)})
    kind = quotas.kind_counted(name)
    return look.count(kind, namespace) if kind is not None else None


def _projects(namespace: str, look: Look) -> list[str]:
    """The one, or all of an organisation where it is the organisation's own."""
    if _organization(look.find(Key(NAMESPACE, "", namespace))) != namespace:
        return [namespace]
    return [one.key.name for one in look.listed(NAMESPACE, None) if _organization(one) == namespace]


def _agents(namespace: str, look: Look) -> Iterator[str]:
    for stored in look.listed(CONNECTION, namespace):
        spec: JsonObject = stored.object["spec"]
        client: JsonObject = spec.get("client") or {}
        yield str(client.get("agentID") or stored.key.name)
