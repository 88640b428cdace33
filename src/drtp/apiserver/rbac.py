"""The one `Authoriser`: Kubernetes' RBAC over an index of roles and bindings, which the View keeps.

Decides from names alone, before anything is looked up, so that what one may not read is refused whether it
exists or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Sequence

from drtp.api.core import Namespace, home_of
from drtp.api.people import AUTHENTICATED, SYSTEM_MASTERS, Decision, User
from drtp.api.rbac import ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef
from drtp.kit.errors import Refused, Retryable
from drtp.rules import permissions
from drtp.rules.permissions import Grantee, Wanted, grantees_of
from drtp.store.view import View

VISIBLE_WITHIN_S = 2.0
"""How long an answer to a change of roles waits for the index; after that the change holds a moment later."""

_ADMIN = RoleRef(kind="ClusterRole", name="admin")
"""What an administrator's narrowed token has in its namespaces."""

NARROW = "the token allows less than its user may"
"""Why somebody is refused who would not be with what they have besides."""


class Rbac:
    """Roles and bindings as a followed View has them."""

    def __init__(self, view: View) -> None:
        self._view = view
        view.add_index(RoleBinding, "grantee", lambda one: ((one.metadata.namespace, *who) for who in grantees_of(one)))
        view.add_index(ClusterRoleBinding, "grantee", grantees_of)

    # ---- the seam --------------------------------------------------------------------------------------------------

    def decide(  # noqa: PLR0917 - the seam's attributes
        self, user: User, verb: str, group: str, resource: str, subresource: str, namespace: str, name: str
    ) -> Decision:
        """As `Authoriser.decide`."""
        wanted = Wanted(verb, group, resource, subresource, namespace, name)
        if any(permissions.permits(rule, wanted) for rule in self.rules_for(user, namespace)):
            return Decision(True)
        if user.within or user.read_only:
            whole = user._replace(within=frozenset(), read_only=False)
            if any(permissions.permits(rule, wanted) for rule in self.rules_for(whole, namespace)):
                return Decision(False, NARROW)
        return Decision(False)

    def reaches(self, user: User, verb: str, path: str) -> Decision:
        """Whether `user` may read the document at `path`."""
        return Decision(any(permissions.permits_path(rule, verb, path) for rule in self.rules_for(user, "")))

    def rules_for(self, user: User, namespace: str) -> Iterator[PolicyRule]:
        """Every rule that holds for `user` in `namespace`; "" is the cluster."""
        if not user.read_only:
            return self._rules_for(user, namespace)
        anybody = permissions.rules_for(User("", groups=(AUTHENTICATED,)), "", self)
        return permissions.reading(itertools.chain(self._rules_for(user, namespace), anybody))

    def _rules_for(self, user: User, namespace: str) -> Iterator[PolicyRule]:
        if user.within and namespace not in user.within:
            yield from permissions.rules_for(User("", groups=(AUTHENTICATED,)), "", self)
            return
        if SYSTEM_MASTERS in user.groups:
            if not user.within:
                yield from permissions.EVERYTHING
                return
            # A narrowed token of an administrator is no administrator's.
            yield from permissions.rules_behind(_ADMIN, namespace, self)
            user = user._replace(groups=tuple(group for group in user.groups if group != SYSTEM_MASTERS))
        yield from permissions.rules_for(user, namespace, self)

    def check_grant(self, user: User, namespace: str, rules: Sequence[PolicyRule], *, tell: bool = True) -> None:
        """Nobody gives what they do not hold. `tell`: the caller may know what is in the rules. Raises: Refused."""
        self._check(user, permissions.lacking(self.rules_for(user, namespace), rules), tell=tell)

    def check_role(self, user: User, namespace: str, reference: RoleRef, *, tell: bool = True) -> None:
        """Whether `user` may give this role here: they hold it wherever it would hold. Raises: Refused.

        A role that is not there may be made later by somebody who holds more: a binding would give it unseen.
        """
        rules = tuple(self.rules_behind(reference, namespace)) or permissions.EVERYTHING
        self.check_grant(user, namespace, rules, tell=tell)
        if permissions.is_of_organization(reference) and self.home_of(namespace) == namespace:
            if SYSTEM_MASTERS in user.groups and not user.within:
                return
            held = () if user.within else permissions.rules_across(user, namespace, self)
            self._check(user, permissions.lacking(held, rules), tell=tell)

    def check_acting_as(self, user: User, other: User) -> None:
        """Whether `user` holds all that bindings give to `other`, wherever they are. Raises: Refused DRTP-1030."""
        grantees = {("User", other.name), *(("Group", group) for group in other.groups if group != AUTHENTICATED)}
        for grantee in grantees:
            for binding in self.given_everywhere(grantee):
                self.check_grant(user, "", self.rules_behind(binding.role_ref, ""), tell=False)
        for one in self._view.list(RoleBinding):
            if not grantees.isdisjoint(grantees_of(one)) and self.rules_behind(one.role_ref, one.metadata.namespace):
                self.check_role(user, one.metadata.namespace, one.role_ref, tell=False)

    def _check(self, user: User, missing: Sequence[PolicyRule], *, tell: bool) -> None:
        if not missing:
            return
        told = "; ".join(_told(rule) for rule in missing[:4])
        more = f"; and {len(missing) - 4} more" if len(missing) > 4 else ""
        what = f": {told}{more}" if tell else ""
        raise Refused("DRTP-1030", f'User "{user.name}" does not hold all that this would give{what}.')

    def rules_behind(self, reference: RoleRef, namespace: str) -> Sequence[PolicyRule]:
        """What a binding in `namespace` to this role would give."""
        return permissions.rules_behind(reference, namespace, self)

    async def reached(self, revision: int) -> None:
        """Wait until changes up to `revision` are decided by, so that who was told of a change finds it in force."""
        with contextlib.suppress(Retryable):
            await self.caught_up(revision)

    async def caught_up(self, revision: int) -> None:
        """As `reached`. Raises: Retryable DRTP-1021 if the index is behind for longer."""
        try:
            async with asyncio.timeout(VISIBLE_WITHIN_S):
                await self._view.reached(revision)
        except TimeoutError:
            raise Retryable("DRTP-1021", "The index of roles is behind.") from None

    # ---- where roles are found -------------------------------------------------------------------------------------

    def given_in(self, namespace: str, grantee: Grantee) -> Sequence[RoleBinding]:
        """As `Grants`."""
        return self._view.indexed(RoleBinding, "grantee", (namespace, *grantee))

    def given_everywhere(self, grantee: Grantee) -> Sequence[ClusterRoleBinding]:
        """As `Grants`."""
        return self._view.indexed(ClusterRoleBinding, "grantee", grantee)

    def role(self, namespace: str, name: str) -> Role | None:
        """As `Grants`."""
        return self._view.get(Role, namespace, name)

    def cluster_role(self, name: str) -> ClusterRole | None:
        """As `Grants`."""
        return self._view.get(ClusterRole, "", name)

    def cluster_roles(self) -> Sequence[ClusterRole]:
        """As `Grants`."""
        return self._view.list(ClusterRole)

    def home_of(self, namespace: str) -> str:
        """As `Grants`."""
        return home_of(self._project(namespace), self._project)

    def _project(self, name: str) -> Namespace | None:
        return self._view.get(Namespace, "", name)


def _told(rule: PolicyRule) -> str:
    """A rule in a few words; names in it are the caller's own."""
    what = rule.non_resource_urls or [
        f"{resource}.{group}" if group else resource for group in rule.api_groups for resource in rule.resources
    ]
    names = f" named {', '.join(rule.resource_names[:4])}" if rule.resource_names else ""
    return f"{', '.join(rule.verbs[:8])} {', '.join(what[:8])}{names}"
