"""Why somebody may pass or not, list by list and rule by rule, by the same decision that enforcement points make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from drtp.api import quotas
from drtp.api.drtp import Action, DRTPAccessPolicy, DRTPService, EnforcementPoint
from drtp.api.meta import Model
from drtp.api.policies import PolicyMode
from drtp.api.snapshots import Access, AccessList
from drtp.rules import access, asking
from drtp.rules.asking import Asking

_ADMITTED = {True: "Yes", False: "No", None: "Unknown"}
OWN = "spec.edgeAllowlist"
DEFAULT = "defaultAction"
ROLES = "roles/connect"
"""What lets a caller in of whom no policy speaks, and without which none does: a role, or the catalogue."""


class RuleTrace(Model, frozen=True):
    """One rule: whether it speaks, and each part that it gives, as `Yes`, `No` or `Unknown`."""

    name: str
    action: str
    speaks: str
    parts: dict[str, str] = {}


class ListTrace(Model, frozen=True, omit_defaults=False):
    """One list that must allow: the service's own, or a policy. `rule` is what spoke."""

    list: str
    mode: str
    decision: str
    rule: str
    rules: tuple[RuleTrace, ...] = ()


class LimitTrace(Model, frozen=True):
    """What one policy or quota leaves at each tunnel server: a connection, or where `together` all of `by`'s project or
    organisation.
    """

    by: str
    together: bool = False
    connections: int | None = None
    connections_per_second: int | None = None
    bytes_per_second: int | None = None


class Explained(Model, frozen=True, omit_defaults=False):
    """`rule` is what decided, as `<list>/<rule>`; `would_refuse` names policies that only count and say no.

    `admitted`: whether a caller may connect where no policy speaks, as `Yes`, `No` or `Unknown`; "" for a visitor.
    `limits` hold for whoever is let in, all of them at once.
    """

    decision: str
    rule: str
    trace: tuple[ListTrace, ...] = ()
    would_refuse: tuple[str, ...] = ()
    admitted: str = ""
    limits: tuple[LimitTrace, ...] = ()


class Question(NamedTuple):
    """Who asks for which service, and what holds there: `missing` are policies that a connection names and nobody has.

    `exposed`: it has a public place, or somebody has asked for one. `admitted`: whether a caller may connect, policies
    aside; None is unknown. `signed_in`: whoever asks is a visitor who has signed in at the public place.
    """

    service: DRTPService
    policies: Sequence[DRTPAccessPolicy]
    asked: Asking
    exposed: bool
    missing: Sequence[str] = ()
    admitted: bool | None = None
    signed_in: bool = False

    @property
    def calls(self) -> bool:
        """Whether it is a caller by `connect`, and not a visitor of a public place."""
        return self.asked.caller is not None and not self.signed_in


class _Named(NamedTuple):
    name: str
    mode: PolicyMode
    one: AccessList
    rules: tuple[str, ...]


def explain(question: Question) -> Explained:
    """The decision of a tunnel server on whoever asks, and how it comes about.

    A caller comes by `connect`, for which the service needs no public place: its own list is of visitors. A visitor may
    have signed in, which takes no role.
    """
    asked, lists = question.asked, list(_lists(question))
    limits = tuple(_limits(question.policies))
    admitted = _ADMITTED[question.admitted] if question.calls else ""
    if not lists:
        action = Action.DENY if question.admitted is False else Action.ALLOW
        return Explained(decision=action.value, rule=ROLES, admitted=admitted, limits=limits)
    verdict = asking.decide(Access(lists=tuple(one.one for one in lists)), asked)
    traces = tuple(_trace(one, asked) for one in lists)
    enforced = [one for one in traces if one.mode == PolicyMode.ENFORCE.value]
    refusing = [one for one in enforced if one.decision == Action.DENY.value]
    spoke = next(iter(refusing), enforced[-1] if enforced else None)
    decision, rule = Action.ALLOW if verdict.allowed else Action.DENY, f"{spoke.list}/{spoke.rule}" if spoke else ""
    if verdict.allowed and question.admitted is False:
        decision, rule = Action.DENY, ROLES
    return Explained(
        decision=decision.value,
        rule=rule,
        admitted=admitted,
        trace=traces,
        would_refuse=tuple(one.list for one in traces if one not in enforced and one.decision == Action.DENY.value),
        limits=limits,
    )


def quota_limits(place: str, name: str, hard: Mapping[str, int]) -> LimitTrace | None:
    """Of a quota `name` in the project `place`; None where POPs hold nothing of it."""
    found = LimitTrace(
        by=f"quota/{place}/{name}",
        together=True,
        connections=hard.get(quotas.STREAMS),
        connections_per_second=hard.get(quotas.NEW_STREAMS),
        bytes_per_second=hard.get(quotas.BYTES),
    )
    return found if found != LimitTrace(by=found.by, together=True) else None


def _limits(policies: Sequence[DRTPAccessPolicy]) -> Iterator[LimitTrace]:
    for policy, limits in access.limiting(policies):
        yield LimitTrace(
            by=f"policy/{policy.metadata.name}",
            connections=limits.connections,
            connections_per_second=limits.connections_per_second,
            bytes_per_second=limits.bytes_per_second,
        )


def _lists(question: Question) -> Iterator[_Named]:
    spec = question.service.spec
    if not question.calls:
        own = access.allowlist(spec.edge_allowlist, exposed=question.exposed, protocol=spec.protocol)
        yield _Named(OWN, PolicyMode.ENFORCE, own, ("edgeAllowlist",))
    for policy in question.policies:
        if access.holds_at(policy, EnforcementPoint.TUNNEL):
            name = f"policy/{policy.metadata.name}"
            rules = tuple(rule.name for rule in policy.spec.rules)
            passed_through = question.calls or access.is_passed_through(question.service)
            own, *of_encryption = access.visitors_lists(policy, passed_through=passed_through)
            yield _Named(name, policy.spec.mode, own, rules)
            for one in of_encryption:
                yield _Named(f"{name}/encryption", policy.spec.mode, one, ())
    for name in question.missing:
        yield _Named(f"policy/{name}", PolicyMode.ENFORCE, access.NOBODY, ())


def _trace(named: _Named, asked: Asking) -> ListTrace:
    judged = asking.judge(named.one, asked)
    clauses, _ = asking.parts(named.one)
    seen = clauses if judged.rule is None else clauses[: judged.rule + 1]
    rules = tuple(
        RuleTrace(
            name=name,
            action=clause.action.value,
            speaks=_word(asking.holds(clause, asked)),
            parts={part.name: _word(part.truth) for part in asking.compared(clause, asked)},
        )
        for name, clause in zip(named.rules, seen, strict=False)
    )
    return ListTrace(
        list=named.name,
        mode=named.mode.value,
        decision=(Action.ALLOW if judged.allowed else Action.DENY).value,
        rule=DEFAULT if judged.rule is None else named.rules[judged.rule],
        rules=rules,
    )


def _word(truth: bool | None) -> str:
    return {True: "Yes", False: "No", None: "Unknown"}[truth]
