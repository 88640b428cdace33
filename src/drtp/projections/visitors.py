"""Who visitors of public places are: where they sign in, who is of an organisation, and who is shut out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drtp.api.internal import VISITORS, Account, SignInRecord
from drtp.api.people import RESERVED
from drtp.api.rbac import RoleBinding
from drtp.api.snapshots import Access, Membership, SignInEntry
from drtp.projections import facts
from drtp.projections.cells import Index, Reader, Result, Unit
from drtp.projections.settings import ProjectionSettings
from drtp.rules import asking, entrykeys, permissions
from drtp.rules.catalogue import organization_of


def _organizations(binding: RoleBinding) -> Iterator[str]:
    if permissions.is_of_organization(binding.role_ref):
        yield binding.metadata.namespace


def _shut_out(account: Account) -> Iterator[bool]:
    if account.spec.disabled and not account.spec.name.startswith(RESERVED):
        yield True


def _reinstated(account: Account) -> Iterator[bool]:
    if account.spec.counts_from is not None and not account.spec.disabled:
        yield True


INDEXES = (
    Index(RoleBinding, "organization", _organizations),
    Index(Account, "shut out", _shut_out),
    Index(Account, "reinstated", _reinstated),
)


def sign_in(_unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """Every gateway is told where its visitors sign in, once that is known."""
    record = read.get(SignInRecord, "", VISITORS)
    if record is None:
        return Result()
    spec = record.spec
    entry = SignInEntry(spec.issuer, spec.url, spec.keys, sources=facts.sources([record.metadata]))
    return Result({(gateway.edge, entrykeys.SIGN_IN): entry for gateway in facts.gateways(read)})


def shut_out(read: Reader) -> tuple[str, ...]:
    """Names of users whose accounts are shut, sorted; programs do not sign in."""
    return tuple(sorted(one.spec.name for one in read.indexed(Account, "shut out", True)))


def reinstated(read: Reader) -> dict[str, int]:
    """Users who were let in again: their names -> when, Unix seconds."""
    found = ((one.spec.name, one.spec.counts_from) for one in read.indexed(Account, "reinstated", True))
    return {name: int(since.timestamp()) for name, since in sorted(found) if since is not None}


def memberships(read: Reader, accesses: Iterable[Access]) -> tuple[Membership, ...]:
    """Of every organisation that the lists name: whoever has a role of it, in its own project."""
    named = {name for access in accesses for name in asking.organizations_named(access)}
    found = (_membership(read, name) for name in sorted(named))
    return tuple(one for one in found if one.users or one.groups)


def _membership(read: Reader, organization: str) -> Membership:
    users: set[str] = set()
    groups: set[str] = set()
    if organization_of(read, organization) == organization:
        for binding in read.indexed(RoleBinding, "organization", organization):
            for kind, name in permissions.grantees_of(binding):
                if not name.startswith(RESERVED):  # Such groups hold all who have signed in: nobody is a member by one.
                    (users if kind == "User" else groups).add(name)
    return Membership(organization, tuple(sorted(users)), tuple(sorted(groups)))
