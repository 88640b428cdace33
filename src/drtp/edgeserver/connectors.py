"""Whose a connector is: a user by a token, an application by a token or a one-time secret of its service account.

The seam to service accounts is `SERVICE_ACCOUNT`, the key under which they are stored, and the names that Kubernetes
gives them. One that is deleted takes its connectors with it.
"""

from __future__ import annotations

import uuid

from drtp.api.core import ORGANIZATION_LABEL
from drtp.api.internal import Bound, CallerKind, CallerRecord
from drtp.api.meta import Key
from drtp.api.people import AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, User, service_account_user
from drtp.api.reports import CALLED_MAX, ConnectorRegistration
from drtp.issuers.records import is_very
from drtp.kit.errors import Refused
from drtp.rules.callers import account_of, wanted_names
from drtp.store.protocol import NotFound, Store, Stored

SERVICE_ACCOUNT = "ServiceAccount"


def caller_of(user: User) -> CallerRecord:
    """The caller that a signed-in user is; a service account's token makes an application."""
    kind = CallerKind.APP if user.name.startswith(SERVICE_ACCOUNT_PREFIX) else CallerKind.USER
    within = tuple(sorted(user.within))
    return CallerRecord(kind, user.uid, user.name, user.groups, within, until=user.until)


def app_of(bound: Bound) -> CallerRecord:
    """The application that a secret of a service account lets in, with the groups that Kubernetes gives it."""
    user = service_account_user(bound.namespace, bound.name)
    return CallerRecord(CallerKind.APP, bound.uid, user.name, (AUTHENTICATED, *user.groups))


async def account_behind(store: Store, bound: Bound) -> None:
    """Raises: Refused DRTP-2017 unless the service account is there, and is the very one that was bound."""
    try:
        found = await store.get(Key(SERVICE_ACCOUNT, bound.namespace, bound.name))
    except NotFound:
        raise Refused("DRTP-2017", f"There is no service account {bound.name} in {bound.namespace}.") from None
    if bound.kind != SERVICE_ACCOUNT or found.uid != bound.uid:
        raise Refused("DRTP-2017", f"The service account {bound.name} was made anew.")


async def is_there(store: Store, caller: CallerRecord) -> bool:
    """Whether the caller's service account is there, and is the very one. A user always is: theirs is another end."""
    return caller.kind is CallerKind.USER or await is_very(store, Key(SERVICE_ACCOUNT, *account_of(caller)), caller.uid)


async def scope_of(store: Store, caller: CallerRecord) -> dict[str, str]:
    """Organisation and project in an application's name, as uids; nothing for a user. Raises: Refused DRTP-2017."""
    if caller.kind is CallerKind.USER:
        return {}
    namespace, _ = account_of(caller)
    try:
        project = await store.get(Key("Namespace", "", namespace))
    except NotFound:
        raise Refused("DRTP-2017") from None
    return {"organization": organization_uid(project), "project": project.uid}


def organization_uid(project: Stored) -> str:
    """The uid of a project's organisation, made from its name; of a project without one, from the project."""
    organization = project.labels.get(ORGANIZATION_LABEL) or project.uid
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"organization {organization}"))


def seen_of(said: ConnectorRegistration) -> dict[str, str | bool | tuple[str, ...]]:
    """What a connector says of itself, cut to size. What it asks for is no claim: that is decided where it is used."""
    wants = tuple(f"{namespace}/{name}" for namespace, name in wanted_names(said.services[:CALLED_MAX]))
    seen = {"version": said.version[:64], "hostname": said.hostname[:253]}
    return {**seen, "wants": wants, "datagrams": said.datagrams}
