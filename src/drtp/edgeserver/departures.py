"""What goes with something that was deleted: a POP with its DRTPServer, all that a program did with its ServiceAccount.

Deletions are seen as they happen. One that happened while nobody watched is found by looking at everything, at each
start and whenever the watch fell behind.
"""

from __future__ import annotations

import msgspec

from drtp.api.feed import EdgeRole
from drtp.api.internal import ACCOUNT, EDGE_IDENTITY, Account, EdgeIdentity, EdgeIdentitySpec
from drtp.api.meta import Key
from drtp.api.revoking import Because
from drtp.edgeserver.connectors import SERVICE_ACCOUNT, is_there
from drtp.edgeserver.identities import Identities
from drtp.edgeserver.registrations import SERVER
from drtp.edgeserver.revocation import Revocation
from drtp.issuers.records import is_very
from drtp.store.protocol import Store, Stored

_PROGRAM_GONE = Because("control plane", "its service account was deleted")
_SERVER_GONE = "its DRTPServer was deleted"


class Departures:
    """Revokes what has lost what it was for."""

    def __init__(self, store: Store, identities: Identities, revocation: Revocation) -> None:
        self._store = store
        self._identities = identities
        self._revocation = revocation

    async def deleted(self, stored: Stored) -> None:
        """An object was deleted, as it was last."""
        if stored.key.kind == SERVER:
            await self._identities.revoke(stored.uid, _SERVER_GONE)
        elif stored.key.kind == SERVICE_ACCOUNT:
            await self._revocation.program(stored.uid, _PROGRAM_GONE)

    async def missed(self) -> None:
        """Look for what was deleted unseen. Reads every identity and account."""
        programs: set[str] = set()
        for uid, spec in await self._identified():
            if spec.role is EdgeRole.POP and not await is_very(self._store, Key(SERVER, "", spec.edge_name), uid):
                await self._identities.revoke(uid, _SERVER_GONE)
            caller = spec.caller
            if caller is not None and caller.uid not in programs and not await is_there(self._store, caller):
                programs.add(caller.uid)
        for uid, service_account in await self._accounted():
            namespace, _, name = service_account.partition("/")
            if not await is_very(self._store, Key(SERVICE_ACCOUNT, namespace, name), uid):
                programs.add(uid)
        for uid in sorted(programs):
            await self._revocation.program(uid, _PROGRAM_GONE)

    async def _identified(self) -> list[tuple[str, EdgeIdentitySpec]]:
        """Identities that are not revoked, by uid."""
        records = [
            msgspec.json.decode(one.raw, type=EdgeIdentity) for one in (await self._store.list(EDGE_IDENTITY)).items
        ]
        return [(one.metadata.name, one.spec) for one in records if not one.spec.revoked]

    async def _accounted(self) -> list[tuple[str, str]]:
        """Accounts of programs that are not shut: uid, and the service account."""
        records = [msgspec.json.decode(one.raw, type=Account) for one in (await self._store.list(ACCOUNT)).items]
        open_ones = (one for one in records if one.spec.service_account and not one.spec.disabled)
        return [(one.metadata.name, one.spec.service_account) for one in open_ones]
