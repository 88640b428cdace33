"""Ends watches whose caller would not be let in any more: what let them in was changed, or taken away.

A change of roles concerns whoever watches, and is decided by the index of roles. A change of an account, a token or a
service account concerns one user, who is asked anew for what the connection shows. The client sees a clean end, and
finds when it comes back that the door is shut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from drtp.api import rbac
from drtp.api.internal import ACCOUNT, API_TOKEN
from drtp.apiserver.calls import Call
from drtp.apiserver.namespaces import KIND as NAMESPACE
from drtp.apiserver.rbac import Rbac
from drtp.apiserver.watches import Watches
from drtp.kit.clock import Clock
from drtp.kit.errors import Retryable
from drtp.kit.observe import logger
from drtp.store.protocol import EventType, Expired, Store, WatchEvent

PAUSE_S = 0.2
"""Between two looks: a script that changes roles in a loop is looked after five times a second."""
PAUSE_SHARE = 4
"""Of the time of a look, before the next one: among thousands of watches it must not be all that is done."""

log = logger("apiserver")

_ROLES = frozenset({*(kind.key for kind in rbac.KINDS), NAMESPACE})
"""Kinds by which roles are decided; the organisation that a project is of is in its label."""


class Reconsidering:
    """Follows the store, and looks at open watches again."""

    def __init__(
        self,
        store: Store,
        watches: Watches,
        authoriser: Rbac,
        clock: Clock,
        *,
        may: Callable[[Call], bool],
        stands: Callable[[Call], Awaitable[bool]],
    ) -> None:
        """`may`: whether roles let the caller do this now. `stands`: that, and whether the caller is somebody still."""
        self._store = store
        self._watches = watches
        self._authoriser = authoriser
        self._clock = clock
        self._may = may
        self._stands = stands
        self._users: set[str] = set()
        self._roles_at = 0
        self._due = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._follow())
            both.create_task(self._look())

    async def _follow(self) -> None:
        while True:
            try:
                async for event in self._store.watch():
                    self._note(event)
                return
            except Expired:
                # The history that is gone may have shut anybody out: all come again, and who may not stays away.
                await self._watches.end_all()

    def _note(self, event: WatchEvent) -> None:
        if event.stored is None:
            return
        key = event.stored.key
        if key.kind in _ROLES:
            self._roles_at = event.stored.revision
        elif key.kind == ACCOUNT:
            self._users.add(key.name)
        elif key.kind == API_TOKEN:
            self._users.add(str(event.stored.object["spec"].get("account", "")))
        elif key.kind == "ServiceAccount" and event.type is EventType.DELETED:
            self._users.add(event.stored.uid)
        else:
            return
        self._due.set()

    async def _look(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            began_s = self._clock.monotonic()
            await self._reconsider_users()
            await self._reconsider_roles()
            await self._clock.sleep(max(PAUSE_S, PAUSE_SHARE * (self._clock.monotonic() - began_s)))

    async def _reconsider_users(self) -> None:
        users, self._users = self._users, set[str]()
        await self._watches.end_unless(lambda call: call.user.uid in users, self._stands)

    async def _reconsider_roles(self) -> None:
        """Look at everybody by the roles of now, once the index has them."""
        revision, self._roles_at = self._roles_at, 0
        if not revision:
            return
        try:
            await self._authoriser.caught_up(revision)
        except Retryable:
            self._roles_at = max(self._roles_at, revision)
            self._due.set()
            return

        async def may(call: Call) -> bool:
            return self._may(call)

        await self._watches.end_unless(lambda _call: True, may)
