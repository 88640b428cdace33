"""Who may connect to a service, policies aside, where somebody asks by name: by a role, or by the catalogue."""

from __future__ import annotations

import msgspec

from drtp.api.core import ServiceAccount
from drtp.api.internal import Account, CallerKind, CallerRecord
from drtp.api.people import AUTHENTICATED, FOREIGN, service_account_user
from drtp.rules import callers, catalogue_grants
from drtp.rules.asking import Caller
from drtp.rules.permissions import Grants
from drtp.store.protocol import Store
from drtp.store.view import View, kind_key


class Admissions:
    """Answers from what is stored now, as the edges are told it."""

    def __init__(self, store: Store, view: View, roles: Grants) -> None:
        """`view` has the catalogue's indexes."""
        self._store = store
        self._view = view
        self._roles = roles

    async def admits(self, caller: Caller, namespace: str, service: str) -> bool | None:
        """Whether the caller may open connections; None where names alone do not tell.

        That is so of somebody of an organisation, and of a foreign user: what groups they are in, their tokens say.
        """
        match caller.kind:
            case CallerKind.APP.value:
                who = self._application(caller.name)
            case CallerKind.USER.value:
                who = await self._user(caller.name)
            case _:
                return None
        if who is not None and self._may(who, namespace, service):
            return True
        return None if FOREIGN in caller.name else False

    def _may(self, who: CallerRecord, namespace: str, service: str) -> bool:
        if callers.may_connect(who, namespace, service, self._roles):
            return True
        let_in = catalogue_grants.projects(self._view, namespace, service)
        return any(catalogue_grants.projects_of(let_in, self._roles, callers.user_of(who)))

    def _application(self, name: str) -> CallerRecord | None:
        project, _, account = name.partition("/")
        found = self._view.get(ServiceAccount, project, account)
        if found is None:
            return None
        user = service_account_user(project, account)
        return CallerRecord(CallerKind.APP, found.metadata.uid, user.name, (*user.groups, AUTHENTICATED))

    async def _user(self, name: str) -> CallerRecord | None:
        if FOREIGN in name:
            return CallerRecord(CallerKind.USER, "", name, (AUTHENTICATED,))
        for stored in (await self._store.list(kind_key(Account))).items:
            account = msgspec.convert(stored.object, Account)
            if account.spec.name == name and not account.spec.disabled:
                return CallerRecord(CallerKind.USER, account.metadata.name, name, (*account.spec.groups, AUTHENTICATED))
        return None
