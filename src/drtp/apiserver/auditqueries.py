"""Posted `AuditQuery` and `ClusterAuditQuery`: which audit lines one asks for, and a look at the whole chain.

In a project one reads what concerns that project; in the cluster, everything. Lines come as they were written, so that
their hashes can be computed again.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from drtp.api.audit import LINES_MAX, START, AuditWanted, Order, Verdict
from drtp.api.jsonvalue import JsonObject, is_object
from drtp.api.meta import Model
from drtp.apiserver.failures import Failure
from drtp.issuers.audit import AuditLog
from drtp.issuers.trail import Look
from drtp.kit.clock import Clock

LINES = 100
HEADS_MAX = 100
FRESH_S, PROJECTS_FRESH_S = 5.0, 600.0
"""So old may a look at all lines be, for the operator and for projects; what was written since is looked at each time.
Half a gigabyte takes seconds of a core, which must not be any tenant's to take.
"""


class _Asked(Model, frozen=True):
    """`spec`. `verify`: look at the whole chain too, where `heads` must be found."""

    wanted: AuditWanted = AuditWanted()
    order: Order = Order.NEWEST
    limit: int = LINES
    after: str = ""
    verify: bool = False
    heads: tuple[str, ...] = ()


class AuditQueries:
    """Answers them, one look through the files at a time."""

    def __init__(self, audit: AuditLog, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._looking = asyncio.Lock()
        self._look: Look | None = None
        self._whole_s = -PROJECTS_FRESH_S

    async def answer(self, body: JsonObject, namespace: str, project_uid: str) -> JsonObject:
        """The posted object with its status; `namespace` "" is the cluster. Raises: Failure 422, NotFound DRTP-2042."""
        asked = _asked(body)
        async with self._looking:
            page = await asyncio.to_thread(
                self._audit.trail.page,
                asked.wanted,
                seen_by=project_uid,
                order=asked.order,
                limit=asked.limit,
                after=asked.after,
            )
            status: JsonObject = {"lines": [msgspec.Raw(line) for line in page.lines], "next": page.next}
            if asked.verify:
                verdict = await self._verified(frozenset(asked.heads), PROJECTS_FRESH_S if namespace else FRESH_S)
                status["verdict"] = msgspec.to_builtins(_for_project(verdict) if namespace else verdict)
        metadata = {"namespace": namespace} if namespace else {}
        return body | {"metadata": metadata, "status": status}

    async def _verified(self, heads: frozenset[str], whole_within_s: float) -> Verdict:
        """By a look at everything that is no older than this, and at whatever was written since."""
        now = self._clock.monotonic()
        # What this process has written and remembers must be there: files that were written anew show by it.
        own = self._audit.head
        before = self._look if now - self._whole_s < whole_within_s else None
        if before is None:
            self._whole_s = now
        self._look = await asyncio.to_thread(self._audit.trail.look, before)
        verdict = self._look.verdict({*heads, own})
        if own in verdict.missing:
            fault = "the newest line that this control plane wrote is not there"
            left = tuple(head for head in verdict.missing if head != own or own in heads)
            verdict = msgspec.structs.replace(verdict, sound=False, fault=fault, missing=left)
        return verdict


def _for_project(verdict: Verdict) -> Verdict:
    """Without what tells of others: how much is written, and where."""
    return msgspec.structs.replace(verdict, lines=0, fault="a line does not hold" if verdict.fault else "")


def _asked(body: JsonObject) -> _Asked:
    given: Any = body.get("spec")
    spec: JsonObject = given if is_object(given) else {}
    known = {"wanted", "order", "limit", "after", "verify", "heads"}
    if unknown := sorted(spec.keys() - known):
        raise Failure(422, "DRTP-1010", f"spec.{unknown[0]}: Invalid value: only {', '.join(sorted(known))}")
    try:
        asked = msgspec.convert(spec, _Asked)
    except msgspec.ValidationError as error:
        raise Failure(422, "DRTP-1010", f"spec: Invalid value: {error}") from None
    if not 0 <= asked.limit <= LINES_MAX:
        raise Failure(422, "DRTP-1010", f"spec.limit: Invalid value: must be between 0 and {LINES_MAX}")
    times = (asked.wanted.since, asked.wanted.until)
    if any(time is not None and time.tzinfo is None for time in times):
        raise Failure(422, "DRTP-1010", "spec.wanted: Invalid value: times need an offset, such as Z")
    marks = (*asked.heads, *((asked.after,) if asked.after else ()))
    if len(asked.heads) > HEADS_MAX or not all(_is_hash(mark) for mark in marks):
        raise Failure(
            422, "DRTP-1010", f"spec: Invalid value: at most {HEADS_MAX} heads; a hash is {len(START)} digits"
        )
    return asked


def _is_hash(text: str) -> bool:
    return len(text) == len(START) and all(digit in "0123456789abcdef" for digit in text)
