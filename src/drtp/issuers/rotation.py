"""Rotation of the authority: from one root to the next while everybody works, a step at a time.

    STANDBY -> INIT             the next root is made; edges learn to trust both
            -> UPDATE CLIENTS   edges and people get certificates under the next
            -> UPDATE SERVERS   so do the control plane's own doors
            -> STANDBY          the former root is trusted no more

A step is one conditional write to the store, and everything follows from what is stored: a restart goes on where it
stopped. A step is taken when every edge whose certificate has not ended has what the next state needs; `force` takes it
without. The former root vouches for the next for a while after it is gone, which is how secrets, contexts and edges
that were away find their way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from prometheus_client import Enum as StateMetric
from prometheus_client import Gauge

from drtp.api.feed import EdgeRole
from drtp.api.internal import EDGE_IDENTITY, AuthorityRecord, AuthoritySpec, EdgeIdentity, RotationPhase
from drtp.api.meta import ObjectMeta
from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority
from drtp.issuers.certificates import Usage
from drtp.issuers.records import as_object, find
from drtp.kit.clock import Clock
from drtp.kit.errors import Conflict, DrtpError, Refused
from drtp.kit.latest import Latest
from drtp.kit.observe import REGISTRY, logger
from drtp.store.protocol import AlreadyExists, Store, Stored

log = logger("rotation")

NAME = "identity"
HOLD = timedelta(hours=24)
"""No secret lasts longer, so at the doors' change none is left that knows the former root alone and is still good."""
GRACE = timedelta(days=8)
"""Edges that were away renew within seven days of their certificate's end."""
USERS_SHARE = 3
"""Of the hold, a part after the doors' change as well: people's certificates of before last eight of 24 hours."""
SETTLE = timedelta(seconds=2)
"""Between two steps at least: what was reported as in force is in force on every socket by then."""
CHECK_S = 1.0
CHECK_SHARE = 20
"""Of the time between two looks, a part for the look."""
VOUCH_EVERY_S = 3600.0
ATTEMPTS = 5

_PHASE = StateMetric(
    "drtp_authority_rotation",
    "The phase of the root's rotation.",
    states=[phase.value for phase in RotationPhase],
    registry=REGISTRY,
)
_BEHIND = Gauge(
    "drtp_authority_rotation_behind", "Edges that the next step of the rotation waits for.", registry=REGISTRY
)


@dataclass(frozen=True, slots=True)
class Behind:
    """An edge that is waited for, and why."""

    uid: str
    role: EdgeRole
    name: str
    until: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the next step waits for. `not_before`: the time that people and secrets are given."""

    behind: tuple[Behind, ...]
    not_before: datetime | None

    def ready(self, now: datetime) -> bool:
        """Whether the step may be taken."""
        return not self.behind and (self.not_before is None or now >= self.not_before)


def following(state: AuthoritySpec, now: datetime) -> AuthoritySpec:
    """The state after the next step."""
    match state.phase:
        case RotationPhase.INIT:
            return msgspec.structs.replace(state, phase=RotationPhase.CLIENTS, since=now)
        case RotationPhase.CLIENTS:
            return msgspec.structs.replace(state, phase=RotationPhase.SERVERS, since=now)
        case RotationPhase.SERVERS:
            vouching = {number: until for number, until in state.retired.items() if until > now}
            if state.grace_s and state.active not in state.abandoned:
                vouching |= {str(state.active): now + timedelta(seconds=state.grace_s)}
            return AuthoritySpec(
                active=state.next, since=now, retired=vouching, floors=state.floors, abandoned=state.abandoned
            )
        case RotationPhase.STANDBY:
            return state


def returning(state: AuthoritySpec, now: datetime) -> AuthoritySpec:
    """The way back: the former root issues for all at once, and the next is the one to be left, for good."""
    back = {"active": state.next, "next": state.active, "phase": RotationPhase.SERVERS, "since": now, "hold_s": 0}
    left = tuple(sorted({*state.abandoned, state.next} - {state.active}))
    return msgspec.structs.replace(state, abandoned=left, **back)


def outlook(
    state: AuthoritySpec, edges: Iterable[EdgeIdentity], authority: Authority, digest: str, now: datetime
) -> Outlook:
    """What the step after `state` waits for. `digest`: of the roots that edges are told to trust."""
    behind = [one for edge in edges if (one := _behind(state, edge, authority, digest, now)) is not None]
    return Outlook(tuple(behind), _not_before(state))


def _not_before(state: AuthoritySpec) -> datetime | None:
    hold = timedelta(seconds=state.hold_s)
    match state.phase:
        case RotationPhase.CLIENTS if state.begun:
            earliest = state.begun + hold
        case RotationPhase.SERVERS if state.since:
            earliest = state.since + hold / USERS_SHARE
        case _:
            earliest = state.since
    settled = state.since + SETTLE if state.since else None
    return max(earliest, settled) if earliest and settled else settled


def _behind(
    state: AuthoritySpec, edge: EdgeIdentity, authority: Authority, digest: str, now: datetime
) -> Behind | None:
    spec = edge.spec
    if spec.denied or spec.not_after is None or spec.not_after <= now:
        return None
    why = ""
    if spec.bundle != digest:
        why = "has not said that it trusts both roots"
    elif state.phase is not RotationPhase.INIT and not authority.is_current(
        Usage(spec.role.value), spec.certificate_pem
    ):
        why = "has no certificate under the next root"
    elif state.phase is not RotationPhase.INIT and spec.used_generation < spec.generation:
        why = "has not come with its new certificate"
    name = spec.edge_name or ", ".join(f"{bound.namespace}/{bound.name}" for bound in spec.bound[:3])
    return Behind(edge.metadata.name, spec.role, name, spec.not_after, why) if why else None


class Rotation:
    """The one writer of the authority's state."""

    def __init__(self, store: Store, authority: Authority, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._authority = authority
        self._audit = audit
        self._clock = clock
        self.changed: Latest[AuthoritySpec] = Latest()
        """What is in force; the doors follow it."""

    async def load(self) -> None:
        """Follow what is stored; before anything is issued. Raises: Terminal DRTP-2044."""
        held = await find(self._store, AuthorityRecord, NAME)
        if held is None:
            made = AuthorityRecord(metadata=ObjectMeta(name=NAME), spec=AuthoritySpec())
            try:
                await self._store.create(as_object(made))
            except AlreadyExists:
                return await self.load()
        self._follow(held.record.spec if held else AuthoritySpec())
        return None

    async def run(self) -> None:
        """Take each step when its time has come, until cancelled."""
        vouched, pause_s = self._clock.monotonic(), CHECK_S
        while True:
            await self._clock.sleep(pause_s)
            began = self._clock.monotonic()
            try:
                await self._check()
            except DrtpError as error:
                log.warning("rotation waits", code=error.code, reason=error.what)
            # Among ten thousand edges a look takes about a second.
            pause_s = max(CHECK_S, CHECK_SHARE * (self._clock.monotonic() - began))
            if self._clock.monotonic() - vouched > VOUCH_EVERY_S:
                vouched = self._clock.monotonic()
                self._authority.follow(self._authority.state)

    async def _check(self) -> None:
        state = self._authority.state
        if state.phase is RotationPhase.STANDBY:
            _BEHIND.set(0)
            return
        seen = await self.outlook()
        _BEHIND.set(len(seen.behind))
        if seen.ready(self._clock.now()):
            await self._change("authority rotation advanced", self._step_from(state))

    async def outlook(self) -> Outlook:
        """What the next step waits for."""
        listing = await self._store.list(EDGE_IDENTITY)
        offer = self._authority.offer.value
        digest, state, now = offer.digest if offer else "", self._authority.state, self._clock.now()
        # In a thread: every certificate is read.
        return await asyncio.to_thread(outlook, state, _records(listing.items), self._authority, digest, now)

    async def begin(self, by: str, *, hold: timedelta = HOLD, grace: timedelta = GRACE) -> AuthoritySpec:
        """Begin a rotation of the root. `grace` 0: the former root, once gone, vouches for nothing.

        Raises: Conflict DRTP-2045.
        """
        if self._authority.state.phase is not RotationPhase.STANDBY:
            raise Conflict("DRTP-2045")
        number = self._authority.new_root()
        now = self._clock.now()
        facts = {"next": number, "phase": RotationPhase.INIT, "begun": now, "since": now}
        spans = {"hold_s": int(hold.total_seconds()), "grace_s": int(grace.total_seconds())}

        def begun(held: AuthoritySpec) -> AuthoritySpec:
            if held.phase is not RotationPhase.STANDBY:
                raise Conflict("DRTP-2045")
            return msgspec.structs.replace(held, **facts, **spans)

        return await self._change("authority rotation begun", begun, by=by)

    async def renew_intermediates(self, by: str) -> AuthoritySpec:
        """New intermediates for every usage, at once; edges replace their certificates. Raises: Conflict DRTP-2045."""

        def raised(held: AuthoritySpec) -> AuthoritySpec:
            if held.phase is not RotationPhase.STANDBY:
                raise Conflict("DRTP-2045")
            return msgspec.structs.replace(held, floors=self._authority.next_floors())

        return await self._change("authority intermediates rotated", raised, by=by)

    async def step(self, by: str, *, force: bool) -> AuthoritySpec:
        """Take the next step now. Raises: Conflict DRTP-2046; Refused DRTP-2047 unless it is due or forced."""
        state = self._authority.state
        if state.phase is RotationPhase.STANDBY:
            raise Conflict("DRTP-2046")
        seen = await self.outlook()
        if not force and not seen.ready(self._clock.now()):
            raise Refused("DRTP-2047", _waits(seen))
        event = "authority rotation forced" if force else "authority rotation advanced"
        return await self._change(event, self._step_from(state), by=by)

    async def roll_back(self, by: str) -> AuthoritySpec:
        """Return to the former root. Raises: Conflict DRTP-2046."""

        def back(held: AuthoritySpec) -> AuthoritySpec:
            if held.phase is RotationPhase.STANDBY:
                raise Conflict("DRTP-2046")
            return returning(held, self._clock.now())

        return await self._change("authority rotation rolled back", back, by=by)

    def _step_from(self, seen: AuthoritySpec) -> Callable[[AuthoritySpec], AuthoritySpec | None]:
        """The step that was judged with `seen`; none if somebody else has changed the state since."""
        return lambda held: following(held, self._clock.now()) if _same(held, seen) else None

    async def _change(
        self, event: str, change: Callable[[AuthoritySpec], AuthoritySpec | None], by: str = "control plane"
    ) -> AuthoritySpec:
        """Write one step, durably, and then follow it; `change` gives None where there is nothing to do any more."""
        for _ in range(ATTEMPTS):
            held = await find(self._store, AuthorityRecord, NAME)
            if held is None:
                raise Conflict("DRTP-1003")
            wanted = change(held.record.spec)
            if wanted is None:
                return held.record.spec
            try:
                await self._store.update(held.replaced(wanted))
            except Conflict:
                continue
            self._audit.write(
                event, phase=wanted.phase.value, active=wanted.active, next=wanted.next, by=by, decision="allowed"
            )
            self._follow(wanted)
            return wanted
        raise Conflict("DRTP-1003")

    def _follow(self, state: AuthoritySpec) -> None:
        self._authority.follow(state)
        _PHASE.state(state.phase.value)
        self.changed.set(state)
        log.info("authority follows", phase=state.phase.value, active=state.active, next=state.next)


def _records(items: Iterable[Stored]) -> Iterable[EdgeIdentity]:
    return (msgspec.json.decode(stored.raw, type=EdgeIdentity) for stored in items)


def _same(held: AuthoritySpec, seen: AuthoritySpec) -> bool:
    return (held.phase, held.active, held.next) == (seen.phase, seen.active, seen.next)


def _waits(seen: Outlook) -> str:
    named = ", ".join(f"{one.role.value} {one.name or one.uid}" for one in seen.behind[:5])
    more = f" and {len(seen.behind) - 5} more" if len(seen.behind) > 5 else ""
    edges = f"Behind: {named}{more}. " if seen.behind else ""
    until = f"Not before {seen.not_before:%Y-%m-%d %H:%M:%S} UTC." if seen.not_before else ""
    return f"{edges}{until}".strip() or "The step is not due."
