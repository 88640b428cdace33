"""The manager runs a toy controller over the real Store and View."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from drtp.api.internal import EdgeRole
from drtp.api.meta import Key
from drtp.api.reports import AgentRegistration
from drtp.controllers.loop import Manager
from drtp.controllers.runtime import (
    Create,
    EdgeChange,
    Emit,
    EventKind,
    MapChange,
    Outcome,
    UpdateStatus,
    World,
    Write,
    itself,
)
from drtp.controllers.workqueue import VOID_MAX, WorkQueue
from drtp.kit.clock import FakeClock
from drtp.store.memory import MemoryStore
from drtp.store.observed import EdgeRef, Observed
from drtp.store.protocol import merged
from drtp.store.view import View

KIND = "ConfigMap"


def config(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "joe"}, "spec": spec}


class Doubler:
    """status.double = 2 * spec.value; asks again after a minute."""

    name = "doubler"

    def __init__(self) -> None:
        self.turns: list[str] = []
        self.faults = 0
        self.stale_once = False

    @property
    def watches(self) -> Mapping[str, MapChange]:
        return {KIND: itself}

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        return (Key(KIND, "joe", change.edge.uid),)

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        self.turns.append(key.name)
        if self.faults:
            self.faults -= 1
            raise ZeroDivisionError
        stored = world.view.stored(key)
        if stored is None:
            return Outcome()
        wanted = merged(stored.object, {"status": {"double": 2 * stored.object["spec"]["value"]}})
        if self.stale_once:
            self.stale_once = False
            wanted = merged(wanted, {"metadata": {"resourceVersion": "999"}})
        emit = Emit(key, EventKind.NORMAL, "Doubled", "It was doubled.")
        return Outcome((UpdateStatus(wanted),), requeue_after_s=60, events=(emit,))


class Bench:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.view = View(self.store, (KIND,))
        self.observed = Observed()
        self.doubler = Doubler()
        self.manager = Manager(
            self.store, World(self.view, self.observed), (self.doubler,), self.clock, recorder=self.record
        )
        self.events = 0

    def record(self, emit: Emit, world: World, now: datetime) -> Iterable[Write]:
        self.events += 1
        kind = {"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "e-", "namespace": "joe"}}
        return (Create(kind | {"reason": emit.reason}),)

    async def double(self, name: str) -> int | None:
        return (await self.store.get(Key(KIND, "joe", name))).object.get("status", {}).get("double")

    async def settled(self) -> None:
        """Everything that follows from what was written has happened."""
        async with asyncio.timeout(5):
            while True:
                await self.view.reached(self.store.revision)
                for _turn in range(10):  # timers take some turns of the loop to be set
                    await asyncio.sleep(0)
                if self.manager.idle and self.view.revision == self.store.revision:
                    return


@asynccontextmanager
async def running() -> AsyncGenerator[Bench]:
    bench = Bench()
    await bench.store.create(config("early", value=4))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(bench.view.run()), group.create_task(bench.manager.run())]
        await bench.view.synced.wait()
        await bench.settled()
        yield bench
        for task in tasks:
            task.cancel()


async def test_what_was_there_and_what_comes_is_reconciled_and_recorded() -> None:
    async with running() as bench:
        assert await bench.double("early") == 8
        await bench.store.create(config("late", value=1))
        await bench.settled()
        assert await bench.double("late") == 2
        events = await bench.store.list("Event")
        assert {stored.object["reason"] for stored in events.items} == {"Doubled"}


async def test_a_fault_is_tried_again_and_others_go_on() -> None:
    async with running() as bench:
        bench.doubler.faults = 3
        await bench.store.create(config("bad", value=1))
        await bench.settled()
        await bench.store.create(config("good", value=2))
        for _ in range(10):
            await bench.clock.advance(1)
            await bench.settled()
        assert await bench.double("bad") == 2
        assert await bench.double("good") == 4


async def test_a_conflict_comes_again() -> None:
    async with running() as bench:
        bench.doubler.stale_once = True
        await bench.store.create(config("web", value=1))
        await bench.settled()
        await bench.clock.advance(1)
        await bench.settled()
        assert await bench.double("web") == 2


async def test_requeue_after_gives_another_turn() -> None:
    async with running() as bench:
        before = len(bench.doubler.turns)
        await bench.clock.advance(59)
        await bench.settled()
        assert len(bench.doubler.turns) == before
        await bench.clock.advance(2)
        await bench.settled()
        assert len(bench.doubler.turns) == before + 1


async def test_reports_give_turns() -> None:
    async with running() as bench:
        before = bench.doubler.turns.count("early")
        bench.observed.connect(EdgeRef(EdgeRole.AGENT, "early"), AgentRegistration(), bench.clock.now())
        await bench.settled()
        assert bench.doubler.turns.count("early") == before + 1


async def test_a_key_added_during_its_turn_comes_again_but_never_twice_at_once() -> None:
    queue = WorkQueue(FakeClock())
    key = Key(KIND, "joe", "web")
    queue.add((key, key))
    assert await queue.take() == key
    queue.add((key,))
    assert len(queue) == 0
    queue.done(key)
    assert len(queue) == 1
    assert not queue.idle


async def test_void_timers_do_not_pile_up_and_good_ones_ring() -> None:
    clock = FakeClock()
    queue = WorkQueue(clock)
    for number in range(1000):
        passing = Key(KIND, "joe", f"passing-{number}")
        queue.add_after(passing, 3600)
        queue.add((passing,))
        assert await queue.take() == passing
        queue.done(passing)
        queue.add_after(Key(KIND, "joe", f"stays-{number % 10}"), 3600 - number)
    assert queue.timers <= 10 * 2 + VOID_MAX + 1
    async with asyncio.TaskGroup() as group:
        running = group.create_task(queue.run_timers())
        for _ in range(10):
            await asyncio.sleep(0)
        await clock.advance(3600)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(queue) == 10
        running.cancel()
