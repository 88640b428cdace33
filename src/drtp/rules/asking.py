"""One decision: who asks, from where, when and carried by which POP, held against compiled lists.

The native core decides the same (`native/drtp-core/src/access`): shared vectors and a differential of random cases
hold the two together. What is not known is not False: a rule that allows speaks only where every part of it is known
to hold, one that denies wherever no part is known to fail. So nobody gains by hiding something.

Source: decisions 0006, 0048.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from drtp.api.drtp import Action
from drtp.api.snapshots import Access, AccessClause, AccessList, AccessListRule, AccessThrough, PopPlace
from drtp.rules import schedules

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_CIDR = re.compile(r"[0-9A-Fa-f:.]+(/(0|[1-9][0-9]{0,2}))?")
"""A prefix is a number of bits: no netmask, no scope, no leading zero."""
_COUNTRY = re.compile(r"[A-Z]{2}")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class Caller(NamedTuple):
    """Who has shown an identity. `kind` is `user` or `app`; an app's name is `<namespace>/<name>`.

    `perhaps`: organisations that it may be of, for all that is known.
    """

    kind: str
    name: str
    organizations: tuple[str, ...] = ()
    uid: str = ""
    perhaps: tuple[str, ...] = ()

    @property
    def principals(self) -> tuple[str, ...]:
        """Everything a rule may call them."""
        return (f"{self.kind}:{self.name}", *(f"org:{name}" for name in self.organizations))


class Asking(NamedTuple):
    """What is known of who asks; None is unknown. `now` is in Unix seconds."""

    address: str | None = None
    country: str | None = None
    now: int | None = 0
    caller: Caller | None = None
    place: PopPlace | None = None


class Judged(NamedTuple):
    """What one list says. `rule`: which one spoke; None where none did, or the list cannot be read."""

    allowed: bool
    rule: int | None = None


class Verdict(NamedTuple):
    """`would_refuse`: a list that only counts says no."""

    allowed: bool
    would_refuse: bool = False


def decide(access: Access, asking: Asking) -> Verdict:
    """Every list that is enforced must allow, and there must be one list at least."""
    judged = [(one.dry_run, judge(one, asking).allowed) for one in access.lists]
    return Verdict(
        allowed=bool(judged) and all(allowed for dry, allowed in judged if not dry),
        would_refuse=any(dry and not allowed for dry, allowed in judged),
    )


def might(access: Access, asking: Asking) -> bool:
    """Whether somebody of whom this much is known could pass if all else were known, part by part.

    For who knows less than another that decides: never less than what that one allows.
    """
    return bool(access.lists) and all(one.dry_run or _might(one, asking) for one in access.lists)


def _might(one: AccessList, asking: Asking) -> bool:
    if not is_readable(one):
        return False
    clauses, default = parts(one)
    for clause in clauses:
        truth = holds(clause, asking)
        if truth is True or (truth is None and clause.action is Action.ALLOW):
            return clause.action is Action.ALLOW
    return default is Action.ALLOW


def judge(one: AccessList, asking: Asking) -> Judged:
    """The first rule that speaks, else the list's default. A list that cannot be read refuses."""
    if not is_readable(one):
        return Judged(allowed=False)
    clauses, default = parts(one)
    for index, clause in enumerate(clauses):
        truth = holds(clause, asking)
        if truth is True or (truth is None and clause.action is Action.DENY):
            return Judged(clause.action is Action.ALLOW, index)
    return Judged(default is Action.ALLOW)


@lru_cache(maxsize=16_384)
def parts(one: AccessList) -> tuple[tuple[AccessClause, ...], Action]:
    """A list of either form as clauses, and what happens where none speaks."""
    if one.clauses:
        return one.clauses, one.otherwise
    return tuple(AccessClause(action=rule.action, cidrs=rule.cidrs) for rule in one.rules), one.default


@lru_cache(maxsize=16_384)
def is_readable(one: AccessList) -> bool:
    """Whether all of it can be read, and is of one form: an edge that knows no clauses sees a default that denies."""
    clauses, _ = parts(one)
    former = bool(one.rules) or one.default is Action.ALLOW
    return not (former and one.clauses) and all(_is_readable(clause) for clause in clauses)


def _is_readable(clause: AccessClause) -> bool:
    through = clause.through or AccessThrough()
    return (
        all(network(cidr) is not None for cidr in clause.cidrs)
        and all(_COUNTRY.fullmatch(country) for country in (*clause.countries, *through.countries))
        and (clause.schedule is None or schedules.is_readable(clause.schedule))
    )


@lru_cache(maxsize=65_536)
def network(cidr: str) -> Network | None:
    """An address or a network, IPv4 in IPv6 clothes as IPv4; None where it cannot be read.

    Host bits are not forgiven: `10.1.2.3/8` may mean either.
    """
    if not _CIDR.fullmatch(cidr):
        return None
    try:
        found = ipaddress.ip_network(cidr)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):
        low = int(found.network_address) & 0xFFFF_FFFF
        return ipaddress.IPv4Network((low, found.prefixlen - 96))
    return found


# ---- one rule --------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """One part of a rule against what is known: True, False, or None where that cannot be said."""

    name: str
    truth: bool | None


def holds(clause: AccessClause, asking: Asking) -> bool | None:
    """Whether every part holds: False as soon as one is known to fail, None where only unknown ones are left."""
    return both(part.truth for part in compared(clause, asking))


def both(truths: Iterable[bool | None]) -> bool | None:
    """Kleene's conjunction."""
    found = list(truths)
    if False in found:
        return False
    return None if None in found else True


def compared(clause: AccessClause, asking: Asking) -> list[Part]:
    """Each part that the rule gives, in the order of the API's fields."""
    found: list[Part] = []
    if clause.cidrs:
        found.append(Part("clientCIDRs", _address(clause.cidrs, asking.address)))
    if clause.countries:
        found.append(Part("countries", _among(asking.country, clause.countries)))
    if clause.organizations:
        own = asking.caller.organizations if asking.caller else None
        perhaps = asking.caller.perhaps if asking.caller else ()
        found.append(Part("organizations", _any_among(own, clause.organizations, perhaps)))
    if clause.principals:
        own = asking.caller.principals if asking.caller else None
        perhaps = tuple(f"org:{name}" for name in asking.caller.perhaps) if asking.caller else ()
        found.append(Part("principals", _any_among(own, clause.principals, perhaps)))
    if clause.schedule is not None:
        timely = None if asking.now is None else schedules.speaks(clause.schedule, asking.now)
        found.append(Part("schedule", timely))
    if clause.through is not None:
        found.append(Part("through", carried(clause.through, asking.place)))
    return found


def carried(through: AccessThrough, place: PopPlace | None) -> bool | None:
    """Whether a POP at `place` is one of those that may carry the bytes."""
    here = (place.pop, place.region, place.country) if place else (None, None, None)
    wanted = (through.pops, through.regions, through.countries)
    return both(_among(own, names) for own, names in zip(here, wanted, strict=True) if names)


def _among(own: str | None, wanted: tuple[str, ...]) -> bool | None:
    return None if own is None else own in wanted


def _any_among(own: tuple[str, ...] | None, wanted: tuple[str, ...], perhaps: tuple[str, ...]) -> bool | None:
    if own is None or not any(one in wanted for one in own):
        return None if own is None or any(one in wanted for one in perhaps) else False
    return True


def _address(cidrs: tuple[str, ...], written: str | None) -> bool | None:
    visitor = address(written)
    if visitor is None:
        return None
    nets = map(network, cidrs)
    return any(net is not None and net.version == visitor.version and visitor in net for net in nets)


@lru_cache(maxsize=4_096)
def address(written: str | None) -> Address | None:
    """An address as it is compared: IPv4 in IPv6 clothes as IPv4. What cannot be read is unknown."""
    if written is None:
        return None
    try:
        found = ipaddress.ip_address(written)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


# ---- what follows for those who know only a part ---------------------------------------------------------------------


def edge(access: Access, now: int) -> int | None:
    """The next moment after `now` at which a schedule may change the answer. None: no schedule ever does."""
    found = (
        schedules.edge(clause.schedule, now)
        for one in access.lists
        for clause in one.clauses
        if clause.schedule is not None
    )
    return min((moment for moment in found if moment is not None), default=None)


def may_carry(access: Access, place: PopPlace | None) -> bool:
    """Whether anybody at all may pass through a POP at `place`: otherwise it needs no endpoint there."""
    return all(one.dry_run or _may_carry(one, place) for one in access.lists)


def _may_carry(one: AccessList, place: PopPlace | None) -> bool:
    """Whether some rule that allows could speak before a rule that denies everybody there."""
    if not is_readable(one):
        return True  # it refuses everybody everywhere: no place is better than another
    clauses, default = parts(one)
    if all(clause.through is None for clause in clauses):
        return True
    for clause in clauses:
        here = True if clause.through is None else carried(clause.through, place)
        alone = _of_everybody(clause)
        if clause.action is Action.ALLOW and here is True:
            return True
        if clause.action is Action.DENY and here is not False and alone:
            return False
    return default is Action.ALLOW


def _of_everybody(clause: AccessClause) -> bool:
    """Whether it speaks of everybody, whatever they are."""
    return not (clause.cidrs or clause.countries or clause.organizations or clause.principals or clause.schedule)


def by_address(access: Access, now: int) -> Access:
    """What is left for whoever knows the visitor's address and the time alone, as lists of addresses.

    It lets in everybody whom the whole decision might let in, and nobody else whom it can tell: countries and carriers
    are left to the POP, and a visitor at a public place has shown no identity.
    """
    return _left(access, (_by_address(one, now) for one in access.lists if not one.dry_run))


def by_visitor(access: Access, now: int) -> Access:
    """The same for whoever knows, beside address and time, which visitors have signed in and as whom.

    What asks for no identity is left as `by_address` leaves it; else the clauses say addresses and identities.
    """
    held = (one for one in access.lists if not one.dry_run)
    return _left(access, (_by_visitor(one, now) if asks_identity(one) else _by_address(one, now) for one in held))


def _left(access: Access, lists: Iterable[AccessList]) -> Access:
    open_to_all = AccessList(default=Action.ALLOW)
    return Access(lists=tuple(lists) or ((open_to_all,) if access.lists else ()))


def asks_identity(one: AccessList) -> bool:
    """Whether a rule of the list names users, applications or organisations."""
    return any(clause.organizations or clause.principals for clause in one.clauses)


def asks_who(access: Access) -> bool:
    """Whether a rule of any list does."""
    return any(map(asks_identity, access.lists))


def organizations_named(access: Access) -> set[str]:
    """Every organisation that a rule of the lists names."""
    clauses = [clause for one in access.lists for clause in one.clauses]
    named = {name for clause in clauses for name in clause.organizations}
    return named | {name[4:] for clause in clauses for name in clause.principals if name.startswith("org:")}


def _by_visitor(one: AccessList, now: int) -> AccessList:
    if not is_readable(one):
        return AccessList()
    kept = tuple(
        AccessClause(clause.action, clause.cidrs, (), clause.organizations, clause.principals)
        for clause in one.clauses
        if _is_left(clause, now)
    )
    return AccessList(clauses=kept, otherwise=one.otherwise) if kept else AccessList(default=one.otherwise)


def _by_address(one: AccessList, now: int) -> AccessList:
    if not one.clauses:
        return one
    if not is_readable(one):
        return AccessList()
    kept = tuple(
        AccessListRule(clause.action, clause.cidrs)
        for clause in one.clauses
        if _is_left(clause, now) and (clause.action is Action.DENY or not (clause.principals or clause.organizations))
    )
    return AccessList(default=one.otherwise, rules=kept)


def _is_left(clause: AccessClause, now: int) -> bool:
    """Whether it still speaks where countries and carriers are unknown: one that denies must name none."""
    timely = clause.schedule is None or schedules.speaks(clause.schedule, now)
    if clause.action is Action.ALLOW:
        return timely is True
    return timely is not False and not (clause.countries or clause.through)
