"""Why somebody may pass or not, list by list and rule by rule, by the same decision that enforcement points make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from drtp.api.drtp import Action, DRTPAccessPolicy, DRTPService, EnforcementPoint
from drtp.api.meta import Model
from drtp.api.policies import PolicyMode
from drtp.api.snapshots import Access, AccessList
from drtp.rules import access, asking
from drtp.rules.asking import Asking

OWN = "spec.edgeAllowlist"
DEFAULT = "defaultAction"


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


class Explained(Model, frozen=True, omit_defaults=False):
    """`rule` is what decided, as `<list>/<rule>`; `would_refuse` names policies that only count and say no."""

    decision: str
    rule: str
    trace: tuple[ListTrace, ...] = ()
    would_refuse: tuple[str, ...] = ()


class _Named(NamedTuple):
    name: str
    mode: PolicyMode
    one: AccessList
    rules: tuple[str, ...]


def explain(service: DRTPService, policies: Sequence[DRTPAccessPolicy], asked: Asking, *, exposed: bool) -> Explained:
    """The decision of a tunnel server on whoever asks, and how it comes about.

    A caller who has shown an identity comes by `connect`, for which the service needs no public place: then its own
    list speaks only where there is one.
    """
    lists = list(_lists(service, policies, asked, exposed=exposed))
    verdict = asking.decide(Access(lists=tuple(one.one for one in lists)), asked)
    traces = tuple(_trace(one, asked) for one in lists)
    enforced = [one for one in traces if one.mode == PolicyMode.ENFORCE.value]
    refusing = [one for one in enforced if one.decision == Action.DENY.value]
    spoke = next(iter(refusing), enforced[-1] if enforced else None)
    return Explained(
        decision=(Action.ALLOW if verdict.allowed else Action.DENY).value,
        rule=f"{spoke.list}/{spoke.rule}" if spoke else "",
        trace=traces,
        would_refuse=tuple(one.list for one in traces if one not in enforced and one.decision == Action.DENY.value),
    )


def _lists(service: DRTPService, policies: Sequence[DRTPAccessPolicy], asked: Asking, *, exposed: bool) -> list[_Named]:
    cidrs = service.spec.edge_allowlist
    found: list[_Named] = []
    held = [one for one in policies if access.holds_at(one, EnforcementPoint.TUNNEL)]
    if asked.caller is None or cidrs is not None or not held:
        own = access.allowlist(cidrs, exposed=exposed, protocol=service.spec.protocol)
        found.append(_Named(OWN, PolicyMode.ENFORCE, own, ("edgeAllowlist",)))
    for policy in held:
        name = f"policy/{policy.metadata.name}"
        rules = tuple(rule.name for rule in policy.spec.rules)
        found.append(_Named(name, policy.spec.mode, access.policy_list(policy), rules))
    return found


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
