"""The manager: runs controllers over one View, one Observed and one Store.

Change -> keys -> queue -> reconcile -> one transaction -> the View shows it -> the key's turn ends. Waiting for the
View means that a controller never decides twice on a state that it has changed itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random, SystemRandom
from time import perf_counter

from prometheus_client import Counter, Gauge, Histogram

from drtp.api.meta import Key
from drtp.controllers.runtime import Change, Controller, EdgeChange, Outcome, Recorder, World
from drtp.controllers.workqueue import WorkQueue
from drtp.kit.clock import Clock
from drtp.kit.errors import Conflict, DrtpError, NotFound, Refused, Retryable
from drtp.kit.observe import REGISTRY, logger
from drtp.store.protocol import Store, Write

_WORKERS = 4
"""Turns of one controller that wait for the disk at the same time, and so share its sync."""

_BACKOFF_FIRST_S = 0.005
_BACKOFF_MAX_S = 60.0

_log = logger("controllers")
_DEPTH = Gauge("drtp_controller_queue", "Keys that wait for their turn.", ["controller"], registry=REGISTRY)
_SECONDS = Histogram("drtp_controller_reconcile_seconds", "Time of one decision.", ["controller"], registry=REGISTRY)
_TURNS = Counter("drtp_controller_turns_total", "Turns by outcome.", ["controller", "outcome"], registry=REGISTRY)


class _Running:
    """One controller at work: what is looked up at every change is looked up once."""

    def __init__(self, controller: Controller, clock: Clock) -> None:
        self.controller = controller
        self.watches = controller.watches
        self.queue = WorkQueue(clock)
        self.failures: dict[Key, int] = {}
        self.depth = _DEPTH.labels(controller.name)
        self.seconds = _SECONDS.labels(controller.name)


class Manager:
    """Runs controllers until cancelled. Nothing is decided before the View has synced."""

    def __init__(
        self,
        store: Store,
        world: World,
        controllers: Sequence[Controller],
        clock: Clock,
        *,
        recorder: Recorder | None = None,
        rng: Random | None = None,
    ) -> None:
        """`recorder` makes Events of what controllers emit; without one they are logged only."""
        self._store = store
        self._world = world
        self._clock = clock
        self._recorder = recorder
        self._rng = rng or SystemRandom()
        self._running = [_Running(controller, clock) for controller in controllers]

    async def run(self) -> None:
        """Enqueue everything there is, then whatever changes."""
        await self._world.view.synced.wait()
        self._world.view.listen(self._on_change)
        self._world.observed.listen(self._on_edge_change)
        self._enqueue_everything()
        async with asyncio.TaskGroup() as group:
            for running in self._running:
                group.create_task(running.queue.run_timers())
                for _ in range(_WORKERS):
                    group.create_task(self._work(running))

    @property
    def idle(self) -> bool:
        """No key waits or is worked on; timers may be running."""
        return all(running.queue.idle for running in self._running)

    # ---- sources -------------------------------------------------------------------------------------------------

    def _enqueue_everything(self) -> None:
        for running in self._running:
            for kind in running.watches:
                for key in self._world.view.keys(kind):
                    self._map(running, Change(key, None, self._world.view.stored(key)))
        for state in self._world.observed.edges():
            for part in ("", *state.reports):
                self._on_edge_change(EdgeChange(state.edge, part))

    def _on_change(self, change: Change) -> None:
        for running in self._running:
            self._map(running, change)

    def _map(self, running: _Running, change: Change) -> None:
        mapping = running.watches.get(change.key.kind)
        if mapping is None:
            return
        try:
            running.queue.add(mapping(self._world, change))
        except Exception:
            # One odd object must not stop the View that calls this; its own controller will say what is wrong with it.
            _log.exception("change not mapped", controller=running.controller.name, object=str(change.key))
        running.depth.set(len(running.queue))

    def _on_edge_change(self, change: EdgeChange) -> None:
        for running in self._running:
            try:
                running.queue.add(running.controller.from_edge(self._world, change))
            except Exception:
                _log.exception("report not mapped", controller=running.controller.name, edge=change.edge.uid)

    # ---- turns ---------------------------------------------------------------------------------------------------

    async def _work(self, running: _Running) -> None:
        while True:
            key = await running.queue.take()
            try:
                await self._turn(running, key)
            finally:
                running.queue.done(key)
                running.depth.set(len(running.queue))

    async def _turn(self, running: _Running, key: Key) -> None:
        name = running.controller.name
        started = perf_counter()
        try:
            outcome = running.controller.reconcile(key, self._world, self._clock.now())
            running.seconds.observe(perf_counter() - started)
            await self._apply(outcome)
        except (Conflict, NotFound):
            _TURNS.labels(name, "conflict").inc()
            self._again(running, key)
        except (Retryable, Refused) as error:  # a quota refuses too, until there is room
            _TURNS.labels(name, "retry").inc()
            _log.warning("turn failed", controller=name, object=str(key), code=error.code, reason=error.what)
            self._again(running, key)
        except Exception:
            # A fault in one decision is that key's alone: it is said, and tried again ever more slowly.
            _TURNS.labels(name, "fault").inc()
            _log.exception("turn failed", controller=name, object=str(key))
            self._again(running, key)
        else:
            _TURNS.labels(name, "done").inc()
            running.failures.pop(key, None)
            if outcome.requeue_after_s is not None:
                running.queue.add_after(key, outcome.requeue_after_s)

    async def _apply(self, outcome: Outcome) -> None:
        if outcome.writes:
            written = await self._store.apply(outcome.writes)
            await self._world.view.reached(max(stored.revision for stored in written))
        for emit in outcome.events:
            _log.info(emit.message, reason=emit.reason, object=str(emit.regarding), kind=emit.kind.value)
            if self._recorder is not None:
                await self._record(tuple(self._recorder(emit, self._world, self._clock.now())))

    async def _record(self, writes: Sequence[Write]) -> None:
        """Events are for people: losing one to a conflict is better than another turn."""
        if not writes:
            return
        try:
            written = await self._store.apply(writes)
        except DrtpError as error:
            _log.info("event not recorded", reason=error.code)
        else:
            await self._world.view.reached(max(stored.revision for stored in written))

    def _again(self, running: _Running, key: Key) -> None:
        """Full jitter under a bound that doubles: 5 ms, 10 ms, ... one minute."""
        failures = running.failures.get(key, 0)
        running.failures[key] = failures + 1
        bound = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2 ** min(failures, 20))
        running.queue.add_after(key, self._rng.uniform(0, bound))
