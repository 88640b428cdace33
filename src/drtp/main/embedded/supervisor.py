"""The parts of one embedded instance, as child processes: started together, stopped in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from types import TracebackType

from drtp.kit.clock import Clock
from drtp.main.embedded.child import Child, Part
from drtp.main.embedded.layout import Layout


class Supervisor:
    """Use as `async with`: leaving it leaves no child behind, whatever the reason."""

    def __init__(self, layout: Layout, clock: Clock) -> None:
        self.children: dict[str, Child] = {}
        self._layout = layout
        self._clock = clock
        self._group = asyncio.TaskGroup()
        # The parts hold the read end; it ends when this process does. The write end is never inherited.
        self._lifeline, self._held = os.pipe()

    async def __aenter__(self) -> Supervisor:
        """Open for `start`."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill whatever was not stopped in order."""
        for child in self.children.values():
            child.kill()
        try:
            async with asyncio.TaskGroup() as ending:
                for child in self.children.values():
                    ending.create_task(child.stop(1.0))
        finally:
            await self._group.__aexit__(kind, fault, trace)
            os.close(self._held)
            os.close(self._lifeline)

    def start(self, part: Part) -> Child:
        """Start a part and keep it running."""
        child = Child(part, logs=self._layout.logs, run=self._layout.run, lifeline=self._lifeline, clock=self._clock)
        self.children[part.name] = child
        self._group.create_task(child.run())
        return child

    async def stop(self, stages: Sequence[Sequence[str]], grace_s: float) -> None:
        """Stop stage after stage, the parts of one stage together."""
        for stage in stages:
            async with asyncio.TaskGroup() as together:
                for name in stage:
                    if name in self.children:
                        together.create_task(self.children[name].stop(grace_s))

    async def retire(self, name: str, grace_s: float) -> None:
        """Stop one part for good."""
        child = self.children.pop(name)
        try:
            await child.stop(grace_s)
        finally:
            child.kill()

    def kill(self) -> None:
        """Everything, at once: the answer to a second Ctrl-C."""
        for child in self.children.values():
            child.kill()
