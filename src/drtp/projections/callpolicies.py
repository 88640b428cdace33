"""What policies say of callers, and what of it can be told here: who they are, of which organisations, and no more.

Where a caller is, the hour and the carrier are for POPs to know; agents know the hour. So here a caller is let in for
certain, or left for an edge to decide on, or let in by nothing at all.
"""

from __future__ import annotations

from enum import Enum

from drtp.api.drtp import DRTPAccessPolicy, DRTPConnection, DRTPService, EnforcementPoint
from drtp.api.internal import CallerKind, CallerRecord
from drtp.api.rbac import RoleBinding
from drtp.api.snapshots import Access
from drtp.projections import facts
from drtp.projections.cells import Index, Reader
from drtp.rules import access, asking, callers, permissions
from drtp.rules.catalogue import organization_of

MEMBERS = Index(
    RoleBinding,
    "member",
    lambda one: permissions.grantees_of(one) if permissions.is_of_organization(one.role_ref) else (),
)
_OF_EVERYBODY = "system:"
"""Groups that are so called hold all who have signed in: nobody is a member of an organisation by one."""


class Prospect(Enum):
    """What can be said of a caller where its name and organisations are known."""

    CERTAIN = "certain"
    CONDITIONAL = "conditional"
    NONE = "none"


def caller_access(read: Reader, service: DRTPService, found: DRTPConnection) -> Access | None:
    """The lists of the policies on a service and on a connection that tunnel servers hold; None where there is none.

    One that cannot be read, or that nobody has, lets nobody pass.
    """
    if read.unreadable(DRTPAccessPolicy, service.metadata.namespace):
        return Access(lists=(access.NOBODY,))
    named = facts.connection_policies(read, found, service)
    held = (one for one in named if one is None or access.holds_at(one, EnforcementPoint.TUNNEL))
    lists = tuple(access.NOBODY if one is None else access.policy_list(one) for one in held)
    return Access(lists=lists) if lists else None


def prospect(policies: Access | None, caller: asking.Caller) -> Prospect:
    """What becomes of a caller whose address, hour and carrier are not known."""
    known = asking.Asking(now=None, caller=caller)
    if policies is None or asking.decide(policies, known).allowed:
        return Prospect.CERTAIN
    return Prospect.CONDITIONAL if asking.might(policies, known) else Prospect.NONE


def as_asked(read: Reader, policies: Access | None, who: CallerRecord, project: str) -> asking.Caller:
    """A caller of `project` as rules know it; organisations are looked up where a rule asks for them."""
    asks = policies is not None and any(map(_asks_organizations, policies.lists))
    found = _organizations(read, who, project) if asks else ()
    return asking.Caller(who.kind.value, callers.shown(who), found, who.uid)


def _asks_organizations(one: asking.AccessList) -> bool:
    clauses, _ = asking.parts(one)
    return any(clause.organizations or any(name.startswith("org:") for name in clause.principals) for clause in clauses)


def _organizations(read: Reader, who: CallerRecord, project: str) -> tuple[str, ...]:
    """Of the project as whose caller it comes; an application's, of its own project; those that one is a member of."""
    found = {organization_of(read, project)}
    if who.kind is CallerKind.APP:
        found.add(organization_of(read, callers.account_of(who)[0]))
    user = callers.user_of(who)
    groups = (("Group", group) for group in user.groups if not group.startswith(_OF_EVERYBODY))
    for grantee in (("User", user.name), *groups):
        homes = (binding.metadata.namespace for binding in read.indexed(RoleBinding, MEMBERS.name, grantee))
        found |= {home for home in homes if organization_of(read, home) == home}
    return tuple(sorted(found - {""}))
