"""The door: changed keys in, edges whose entries have changed out.

Interface: `Projector(view, settings)`, `rebuild()`, `changed(keys)`, `entries(edge)`. Pure but for its own memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from drtp.api import gatewayapi
from drtp.api.catalogue import DRTPApproval, DRTPPublication, DRTPSubscription
from drtp.api.drtp import DRTPConnection, DRTPServer
from drtp.api.internal import EdgeIdentity, EdgeRole
from drtp.api.meta import Key
from drtp.api.rbac import ClusterRole, ClusterRoleBinding, Role, RoleBinding
from drtp.api.snapshots import Entry, HttpHost
from drtp.projections import connects, exposures, facts, listeners, tunnels, visitors
from drtp.projections.cells import Cells, Reader, Result, Unit
from drtp.projections.settings import ProjectionSettings
from drtp.rules import hostnames
from drtp.rules.asking import asks_who
from drtp.store.observed import EdgeRef
from drtp.store.view import View, kind_key

Compute = Callable[[Unit, Reader, ProjectionSettings], Result]

_UNITS: Mapping[str, tuple[int, Compute]] = {
    "gateways": (0, tunnels.gateways),
    "identity": (0, tunnels.identity),
    "pops": (0, tunnels.pops),
    "denied-pops": (0, tunnels.denied_pops),
    "servers": (1, tunnels.servers),
    "trust": (1, tunnels.trust),
    "deny": (1, tunnels.deny),
    "sign-in": (1, visitors.sign_in),
    "gateway": (1, listeners.gateway),
    "listenerset": (1, listeners.listener_set),
    "callers": (1, connects.callers_unit),
    "connection": (2, tunnels.connection),
    "server": (3, tunnels.server),
    "agent": (3, tunnels.agent),
    "connector": (3, connects.connector),
    "port": (3, listeners.port),
    "certificate": (4, listeners.certificate),
    "route": (4, exposures.route),
    "host": (5, exposures.host),
    "tcp": (5, exposures.tcp),
    "udp": (5, exposures.udp),
    "sni": (5, exposures.sni),
    "backend": (6, exposures.backend),
}
"""Kind of unit -> rank and computation. Values and facts go to higher ranks only."""

_ALWAYS: tuple[Unit, ...] = (
    *(facts.GATEWAYS, facts.POPS, facts.DENIED_POPS, facts.SERVERS),
    *(("trust",), ("deny",), ("sign-in",)),
)

_SPAWNS: Mapping[str, Callable[[Key], Unit]] = {
    kind_key(DRTPConnection): lambda key: ("connection", key.namespace, key.name),
    kind_key(DRTPServer): lambda key: ("server", key.name),
    kind_key(EdgeIdentity): lambda key: ("identity", key.name),
    gatewayapi.GATEWAY: lambda key: ("gateway", key.namespace, key.name),
    gatewayapi.LISTENER_SET: lambda key: ("listenerset", key.namespace, key.name),
    **{
        kind_key(model): lambda key, kind=kind: ("route", kind, key.namespace, key.name)
        for kind, model in facts.ROUTES.items()
    },
}
"""Objects that have a unit of their own, for as long as they exist."""


_OBJECTS: Mapping[str, str] = {
    "connection": kind_key(DRTPConnection),
    "server": kind_key(DRTPServer),
    "identity": kind_key(EdgeIdentity),
    "gateway": gatewayapi.GATEWAY,
    "listenerset": gatewayapi.LISTENER_SET,
}
"""Kinds of units that are of one object, routes beside them, and the kind of that."""


class Projector:
    """Everything every edge is told, kept current. One loop, no locks; call `rebuild` once the View has synced."""

    def __init__(self, view: View, settings: ProjectionSettings) -> None:
        self._view = view
        self._settings = settings
        ranks = {kind: rank for kind, (rank, _) in _UNITS.items()}
        indexes = (*facts.INDEXES, *connects.INDEXES, *visitors.INDEXES)
        self._asking: tuple[int, set[str]] = (-1, set())
        """Hosts that ask, and at which count of runs that was found."""
        self._cells = Cells(view, self._compute, ranks, indexes, rests=self._rests)

    def rebuild(self) -> set[EdgeRef]:
        """Take in everything the View holds. Gives every edge whose entries have changed."""
        keys = [key for kind in _KINDS for key in self._view.keys(kind)]
        return self._cells.change(keys, (*_ALWAYS, *self._spawned(keys)))

    def changed(self, keys: Iterable[Key]) -> set[EdgeRef]:
        """Recompute what these objects reach, after the View has changed. Gives the edges to tell."""
        known = [key for key in keys if key.kind in _KINDS]
        return self._cells.change(known, self._spawned(known))

    def entries(self, edge: EdgeRef) -> Mapping[str, Entry]:
        """Everything one edge is told, by entry key; empty for an edge that nothing concerns."""
        return self._cells.entries(edge)

    def host_of_sign_in(self, name: str) -> str | None:
        """As which host gateways know a name where visitors sign in: itself, or a wildcard over it; None for others."""
        return hostnames.known_as(name, self._hosts_of_sign_in())

    def _hosts_of_sign_in(self) -> set[str]:
        """Names of public hosts, as gateways are told them, where a rule asks who visitors are."""
        if self._asking[0] == self.runs:
            return self._asking[1]
        tables = (self.entries(edge).values() for edge in self.edges() if edge.role is EdgeRole.GATEWAY)
        hosts = (entry for table in tables for entry in table if isinstance(entry, HttpHost))
        asking_hosts = (host for host in hosts if any(map(asks_who, (rule.access for rule in host.rules))))
        self._asking = (self.runs, {host.hostname for host in asking_hosts})
        return self._asking[1]

    def edges(self) -> set[EdgeRef]:
        """Every edge that has entries."""
        return self._cells.edges()

    @property
    def faults(self) -> Mapping[Unit, str]:
        """Units that could not be computed, with the error; their entries are withdrawn, others go on."""
        return self._cells.faults

    @property
    def runs(self) -> int:
        """How many units have been computed so far: the measure of O(changed)."""
        return self._cells.runs

    @property
    def remembered(self) -> int:
        """Of how many units it is known what they read: the measure of memory."""
        return self._cells.remembered

    def _rests(self, unit: Unit) -> bool:
        """Units of objects rest while the object is gone, those that are sent facts while they have none."""
        kind, *about = unit[1:] if unit[0] == "route" else (_OBJECTS.get(unit[0], ""), *unit[1:])
        if unit in _ALWAYS:
            return False
        if not kind:
            return True
        kind = kind_key(facts.ROUTES[kind]) if unit[0] == "route" else kind
        namespace, name = about if len(about) == 2 else ("", about[0])
        return self._view.stored(Key(kind, namespace, name)) is None

    def _spawned(self, keys: Iterable[Key]) -> list[Unit]:
        return [_SPAWNS[key.kind](key) for key in keys if key.kind in _SPAWNS]

    def _compute(self, unit: Unit, read: Reader) -> Result:
        return _UNITS[unit[0]][1](unit, read, self._settings)


KINDS: tuple[str, ...] = (
    "Namespace",
    "Secret",
    "ResourceQuota",
    "ServiceAccount",
    "DRTPService.datumapis.com",
    "DRTPConnection.datumapis.com",
    "DRTPServer.datumapis.com",
    "DRTPAccessPolicy.datumapis.com",
    gatewayapi.GATEWAY_CLASS,
    gatewayapi.GATEWAY,
    gatewayapi.LISTENER_SET,
    gatewayapi.HTTP_ROUTE,
    gatewayapi.TCP_ROUTE,
    gatewayapi.TLS_ROUTE,
    gatewayapi.UDP_ROUTE,
    gatewayapi.REFERENCE_GRANT,
    "EdgeIdentity.internal.datumapis.com",
    "Account.internal.datumapis.com",
    "SignIn.internal.datumapis.com",
    "Claim.internal.datumapis.com",
    *(kind_key(model) for model in (Role, RoleBinding, ClusterRole, ClusterRoleBinding)),
    *(kind_key(model) for model in (DRTPPublication, DRTPSubscription, DRTPApproval)),
)
"""Kinds that a View must follow for projections."""

_KINDS = frozenset(KINDS)
