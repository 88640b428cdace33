"""The form of advice about conditions: topics, and what a reason means. The words are in `rules/advice.py`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from drtp.api.meta import ConditionStatus
from drtp.api.reasons import Aspect, Reason


class Speaks(Enum):
    """When an Event tells of a reason that is no good news."""

    ALWAYS = "from the first time"
    LATER = "unless the object began with it"
    NEVER = "never: it passes by itself"


class Advice(NamedTuple):
    """One reason. `on`: the kinds that have it; `look`: commands to run; `code`: the page of its error code."""

    on: tuple[str, ...]
    meaning: str
    remedy: str = ""
    look: tuple[str, ...] = ()
    code: str = ""
    speaks: Speaks = Speaks.ALWAYS


class Topic(NamedTuple):
    """One aspect. `good`: the status that nobody has to act on; `passes_on`: aspects whose reasons it repeats."""

    meaning: str
    reasons: Mapping[Reason, Advice]
    look: tuple[str, ...]
    good: ConditionStatus = ConditionStatus.TRUE
    passes_on: tuple[Aspect, ...] = ()
