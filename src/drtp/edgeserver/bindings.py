"""Which connected agents serve which service, so that a deletion finds those that it leaves with nothing to serve."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from drtp.api.internal import Bound


class Bindings:
    """An index of the agents whose feeds are up, by uid both ways. What is bound by name alone is not in it."""

    def __init__(self) -> None:
        self._services: dict[str, tuple[str, ...]] = {}
        self._agents: defaultdict[str, set[str]] = defaultdict(set)

    def note(self, agent: str, bound: Iterable[Bound]) -> None:
        """The agent is connected, and bound to exactly these."""
        self.forget(agent)
        self._services[agent] = uids = tuple(one.uid for one in bound if one.uid)
        for uid in uids:
            self._agents[uid].add(agent)

    def forget(self, agent: str) -> None:
        """It is not connected any more."""
        for uid in self._services.pop(agent, ()):
            self._agents[uid].discard(agent)
            if not self._agents[uid]:
                del self._agents[uid]

    def of(self, service: str) -> tuple[str, ...]:
        """Agents that are connected and bound to the service."""
        return tuple(self._agents.get(service, ()))
