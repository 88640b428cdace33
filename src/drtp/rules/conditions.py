"""Conditions as Kubernetes keeps them: a transition time that moves only when the status does.

`Unknown` is the word for "nobody has reported": it never overwrites a conclusion that was drawn before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from drtp.api.meta import Condition, ConditionStatus
from drtp.api.reasons import Aspect, Reason

MESSAGE_MAX = 2048
"""Characters: a message may name every place of a service, and an object whose condition is too long is unreadable."""

TRUE = ConditionStatus.TRUE
FALSE = ConditionStatus.FALSE
UNKNOWN = ConditionStatus.UNKNOWN


class Conclusion(NamedTuple):
    """What a rule found, before it meets what was known. `reason` is a Reason, or was read from a status."""

    type: Aspect
    status: ConditionStatus
    reason: str
    message: str = ""


def yes(kind: Aspect, reason: Reason, message: str = "") -> Conclusion:
    """A condition that holds."""
    return Conclusion(kind, TRUE, reason, message)


def no(kind: Aspect, reason: Reason, message: str = "") -> Conclusion:
    """A condition that does not hold."""
    return Conclusion(kind, FALSE, reason, message)


def unknown(kind: Aspect, reason: Reason, message: str = "") -> Conclusion:
    """Nobody has reported."""
    return Conclusion(kind, UNKNOWN, reason, message)


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type."""
    return next((one for one in conditions if one.type == kind), None)


def holds(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of that type is True."""
    found = find(conditions, kind)
    return found is not None and found.status is TRUE


def merge(
    previous: Sequence[Condition], conclusions: Iterable[Conclusion], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The new list: exactly the types concluded, in that order.

    An Unknown conclusion keeps an earlier True or False as it was, its `observedGeneration` included.
    """
    merged: list[Condition] = []
    for one in conclusions:
        before = find(previous, one.type)
        if one.status is UNKNOWN and before is not None and before.status is not UNKNOWN:
            merged.append(before)
            continue
        same = before is not None and before.status is one.status
        merged.append(
            Condition(
                type=str(one.type),
                status=one.status,
                reason=str(one.reason),
                message=one.message if len(one.message) <= MESSAGE_MAX else f"{one.message[: MESSAGE_MAX - 2]} …",
                last_transition_time=before.last_transition_time if same and before else now.replace(microsecond=0),
                observed_generation=generation,
            )
        )
    return tuple(merged)
