"""Units about `connect`: what a connector is told of the services that it asks for, and who calls a service.

Only services that somebody's connector asks for cost anything, and only what such a one may have is told: of a service
that is not there and one that is not allowed the answer is the same, and nothing is looked up for it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, cast

import msgspec

from drtp.api.core import Namespace, ServiceAccount, home_of
from drtp.api.drtp import (
    ClientStatus,
    DRTPConnection,
    DRTPServer,
    DRTPService,
    Protocol,
    Role,
)
from drtp.api.internal import Account, CallerKind, CallerRecord, EdgeRole
from drtp.api.meta import ObjectMeta
from drtp.api.people import AUTHENTICATED, FOREIGN
from drtp.api.rbac import ClusterRole, ClusterRoleBinding, RoleBinding
from drtp.api.rbac import Role as RbacRole
from drtp.api.snapshots import Access, Caller, ConnectWay, PlanConnect, PlanServer
from drtp.projections import callpolicies, facts
from drtp.projections.callpolicies import Prospect
from drtp.projections.cells import Index, Reader, Result, Unit
from drtp.projections.settings import ProjectionSettings
from drtp.rules import access, asking, callers, catalogue_grants, catalogue_indexes, entrykeys
from drtp.rules.permissions import Grantee, grantees_of
from drtp.store.observed import EdgeRef

INDEXES = (
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
    """Of a connector's record, what its plan depends on beside who it is."""

    wants: tuple[str, ...]
    datagrams: bool


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
        return home_of(self._project(namespace), self._project)

    def _project(self, name: str) -> Namespace | None:
        return self._read.get(Namespace, "", name)


def present(read: Reader, who: CallerRecord) -> CallerRecord | None:
    """The caller as it is now, whatever its enrolment showed; None for one that is nobody any more.

    An application is its service account: with that it goes, and a later one of its name is another. A local user has
    the groups of its account. Those of a foreign issuer are nowhere but in its tokens: they hold for as long as the
    certificate, and an account of such a user is there only to shut it out.
    """
    if who.kind is CallerKind.APP:
        program = read.get(ServiceAccount, *callers.account_of(who))
        return who if program is not None and program.metadata.uid == who.uid else None
    account = read.get(Account, "", who.uid)
    if FOREIGN in who.name:
        return None if account is not None and account.spec.disabled else who
    if account is None or account.spec.disabled:
        return None
    return msgspec.structs.replace(who, name=account.spec.name, groups=(*account.spec.groups, AUTHENTICATED))


class Admitted(NamedTuple):
    """A caller as it is now, of which project it comes (the service's, or one that the catalogue lets in), and until
    when it may connect; None: for as long as nothing changes.
    """

    who: CallerRecord
    project: str
    until: datetime | None = None


class Judge:
    """Who may connect to one service, policies aside: decided once for each caller, however many connectors it has."""

    def __init__(self, read: Reader, namespace: str, name: str) -> None:
        self._read = read
        self._grants = ReadGrants(read)
        self._where = namespace, name
        self._let_in: Mapping[str, datetime | None] | None = None  # by the catalogue; looked up when it is needed
        self._decided: dict[CallerRecord, Admitted | None] = {}

    def admitted(self, who: CallerRecord) -> Admitted | None:
        """The caller, if it may connect."""
        one = msgspec.structs.replace(who, until=None)  # each sign-in of one user ends at a time of its own
        if one not in self._decided:
            now = present(self._read, one)
            self._decided[one] = self._judged(now) if now is not None else None
        return self._decided[one]

    def _judged(self, now: CallerRecord) -> Admitted | None:
        """By a role in the service's project, or by the catalogue: as a caller of a project that is let in."""
        if callers.may_connect(now, *self._where, self._grants):
            return Admitted(now, self._where[0])
        if self._let_in is None:
            self._let_in = catalogue_grants.projects(self._read, *self._where)
        found = catalogue_grants.projects_of(self._let_in, self._grants, callers.user_of(now))
        ends = {project: self._let_in[project] for project in found}
        if not ends:
            return None
        until = functools.reduce(catalogue_grants.later, ends.values())
        return Admitted(now, next(project for project, end in ends.items() if end == until), until)


def asked_for(namespace: str, name: str) -> Unit:
    """The unit of all who ask for a service."""
    return ("callers", namespace, name)


def callers_unit(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """Who asks for a service, be there one or not, and may have it. Connectors of these are told; its value tells all.

    What a connector's record says beside that changes nothing here.
    """
    judge = Judge(read, unit[1], unit[2])
    asking = ((sender[1], judge.admitted(cast("CallerRecord", who))) for sender, who in read.facts().items())
    let_in = tuple((uid, one) for uid, one in asking if one is not None)
    return Result(facts={("connector", uid): one for uid, one in let_in}, value=let_in or None)


class Called(NamedTuple):
    """Who may call one connection: for certain, or as an edge decides, and by what it does."""

    certain: tuple[Caller, ...] = ()
    conditional: tuple[Caller, ...] = ()
    access: Access | None = None


def called(read: Reader, service: DRTPService, connection: DRTPConnection) -> Called:
    """Whose connectors may open streams to a connection of a service, of those that ask for the service."""
    unit = asked_for(service.metadata.namespace, service.metadata.name)
    let_in = cast("tuple[tuple[str, Admitted], ...]", read.value(unit) or ())
    policies = callpolicies.caller_access(read, service, connection)
    decided: dict[Admitted, tuple[asking.Caller, Prospect]] = {}  # of one caller many connectors may ask
    found: dict[Prospect, list[Caller]] = {one: [] for one in Prospect}
    for uid, admitted in let_in:
        if admitted not in decided:
            caller = callpolicies.as_asked(read, policies, admitted.who, admitted.project)
            decided[admitted] = caller, callpolicies.prospect(policies, caller)
        caller, prospect = decided[admitted]
        one = Caller(
            identity=uid,
            kind=caller.kind,
            uid=caller.uid,
            name=caller.name,
            organizations=caller.organizations,
            until=admitted.until,
        )
        found[prospect].append(one)
    certain, conditional = (_sorted(found[one]) for one in (Prospect.CERTAIN, Prospect.CONDITIONAL))
    return Called(certain, conditional, policies if certain or conditional else None)


def _sorted(found: list[Caller]) -> tuple[Caller, ...]:
    return tuple(sorted(found, key=lambda caller: caller.identity))


def connector(unit: Unit, read: Reader, settings: ProjectionSettings) -> Result:
    """All that one connector is told: each service that it asks for, and the POPs on which these are."""
    facts_of = read.facts()
    told = cast("Asks | None", facts_of.get(("identity", unit[1])))
    if told is None:
        return Result()
    edge = EdgeRef(EdgeRole.CONNECTOR, unit[1])
    result = Result()
    servers: dict[str, DRTPServer] = {}
    for namespace, name in callers.wanted_names(told.wants):
        admitted = cast("Admitted | None", facts_of.get(asked_for(namespace, name)))
        plan = PlanConnect(namespace=namespace, name=name, reason=NOT_ALLOWED)
        if admitted is not None:
            plan = _plan(read, admitted, (namespace, name), servers, datagrams=told.datagrams)
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
    if denials := facts.denied_pops(read).entry:
        result.entries[edge, entrykeys.DENY] = denials
    return result


def _plan(
    read: Reader, caller: Admitted, named: tuple[str, str], servers: dict[str, DRTPServer], *, datagrams: bool
) -> PlanConnect:
    """A service that the caller may call; its POPs are put into `servers`. `datagrams`: its connector can carry UDP."""
    namespace, name = named
    service = read.get(DRTPService, namespace, name)
    gone = service is None or service.metadata.deletion_timestamp is not None
    if service is None or gone:
        return PlanConnect(namespace=namespace, name=name, reason=NOT_ALLOWED)
    origin: list[ObjectMeta] = [service.metadata]
    ways: list[ConnectWay] = []
    every = read.indexed(DRTPConnection, "service", (namespace, name))
    found = [one for one in every if _might_call(read, service, one, caller)]
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
    if service.spec.protocol is Protocol.UDP and not datagrams:
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


def _might_call(read: Reader, service: DRTPService, found: DRTPConnection, admitted: Admitted) -> bool:
    """Whether policies leave a caller any prospect of a connection."""
    policies = callpolicies.caller_access(read, service, found)
    caller = callpolicies.as_asked(read, policies, admitted.who, admitted.project)
    return callpolicies.prospect(policies, caller) is not Prospect.NONE
