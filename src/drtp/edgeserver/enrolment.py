"""Enrolment: from a secret or a user's token, and a proven key, to an identity; one transaction with what it spends."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from drtp.api import drtp
from drtp.api.feed import EdgeRole, EnrolRequest
from drtp.api.internal import Bound, CallerRecord, EdgeIdentity, EdgeIdentitySpec
from drtp.api.meta import Key
from drtp.api.people import Authoriser, User
from drtp.api.reports import (
    AgentRegistration,
    ConnectorRegistration,
    GatewayRegistration,
    PopRegistration,
    Registration,
)
from drtp.api.spiffe import PeerRole, parse_uri
from drtp.edgeserver.connectors import account_behind, app_of, caller_of, is_there, organization_uid, scope_of, seen_of
from drtp.edgeserver.identities import ATTEMPTS, Identities, denial, usable
from drtp.edgeserver.registrations import SERVICE, Registrations
from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority
from drtp.issuers.records import Held
from drtp.issuers.requests import ProvenKey, proven_key
from drtp.issuers.secrets import EnrolmentSecrets
from drtp.issuers.tokens import stands
from drtp.kit.buckets import Buckets
from drtp.kit.clock import Clock
from drtp.kit.errors import Conflict, Refused, Retryable
from drtp.store.protocol import NotFound, Store, Update, Write

SERVICES_MAX = 256
"""Services of one agent; a state directory with more is a mistake, or an attack."""
SERVICES_SAID = 8
"""Of them in an audit line."""

_ROLES: dict[type[Registration], EdgeRole] = {
    AgentRegistration: EdgeRole.AGENT,
    PopRegistration: EdgeRole.POP,
    GatewayRegistration: EdgeRole.GATEWAY,
    ConnectorRegistration: EdgeRole.CONNECTOR,
}


class Former(Enum):
    """What becomes of the services that an agent was bound to, when it enrols again with its key."""

    KEPT = 1
    LEFT = 2


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An identity with its certificate, as recorded."""

    uid: str
    spec: EdgeIdentitySpec


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Who is to get a certificate; `held` if it had one before."""

    spec: EdgeIdentitySpec
    held: Held[EdgeIdentity] | None = None
    writes: list[Write] = field(default_factory=list[Write])


class Enrolment:
    """Both ways in. Authorisation comes first, then anything is looked up."""

    def __init__(
        self,
        store: Store,
        authority: Authority,
        identities: Identities,
        registrations: Registrations,
        secrets: EnrolmentSecrets,
        *,
        authoriser: Authoriser,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._store = store
        self._authority = authority
        self._identities = identities
        self._registrations = registrations
        self._secrets = secrets
        self._authoriser = authoriser
        self._audit = audit
        self._clock = clock
        # Each looks through all records: one caller alone must not keep the control plane busy with that.
        self._connectors = Buckets(clock, burst=120, per_s=1 / 5)

    async def by_secret(self, request: EnrolRequest, remote: str) -> Enrolled:
        """Spend one use of the secret. Raises: Refused (any reason; tell the caller one thing), Conflict DRTP-2002."""
        key = proven_key(request.csr_pem)
        for _ in range(ATTEMPTS):
            admission = await self._secrets.admit(request.secret or "", key.fingerprint, remote)
            spec = admission.spec
            if _ROLES[type(request.registration)] is not spec.role:
                raise Refused("DRTP-2001", "the secret is for another role")
            if not await stands(self._store, spec.created_by.removeprefix("user ")):
                raise Refused("DRTP-2001", "whoever made the secret is nobody any more")
            if admission.again and (given := await self._given_before(admission.again, key)) is not None:
                return given
            candidate = await self._candidate(spec.bound, request.registration, key, remote)
            candidate = _let_in(candidate, f"secret {admission.held.record.metadata.name}")
            write, uid = self._identities.first(candidate.spec, key, candidate.held)
            writes = [write, *candidate.writes]
            if not admission.again:
                spent = Update(self._secrets.consumed(admission, key.fingerprint, uid, remote))
                writes = [spent, *await self._secrets.spent_with(admission), *writes]
            if await self._written(writes):
                await self._unless_gone(candidate.spec.caller, uid)
                return await self._done(uid, remote)
        raise Retryable("DRTP-2003", "Many enrolments with one secret at once.")

    async def by_user(self, request: EnrolRequest, user: User, remote: str) -> Enrolled:
        """Enrol an agent for exactly these services of one namespace, each of which `user` may serve, or change.

        Raises: Refused DRTP-2005.
        """
        namespace, services = request.namespace or "", request.services
        if isinstance(request.registration, ConnectorRegistration):
            return await self._connector_of(request, request.registration, user, remote)
        if not isinstance(request.registration, AgentRegistration) or not namespace or not services:
            raise Refused("DRTP-2005", "A user enrols agents, for services of one namespace.")
        if len(services) > SERVICES_MAX:
            raise Refused("DRTP-2005", f"An agent serves at most {SERVICES_MAX} services.")
        for name in services:
            if not self._may_serve(user, namespace, name):
                raise Refused("DRTP-2005")
        key = proven_key(request.csr_pem)
        for _ in range(ATTEMPTS):
            bound = [await self._bind(namespace, name) for name in services]
            candidate = await self._agent(bound, request.registration, key, remote, Former.LEFT)
            candidate = _let_in(candidate, f"user {user.uid or user.name}")
            write, uid = self._identities.first(candidate.spec, key, candidate.held)
            if await self._written([write, *candidate.writes]):
                await self._unless_shut(user, uid)
                return await self._done(uid, remote)
        raise Retryable("DRTP-2003", "Many enrolments of one agent at once.")

    async def _connector_of(
        self, request: EnrolRequest, said: ConnectorRegistration, user: User, remote: str
    ) -> Enrolled:
        """A connector of a user. It may do nothing by itself: each service decides anew who may call it."""
        if not user.uid or user.read_only:
            raise Refused("DRTP-2005", "Only a user with an account has connectors, and no read-only token makes one.")
        key = proven_key(request.csr_pem)
        for _ in range(ATTEMPTS):
            candidate = _let_in(await self._connector(caller_of(user), said, key), f"user {user.uid}")
            write, uid = self._identities.first(candidate.spec, key, candidate.held)
            if await self._written([write]):
                await self._unless_shut(user, uid)
                await self._unless_gone(candidate.spec.caller, uid)
                return await self._done(uid, remote)
        raise Retryable("DRTP-2003", "Many enrolments of one connector at once.")

    async def _unless_gone(self, caller: CallerRecord | None, uid: str) -> None:
        """Whoever deleted the service account meanwhile has looked for its connectors before this one was there.

        Raises: Refused DRTP-2017.
        """
        if caller is not None and not await is_there(self._store, caller):
            await self._identities.revoke(uid, "its service account is gone", by="enrolment")
            raise Refused("DRTP-2017")

    async def _connector(self, caller: CallerRecord, said: ConnectorRegistration, key: ProvenKey) -> _Candidate:
        """Its uid is made from its key and its caller, so that enrolling again with one key is one identity.

        Raises: Refused DRTP-2050; Retryable DRTP-2003.
        """
        if not self._connectors.take(caller.uid):
            raise Retryable("DRTP-2003", "Many connectors of one caller enrol at once.")
        uid = str(uuid.uuid5(uuid.NAMESPACE_OID, f"connector {self._authority.pin} {caller.uid} {key.fingerprint}"))
        scope = await scope_of(self._store, caller)
        name = self._authority.identity(PeerRole.CONNECTOR, uid, caller=caller.uid, **scope)
        held = await self._identities.find(uid)
        if held is not None and (denial(held.record.spec) or held.record.spec.key_now != key.fingerprint):
            raise Refused("DRTP-2001", "the key was used by an identity that has moved on")
        await self._identities.check_room(caller, uid)
        spec = EdgeIdentitySpec(role=EdgeRole.CONNECTOR, uri=str(name), caller=caller)
        return _Candidate(msgspec.structs.replace(spec, **seen_of(said)), held)

    def _may_serve(self, user: User, namespace: str, name: str) -> bool:
        """Whoever may change a service could let anybody serve it; a workload has `serve`, and changes nothing."""
        return any(
            self._authoriser.decide(user, verb, drtp.GROUP, "drtpservices", "", namespace, name).allowed
            for verb in ("serve", "update")
        )

    async def _unless_shut(self, user: User, uid: str) -> None:
        """Whoever revoked the user, or deleted the program, has looked for its agents before this one was there.

        Raises: Refused DRTP-2005.
        """
        if user.uid and not await stands(self._store, user.uid):
            await self._identities.revoke(uid, "its user was revoked", by="enrolment")
            raise Refused("DRTP-2005", "The user was revoked.")

    async def _candidate(self, bound: Bound, said: Registration, key: ProvenKey, remote: str) -> _Candidate:
        match said:
            case AgentRegistration():
                return await self._agent([bound], said, key, remote, Former.KEPT)
            case PopRegistration():
                return await self._pop(bound, said)
            case GatewayRegistration():
                return await self._gateway(bound, said)
            case ConnectorRegistration():
                await account_behind(self._store, bound)
                return await self._connector(app_of(bound), said, key)

    async def _agent(
        self, bound: Sequence[Bound], said: AgentRegistration, key: ProvenKey, remote: str, former: Former
    ) -> _Candidate:
        """An agent's uid is made from its key and project, so that enrolling again with one key is one identity."""
        namespace = bound[0].namespace
        try:
            project = await self._store.get(Key("Namespace", "", namespace))
        except NotFound:
            raise Refused("DRTP-2017") from None
        uid = str(uuid.uuid5(uuid.UUID(project.uid), key.fingerprint))
        name = self._authority.identity(
            PeerRole.AGENT,
            uid,
            organization=organization_uid(project),
            project=project.uid,
        )
        held = await self._identities.find(uid)
        left: list[Bound] = []
        if held is not None:
            if denial(held.record.spec) or held.record.spec.key_now != key.fingerprint:
                raise Refused("DRTP-2001", "the key was used by an identity that has moved on")
            # What is deleted makes room: an agent lives longer than its services.
            known = [one for one in held.record.spec.bound if await self._registrations.service(one) is not None]
            if former is Former.KEPT:
                bound = [*known, *(one for one in bound if one not in known)][:SERVICES_MAX]
            left = [one for one in known if one not in bound]
        spec = EdgeIdentitySpec(role=EdgeRole.AGENT, uri=str(name), namespace=namespace, bound=tuple(bound))
        for service in bound if held is None else ():
            if await self._registrations.service(service) is None:
                raise Refused("DRTP-2017")
        writes = await self._registrations.connections(uid, spec, said, remote)
        return _Candidate(spec, held, [*writes, *await self._registrations.partings(uid, left)])

    async def _pop(self, bound: Bound, said: PopRegistration) -> _Candidate:
        """A POP's uid is its DRTPServer's, made here if need be: tunnel servers are known to agents by it."""
        server = await self._registrations.server(bound.name, said)
        name = self._authority.identity(PeerRole.POP, server.uid)
        whom = Bound(kind=bound.kind, name=bound.name, uid=server.uid)
        spec = EdgeIdentitySpec(role=EdgeRole.POP, uri=str(name), bound=(whom,), edge_name=bound.name)
        return _Candidate(spec, await self._identities.find(server.uid))

    async def _gateway(self, bound: Bound, said: GatewayRegistration) -> _Candidate:
        """A gateway enrolled again under its name keeps its uid."""
        if said.name != bound.name:
            raise Refused("DRTP-3007", "the secret is for another gateway")
        uid = str(uuid.uuid5(uuid.NAMESPACE_OID, f"gateway {self._authority.founding_pin} {bound.name}"))
        name = self._authority.identity(PeerRole.GATEWAY, uid)
        spec = EdgeIdentitySpec(
            role=EdgeRole.GATEWAY, uri=str(name), edge_name=bound.name, addresses=said.addresses, version=said.version
        )
        return _Candidate(spec, await self._identities.find(uid))

    async def _bind(self, namespace: str, name: str) -> Bound:
        try:
            service = await self._store.get(Key(SERVICE, namespace, name))
        except NotFound:
            raise Refused("DRTP-2017", f"There is no service {name} in {namespace}.") from None
        return Bound(kind=SERVICE, name=name, namespace=namespace, uid=service.uid)

    async def _given_before(self, uid: str, key: ProvenKey) -> Enrolled | None:
        """The certificate this key got for this secret; None if its record was never written."""
        held = await self._identities.find(uid)
        if held is None:
            return None
        spec = held.record.spec
        if denial(spec) or spec.key_now != key.fingerprint or not usable(spec, self._clock):
            raise Refused("DRTP-2001", "the identity of this secret and key has moved on")
        return Enrolled(uid, spec)

    async def _written(self, writes: list[Write]) -> bool:
        try:
            await self._store.apply(writes)
        except (Conflict, NotFound):
            return False
        return True

    async def _done(self, uid: str, remote: str) -> Enrolled:
        held = await self._identities.find(uid)
        if held is None:
            raise Refused("DRTP-2001", "the identity was removed at once")
        spec = held.record.spec
        role = parse_uri(spec.uri).role.value
        self._audit.write(
            "edge enrolled",
            project=spec.namespace,
            identity=uid,
            role=role,
            edge=spec.edge_name,
            services=", ".join(bound.name for bound in spec.bound[:SERVICES_SAID]),
            by=spec.created_by,
            remote=remote,
            decision="allowed",
        )
        return Enrolled(uid, spec)


def _let_in(candidate: _Candidate, by: str) -> _Candidate:
    """The candidate, with who let it in."""
    return _Candidate(msgspec.structs.replace(candidate.spec, created_by=by), candidate.held, candidate.writes)
