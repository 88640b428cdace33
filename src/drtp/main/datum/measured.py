"""The `measured` event of `serve`: figures, when one has moved noteworthily, and no more often than people can read."""

from __future__ import annotations

from typing import Any

from drtp.agent.view import AgentView
from drtp.main.datum.changes import Event, server_name
from drtp.rules.measures import STEP_LOSS, STEP_MS, settled

EVERY_S = 10.0

_STEPS = {"loss": STEP_LOSS}
"""How far a figure must move, where it is not milliseconds."""

_Figures = dict[tuple[str, str], float]
"""(whose, which) -> figure; whose is `pop/<name>` or `<namespace>/<name>` of a service."""


class Measured:
    """Remembers what was said last."""

    def __init__(self) -> None:
        self._said: _Figures = {}
        self._said_at_s: float | None = None

    def news(self, view: AgentView, now_s: float) -> Event | None:
        """The event that is due at `now_s` (monotonic); None: nothing has moved, or it was said a moment ago."""
        if self._said_at_s is not None and now_s - self._said_at_s < EVERY_S:
            return None
        figures = {
            name: settled(self._said.get(name), value, _STEPS.get(name[1], STEP_MS)) or 0.0
            for name, value in _figures_of(view).items()
        }
        if figures == self._said:
            return None
        self._said, self._said_at_s = figures, now_s
        return _event(view, figures)


def _figures_of(view: AgentView) -> _Figures:
    found: _Figures = {}
    for pop in view.pops:
        if pop.round_trip_ms is not None:
            whose = f"pop/{server_name(pop)}"
            found[whose, "roundTripMillis"] = pop.round_trip_ms
            found[whose, "roundTripFloorMillis"] = pop.round_trip_floor_ms or pop.round_trip_ms
            found[whose, "jitterMillis"] = pop.jitter_ms
            found[whose, "loss"] = pop.loss
    for service in view.services:
        local = service.local
        if local.connect_ms is not None:
            found[service.key, "connectMillis"] = local.connect_ms
            found[service.key, "jitterMillis"] = local.jitter_ms
        found[service.key, "failures"] = local.failures_total
    return found


def _event(view: AgentView, figures: _Figures) -> Event:
    def of(whose: str) -> dict[str, Any]:
        return {name: figure for (owner, name), figure in figures.items() if owner == whose}

    pops = [{"pop": name, **measured} for pop in view.pops if (measured := of(f"pop/{(name := server_name(pop))}"))]
    services = [
        {"service": one.name, "namespace": one.namespace, **of(one.key), "failures": one.local.failures_total}
        for one in view.services
    ]
    return {"event": "measured", "pops": pops, "local": services}
