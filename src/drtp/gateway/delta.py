"""One delta ADS stream as a state machine: requests in, the next response out. It does no I/O and owns no clock.

Rules, each learnt from the real Envoy: one response in flight for each kind; the first answer to a wildcard is given
even if empty; unknown names are answered as removed; the endpoints of a cluster go out again whenever the cluster
does; removals wait until whatever referred to them has been acknowledged; a refusal is partial and names the bad ones,
and where it names none, the suspects are sent again one by one.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from drtp.gateway.protos import DiscoveryRequest, DiscoveryResponse
from drtp.gateway.resources import Kind, Ref, Resource, Resources

DEPENDENTS_WAIT_S = 0.1
"""Listeners and routes wait this long at most for their clusters: one that warms must not hold up others."""

_REFERRED_BY = {
    Kind.SECRET: (Kind.CLUSTER, Kind.LISTENER),
    Kind.CLUSTER: (Kind.LISTENER, Kind.ROUTES),
    Kind.ENDPOINTS: (Kind.LISTENER, Kind.ROUTES, Kind.CLUSTER),
    Kind.EXTENSION: (Kind.LISTENER,),
    Kind.LISTENER: (),
    Kind.ROUTES: (Kind.LISTENER,),
}
_WAITS_FOR = {Kind.LISTENER: (Kind.CLUSTER, Kind.ENDPOINTS), Kind.ROUTES: (Kind.CLUSTER, Kind.ENDPOINTS)}
_KINDS = {kind.value: kind for kind in Kind}


class Verdict(msgspec.Struct, frozen=True):
    """What Envoy said of one version of one resource. `error` None: it took it; `version` "": it let go of it."""

    ref: Ref
    version: str
    error: str | None = None


class _InFlight(msgspec.Struct, frozen=True):
    nonce: str
    sent: dict[str, str]
    removed: tuple[str, ...]
    since_s: float


class _Subscription:
    """One kind on one stream: what Envoy asked for, holds, refused, and has not answered yet."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.started = False
        self.owed_first = False
        self.names: set[str] = set()
        self.unanswered: set[str] = set()
        self.held: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.again: set[str] = set()
        self.alone: list[str] = []
        self.in_flight: _InFlight | None = None
        self._looked: tuple[Mapping[str, Resource], list[Resource], list[str]] | None = None

    def touch(self) -> None:
        """Something above has changed: look again."""
        self._looked = None

    def wants(self, resources: Mapping[str, Resource]) -> dict[str, Resource]:
        """What Envoy asked for of what there is."""
        if self.kind.wildcard:
            return dict(resources)
        return {name: resources[name] for name in self.names if name in resources}

    def stale(self, resources: Mapping[str, Resource]) -> list[Resource]:
        """What must be sent: changed and not refused in this very version, or asked for again."""
        return self._look(resources)[1]

    def gone(self, resources: Mapping[str, Resource]) -> list[str]:
        """What Envoy holds, or asked for, and there is not."""
        return self._look(resources)[2]

    def _look(self, resources: Mapping[str, Resource]) -> tuple[Mapping[str, Resource], list[Resource], list[str]]:
        """Both answers, kept until the resources or the subscription change: there may be thousands."""
        if self._looked is None or self._looked[0] is not resources:
            self._looked = (resources, self._stale(resources), self._gone(resources))
        return self._looked

    def _stale(self, resources: Mapping[str, Resource]) -> list[Resource]:
        found: list[Resource] = []
        for name, resource in self.wants(resources).items():
            changed = resource.version not in (self.held.get(name), self.refused.get(name))
            if changed or name in self.again:
                found.append(resource)
        return found

    def _gone(self, resources: Mapping[str, Resource]) -> list[str]:
        candidates = set(self.held) if self.kind.wildcard else (set(self.held) & self.names) | self.unanswered
        return [name for name in candidates if name not in resources]

    def settled(self, resources: Mapping[str, Resource]) -> bool:
        """Nothing in flight and nothing to send or take back."""
        return self.in_flight is None and not (self.started and (self.stale(resources) or self.gone(resources)))


class DeltaStream:
    """The state of one connected Envoy."""

    def __init__(self) -> None:
        self._subscriptions = {kind: _Subscription(kind) for kind in Kind}
        self._nonce = 0

    def receive(self, request: DiscoveryRequest) -> list[Verdict]:
        """Take one request; gives the verdicts it carries. A kind we do not serve is ignored."""
        kind = _KINDS.get(request.type_url)
        if kind is None:
            return []
        subscription = self._subscriptions[kind]
        subscription.touch()
        verdicts: list[Verdict] = []
        if not subscription.started:
            subscription.started = True
            subscription.owed_first = kind.wildcard
            subscription.held = dict(request.holds)
            verdicts = [Verdict(Ref(kind, name), version) for name, version in request.holds.items()]
        for name in request.subscribe:
            if name != "*":
                subscription.names.add(name)
                subscription.unanswered.add(name)
                if name not in request.holds:
                    subscription.held.pop(name, None)
                    subscription.refused.pop(name, None)
        for name in request.unsubscribe:
            subscription.names.discard(name)
            subscription.unanswered.discard(name)
            subscription.held.pop(name, None)
            verdicts.append(Verdict(Ref(kind, name), ""))
        return verdicts + self._answer(subscription, request)

    def _answer(self, subscription: _Subscription, request: DiscoveryRequest) -> list[Verdict]:
        flight = subscription.in_flight
        if flight is None or request.nonce != flight.nonce:
            return []
        subscription.in_flight = None
        for name in flight.removed:
            subscription.held.pop(name, None)
        gone = [Verdict(Ref(subscription.kind, name), "") for name in flight.removed]
        if request.error is None:
            blamed: set[str] = set()
        else:
            blamed = {name for name in flight.sent if f"{name}:" in request.error}
            if not blamed and len(flight.sent) > 1:
                subscription.alone = [*flight.sent]
                return gone
            blamed = blamed or set(flight.sent)
        return gone + [
            self._verdict(subscription, name, version, request.error if name in blamed else None)
            for name, version in flight.sent.items()
        ]

    def _verdict(self, subscription: _Subscription, name: str, version: str, error: str | None) -> Verdict:
        if error is None:
            subscription.held[name] = version
            subscription.refused.pop(name, None)
        else:
            subscription.refused[name] = version
        return Verdict(Ref(subscription.kind, name), version, error)

    def verdicts(self) -> list[Verdict]:
        """What this Envoy holds, as it has said by now."""
        return [
            Verdict(Ref(kind, name), version)
            for kind, subscription in self._subscriptions.items()
            for name, version in subscription.held.items()
        ]

    def retry(self) -> None:
        """Send again what was refused: a port may have become free."""
        for subscription in self._subscriptions.values():
            subscription.refused.clear()
            subscription.touch()

    def next(self, resources: Resources, now_s: float) -> DiscoveryResponse | None:
        """The next response to send, or None while there is nothing to say or an answer must come first."""
        for kind in Kind:
            subscription = self._subscriptions[kind]
            if (
                not subscription.started
                or subscription.in_flight is not None
                or self._held_back(kind, resources, now_s)
            ):
                continue
            response = self._respond(subscription, resources, now_s)
            if response is not None:
                return response
        return None

    def waits_s(self, resources: Resources, now_s: float) -> float | None:
        """Seconds after which `next` may have more to say although nothing has happened; None: never."""
        waits = [
            flight.since_s + DEPENDENTS_WAIT_S - now_s
            for kind in (Kind.CLUSTER, Kind.ENDPOINTS)
            if (flight := self._subscriptions[kind].in_flight) is not None
        ]
        pending = any(self._subscriptions[kind].stale(resources[kind]) for kind in _WAITS_FOR)
        return max(0.0, *waits) if waits and pending else None

    def _held_back(self, kind: Kind, resources: Resources, now_s: float) -> bool:
        """Additions to listeners and routes wait for clusters in flight, for a moment."""
        return any(
            (flight := self._subscriptions[other].in_flight) is not None and now_s - flight.since_s < DEPENDENTS_WAIT_S
            for other in _WAITS_FOR.get(kind, ())
        )

    def _respond(self, subscription: _Subscription, resources: Resources, now_s: float) -> DiscoveryResponse | None:
        kind = subscription.kind
        upsert = subscription.stale(resources[kind])
        if subscription.alone:
            upsert = self._next_suspect(subscription, upsert)
        referred = _REFERRED_BY[kind]
        free = all(self._subscriptions[other].settled(resources[other]) for other in referred)
        unanswered = [name for name in subscription.unanswered if name not in resources[kind]]
        remove = tuple(sorted({*(subscription.gone(resources[kind]) if free else ()), *unanswered}))
        if not upsert and not remove and not subscription.owed_first:
            return None
        subscription.owed_first = False
        self._nonce += 1
        sent = {resource.name: resource.version for resource in upsert}
        subscription.unanswered.difference_update(sent, remove)
        subscription.again.difference_update(sent)
        subscription.touch()
        subscription.in_flight = _InFlight(str(self._nonce), sent, remove, now_s)
        if kind is Kind.CLUSTER:
            warmed = {resource.endpoints for resource in upsert if resource.endpoints}
            endpoints = self._subscriptions[Kind.ENDPOINTS]
            endpoints.again |= warmed & endpoints.names
            endpoints.touch()
        return DiscoveryResponse(kind=kind, nonce=str(self._nonce), upsert=tuple(upsert), remove=remove)

    def _next_suspect(self, subscription: _Subscription, stale: list[Resource]) -> list[Resource]:
        by_name = {resource.name: resource for resource in stale}
        while subscription.alone:
            name = subscription.alone.pop(0)
            if name in by_name:
                return [by_name[name]]
        return stale
