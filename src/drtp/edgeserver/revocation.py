"""Takes away what enrolment gave. Implements `Revoker`; the deny-list and the cut feeds follow from the records."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from drtp.api.feed import EdgeRole
from drtp.api.internal import EDGE_IDENTITY, ENROLMENT_SECRET, EdgeIdentity, EnrolmentSecret, EnrolmentSecretSpec
from drtp.api.meta import Key
from drtp.api.revoking import Because, Withdrawn
from drtp.edgeserver.identities import Identities
from drtp.edgeserver.issuing import Issuing
from drtp.edgeserver.registrations import SERVER, SERVICE
from drtp.kit import errors
from drtp.store.protocol import Delete, NotFound, Store


class Revocation:
    """Revokes agents, services, users, POPs and gateways."""

    def __init__(self, store: Store, identities: Identities, issuing: Issuing) -> None:
        self._store = store
        self._identities = identities
        self._accounts = issuing.accounts
        self._secrets = issuing.secrets
        self._invitations = issuing.invitations
        self._audit = issuing.audit

    async def agent(self, namespace: str, uid: str, because: Because) -> Withdrawn:
        """As `Revoker.agent`. An agent of another project is as unknown as one that never was."""
        held = await self._identities.find(uid)
        spec = held.record.spec if held is not None else None
        if spec is None or spec.role is not EdgeRole.AGENT or spec.namespace != namespace:
            raise errors.NotFound("DRTP-1001", f"There is no agent {uid} in {namespace}.")
        return await self._revoke([uid], because)

    async def service(self, namespace: str, name: str, because: Because) -> Withdrawn:
        """As `Revoker.service`. Secrets go first: none of them can let an agent in after it was looked for."""
        service = await self._store.get(Key(SERVICE, namespace, name))
        secrets = await self._drop_secrets(lambda spec: spec.bound.uid == service.uid, because)

        def serves(one: EdgeIdentity) -> bool:
            return any(bound.kind == SERVICE and bound.uid == service.uid for bound in one.spec.bound)

        return (await self._revoke(await self._uids(serves), because))._replace(secrets=secrets)

    async def user(self, name: str, because: Because) -> Withdrawn:
        """As `Revoker.user`. The account is shut first: then nothing new can begin."""
        uid, tokens = await self._accounts.shut(name)
        self._audit.write("user revoked", user=uid, name=name, by=because.by, reason=because.reason)
        by = f"user {uid}"
        secrets = await self._drop_secrets(lambda spec: spec.created_by == by, because)
        withdrawn = await self._revoke(await self._uids(lambda one: one.spec.created_by == by), because)
        return withdrawn._replace(secrets=secrets, tokens=tokens, user=uid)

    async def program(self, uid: str, because: Because) -> Withdrawn:
        """A service account (by uid) that is gone: its connectors, the agents that its tokens let in, and what it gave.

        Nothing of it proves anybody from the moment it was deleted. Its account is shut last, so that whoever finds it
        open after a crash does all of this again.
        """
        by = f"user {uid}"
        secrets = await self._drop_secrets(
            lambda spec: uid in (spec.created_by.removeprefix("user "), spec.bound.uid), because
        )
        await self._invitations.withdraw(uid, because.by, because.reason)

        def of_it(one: EdgeIdentity) -> bool:
            caller = one.spec.caller
            return not one.spec.revoked and (one.spec.created_by == by or (caller is not None and caller.uid == uid))

        withdrawn = await self._revoke(await self._uids(of_it), because)
        return withdrawn._replace(secrets=secrets, tokens=await self._accounts.retire(uid), user=uid)

    async def pop(self, name: str, because: Because) -> Withdrawn:
        """As `Revoker.pop`."""
        server = await self._store.get(Key(SERVER, "", name))
        secrets = await self._drop_secrets(lambda spec: (spec.role, spec.bound.name) == (EdgeRole.POP, name), because)
        if await self._identities.find(server.uid) is None:
            raise errors.NotFound("DRTP-1001", f"No POP has joined as {name}.")
        return (await self._revoke([server.uid], because))._replace(secrets=secrets)

    async def gateway(self, name: str, because: Because) -> Withdrawn:
        """As `Revoker.gateway`."""
        role = EdgeRole.GATEWAY
        secrets = await self._drop_secrets(lambda spec: (spec.role, spec.bound.name) == (role, name), because)
        found = await self._uids(lambda one: (one.spec.role, one.spec.edge_name) == (role, name))
        if not found:
            raise errors.NotFound("DRTP-1001", f"No gateway has joined as {name}.")
        return (await self._revoke(found, because))._replace(secrets=secrets)

    async def _uids(self, wanted: Callable[[EdgeIdentity], bool]) -> list[str]:
        listing = await self._store.list(EDGE_IDENTITY)
        records = (msgspec.json.decode(stored.raw, type=EdgeIdentity) for stored in listing.items)
        return [one.metadata.name for one in records if wanted(one)]

    async def _revoke(self, uids: list[str], because: Because) -> Withdrawn:
        for uid in uids:
            await self._identities.revoke(uid, because.reason, by=because.by)
        return Withdrawn(identities=tuple(uids))

    async def _drop_secrets(self, wanted: Callable[[EnrolmentSecretSpec], bool], because: Because) -> int:
        """Secrets that are gone let nobody in; an agent's retry with one is refused too."""
        gone = 0
        for stored in (await self._store.list(ENROLMENT_SECRET)).items:
            record = msgspec.json.decode(stored.raw, type=EnrolmentSecret)
            if not wanted(record.spec):
                continue
            try:
                await self._store.apply([*await self._secrets.unkept(record), Delete(stored.key)])
            except NotFound:
                continue
            gone += 1
            self._audit.write(
                "secret revoked",
                project=record.spec.bound.namespace,
                secret=record.metadata.name,
                by=because.by,
                reason=because.reason,
            )
        return gone
