"""Who may call a service by a role: for the POPs' routes, the agents' plans and the connectors' own.

Identity says who (a certificate); this says what it may. The verb is `connect` on `drtpservices/connect` of the
service's project. The other way in is the catalogue's (`catalogue_grants`); policies narrow both.
"""

from __future__ import annotations

from collections.abc import Iterator

from drtp.api.drtp import GROUP
from drtp.api.internal import CallerKind, CallerRecord
from drtp.api.people import SERVICE_ACCOUNT_PREFIX, SYSTEM_MASTERS, User
from drtp.rules import permissions
from drtp.rules.permissions import Grants, Wanted

VERB, RESOURCE, SUBRESOURCE = "connect", "drtpservices", "connect"


def user_of(caller: CallerRecord) -> User:
    """The caller as roles know it; an application is its service account."""
    return User(caller.name, caller.uid, caller.groups, frozenset(caller.within))


def account_of(app: CallerRecord) -> tuple[str, str]:
    """(namespace, name) of the service account that an application is."""
    namespace, _, name = app.name.removeprefix(SERVICE_ACCOUNT_PREFIX).partition(":")
    return namespace, name


def shown(caller: CallerRecord) -> str:
    """The name for people and for the local service: a user's, or an application's as `<namespace>/<name>`."""
    return "/".join(account_of(caller)) if caller.kind is CallerKind.APP else caller.name


def may_connect(caller: CallerRecord, namespace: str, name: str, grants: Grants) -> bool:
    """Whether a caller may open connections to a service of this name, be there one or not."""
    user = user_of(caller)
    if user.within and namespace not in user.within:
        return False
    if SYSTEM_MASTERS in user.groups and not user.within and caller.kind is CallerKind.USER:
        return True
    groups = tuple(group for group in user.groups if group != SYSTEM_MASTERS)
    wanted = Wanted(VERB, GROUP, RESOURCE, SUBRESOURCE, namespace, name)
    rules = permissions.rules_for(user._replace(groups=groups), namespace, grants)
    return any(permissions.permits(rule, wanted) for rule in rules)


def wanted_names(wants: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(namespace, name) of each service that a connector asks for; what is no such pair is passed over."""
    for text in wants:
        namespace, _, name = text.partition("/")
        if namespace and name and "/" not in name:
            yield namespace, name
