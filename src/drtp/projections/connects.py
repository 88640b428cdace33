"""Units about `connect`: what a connector is told of the services that it asks for, and who calls a service.

Only services that somebody's connector asks for cost anything, and only what such a one may have is told: of a service
that is not there and one that is not allowed the answer is the same, and nothing is looked up for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from drtp.api.core import ORGANIZATION_LABEL, Namespace, ServiceAccount
from drtp.api.drtp import (
    ClientStatus,
    DRTPConnection,
    DRTPServer,
    DRTPService,
    Protocol,
    Role,
)
from drtp.api.internal import CallerKind, CallerRecord, EdgeIdentity, EdgeRole
from drtp.api.meta import ObjectMeta
from drtp.api.rbac import ClusterRole, ClusterRoleBinding, RoleBinding
from drtp.api.rbac import Role as RbacRole
from drtp.api.snapshots import Access, Caller, ConnectWay, DenyEntry, PlanConnect, PlanServer
from drtp.projections import callpolicies, facts
from drtp.projections.callpolicies import Prospect
from drtp.projections.cells import Index, Reader, Result, Unit
from drtp.projections.settings import ProjectionSettings
from drtp.rules import access, asking, callers, catalogue_grants, catalogue_indexes, entrykeys, indexes
from drtp.rules.permissions import Grantee, grantees_of
from drtp.store.observed import EdgeRef

INDEXES = (
    Index(EdgeIdentity, "wants", indexes.identity_wants),
    Index(RoleBinding, "grantee", lambda one: ((one.metadata.namespace, *who) for who in grantees_of(one))),
    Index(ClusterRoleBinding, "grantee", grantees_of),
    Index(ClusterRole, "all", lambda _role: (True,)),
    callpolicies.MEMBERS,
    *(Index(*one) for one in catalogue_indexes.INDEXES),
)

NOT_ALLOWED = "NotAllowed"
UDP = "UdpNotSealed"
DISABLED = "Disabled"
NO_AGENT = "AgentAway"


class Asks(NamedTuple):
    """Of a connector's record, what its plan depends on."""

    who: CallerRecord
    wants: tuple[str, ...]


class ReadGrants:
    """Roles and bindings as a unit reads them, so that it runs again when one of them changes."""

    def __init__(self, read: Reader) -> None:
        self._read = read

    def given_in(self, namespace: str, grantee: Grantee) -> Sequence[RoleBinding]:
        """As `Grants`."""
        return self._read.indexed(RoleBinding, "grantee", (namespace, *grantee))

    def given_everywhere(self, grantee: Grantee) -> Sequence[ClusterRoleBinding]:
        """As `Grants`."""
        return self._read.indexed(ClusterRoleBinding, "grantee", grantee)

    def role(self, namespace: str, name: str) -> RbacRole | None:
        """As `Grants`."""
        return self._read.get(RbacRole, namespace, name)

    def cluster_role(self, name: str) -> ClusterRole | None:
        """As `Grants`."""
        return self._read.get(ClusterRole, "", name)

    def cluster_roles(self) -> Sequence[ClusterRole]:
        """As `Grants`."""
        return self._read.indexed(ClusterRole, "all", True)

    def home_of(self, namespace: str) -> str:
        """As `Grants`."""
        home = self._organization(namespace)
        return home if home and self._organization(home) == home else ""

    def _organization(self, namespace: str) -> str:
        project = self._read.get(Namespace, "", namespace)
        return project.metadata.labels.get(ORGANIZATION_LABEL, "") if project is not None else ""


def _stands(read: Reader, who: CallerRecord) -> bool:
    """An application is its service account: with that it goes, and a later one of its name is another."""
    if who.kind is CallerKind.USER:
        return True
    account = read.get(ServiceAccount, *callers.account_of(who))
    return account is not None and account.metadata.uid == who.uid


def _project_of(read: Reader, who: CallerRecord, namespace: str, name: str, grants: ReadGrants) -> str:
    """The project as whose caller it may connect: the service's by a role there, or one that the catalogue lets in."""
    if not _stands(read, who):
        return ""
    if callers.may_connect(who, namespace, name, grants):
        return namespace
    return catalogue_grants.project_of(read, grants, callers.user_of(who), namespace, name)


class Called(NamedTuple):
    """Who may call one connection: for certain, or as an edge decides, and by what it does."""

    certain: tuple[Caller, ...] = ()
    conditional: tuple[Caller, ...] = ()
    access: Access | None = None


def called(read: Reader, service: DRTPService, connection: DRTPConnection) -> Called:
    """Whose connectors may open streams to a connection of a service, of those that ask for the service."""
    namespace, name = service.metadata.namespace, service.metadata.name
    wanting = read.indexed(EdgeIdentity, "wants", f"{namespace}/{name}")
    policies = callpolicies.caller_access(read, service, connection)
    grants = ReadGrants(read)
    decided: dict[CallerRecord, tuple[asking.Caller, Prospect]] = {}  # of one caller many connectors may ask
    found: dict[Prospect, list[Caller]] = {one: [] for one in Prospect}
    for one in wanting:
        who = one.spec.caller
        if who is None:
            continue
        if who not in decided:
            project = _project_of(read, who, namespace, name, grants)
            caller = callpolicies.as_asked(read, policies, who, project)
            decided[who] = caller, callpolicies.prospect(policies, caller) if project else Prospect.NONE
        caller, prospect = decided[who]
        found[prospect].append(
            Caller(
                identity=one.metadata.name,
                kind=caller.kind,
                uid=caller.uid,
                name=caller.name,
                organizations=caller.organizations,
            )
        )
    certain, conditional = (_sorted(found[one]) for one in (Prospect.CERTAIN, Prospect.CONDITIONAL))
    return Called(certain, conditional, policies if certain or conditional else None)


def _sorted(found: list[Caller]) -> tuple[Caller, ...]:
    return tuple(sorted(found, key=lambda caller: caller.identity))


def connector(unit: Unit, read: Reader, settings: ProjectionSettings) -> Result:
    """All that one connector is told: each service that it asks for, and the POPs on which these are."""
    told = next(iter(read.facts().values()), None)
    if told is None:
        return Result()
    who, wants = cast("Asks", told)
    edge = EdgeRef(EdgeRole.CONNECTOR, unit[1])
    result = Result()
    servers: dict[str, DRTPServer] = {}
    grants = ReadGrants(read)
    for namespace, name in callers.wanted_names(wants):
        plan = PlanConnect(namespace=namespace, name=name, reason=NOT_ALLOWED)
        if project := _project_of(read, who, namespace, name, grants):
            plan = _plan(read, who, project, (namespace, name), servers)
        result.entries[edge, entrykeys.connect(namespace, name)] = plan
    for server in servers.values():
        if (port := facts.tunnel_port(server)) is not None:
            result.entries[edge, entrykeys.server(server.metadata.uid)] = PlanServer(
                server=server.metadata.uid,
                name=settings.server_name(server.metadata.name),
                pop=server.spec.pop,
                address=server.spec.server_ip,
                port=port,
                role=Role.PRIMARY,
                sources=facts.sources([server.metadata]),
            )
    if denied := cast("tuple[str, ...]", read.value(facts.DENIED_POPS) or ()):
        result.entries[edge, entrykeys.DENY] = DenyEntry(minimum_generation=dict.fromkeys(denied, -1))
    return result


def _plan(
    read: Reader, who: CallerRecord, project: str, named: tuple[str, str], servers: dict[str, DRTPServer]
) -> PlanConnect:
    """A service that a caller of `project` may call; its POPs are put into `servers`."""
    namespace, name = named
    service = read.get(DRTPService, namespace, name)
    gone = service is None or service.metadata.deletion_timestamp is not None
    if service is None or gone:
        return PlanConnect(namespace=namespace, name=name, reason=NOT_ALLOWED)
    origin: list[ObjectMeta] = [service.metadata]
    ways: list[ConnectWay] = []
    every = read.indexed(DRTPConnection, "service", (namespace, name))
    found = [one for one in every if _might_call(read, service, one, who, project)]
    if every and not found:
        return PlanConnect(namespace=namespace, name=name, reason=NOT_ALLOWED)
    for one in sorted(found, key=lambda connection: connection.metadata.name):
        agent = facts.agent_of(read, one) if one.metadata.deletion_timestamp is None else None
        if agent is None:
            continue
        assigned = [facts.tunnel_server(read, each.server_ref.name) for each in one.spec.servers]
        carriage = facts.carriage(read, one, service)
        there = {
            server.metadata.uid: server
            for server in assigned
            if server is not None and asking.may_carry(carriage, access.place_of(server))
        }
        servers |= there
        met = {each.server_ref.name for each in one.status.servers if each.client_status is ClientStatus.CONNECTED}
        away = tuple(uid for uid, server in there.items() if server.metadata.name not in met)
        ways.append(ConnectWay(connection=one.metadata.uid, agent=agent.uid, servers=tuple(there), away=away))
        origin.append(one.metadata)
    reason = ""
    if service.spec.protocol is Protocol.UDP:
        reason = UDP
    elif not service.spec.enabled:
        reason = DISABLED
    elif not any(way.servers for way in ways):
        reason = NO_AGENT
    return PlanConnect(
        namespace=namespace,
        name=name,
        service=service.metadata.uid,
        protocol=service.spec.protocol,
        ways=() if reason else tuple(ways),
        reason=reason,
        sources=facts.sources(origin),
    )


def _might_call(read: Reader, service: DRTPService, found: DRTPConnection, who: CallerRecord, project: str) -> bool:
    """Whether policies leave a caller any prospect of a connection."""
    policies = callpolicies.caller_access(read, service, found)
    caller = callpolicies.as_asked(read, policies, who, project)
    return callpolicies.prospect(policies, caller) is not Prospect.NONE
