"""One child process: started, watched, started again with back-off when it dies or on purpose, stopped in the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from drtp.kit.backoff import full_jitter
from drtp.kit.clock import Clock
from drtp.kit.errors import DrtpError
from drtp.kit.latest import Latest
from drtp.kit.logfile import LOG_FILE
from drtp.kit.observe import logger
from drtp.kit.secret import Secret
from drtp.main.embedded import logfiles, processes
from drtp.main.lifeline import LIFELINE_FD

log = logger("supervisor")

T = TypeVar("T")

_LINE_MAX_BYTES = 1024 * 1024
"""A child's event line; serve's events are a few hundred bytes."""

_SETTLED_S = 10.0
"""A child that ran this long did start: its next death begins with a short wait again."""


class OnDeath(Enum):
    """What the supervisor does when a child dies by itself."""

    RESTART = "restart"
    LEAVE = "leave"


@dataclass(frozen=True)
class Part:
    """What to start. `join`, asked at each start, gives the one-time secret of a child that has no identity yet; it is
    passed by a descriptor whose number follows `--join-fd` at the end of `argv`. None: the child has an identity.
    """

    name: str
    argv: tuple[str, ...]
    on_death: OnDeath = OnDeath.RESTART
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    join: Callable[[], Awaitable[Secret[str] | None]] | None = None


class Child:
    """One part's life. `pid` and `events` are what others read."""

    def __init__(self, part: Part, *, logs: Path, run: Path, lifeline: int, clock: Clock) -> None:
        self.part = part
        self.log_path = logs / f"{part.name}.log"
        self.pid = Latest[int]()
        self.said = Latest[dict[str, dict[str, Any]]]({})
        """The newest JSON line of each `event` that the present process printed."""
        self.deaths = Latest[int]()
        """Exit status of the process that ended last; its version counts them."""
        self._run_file = run / f"{part.name}.json"
        self._lifeline = lifeline
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._again = asyncio.Event()
        """Asked to start again on purpose: at once, whatever the rule for a death is."""

    async def run(self) -> None:
        """Keep it running until `stop`, or until it dies and is to be left dead."""
        delays = full_jitter(0.2, 10.0)
        while not self._stopping.is_set():
            started = self._clock.monotonic()
            status = await self._once()
            if self._stopping.is_set():
                return
            if self._again.is_set():
                self._again.clear()
                continue
            log.warning("part died", name=self.part.name, status=status)
            if self.part.on_death is OnDeath.LEAVE:
                await self._until_wanted(None)
                continue
            if self._clock.monotonic() - started > _SETTLED_S:
                delays = full_jitter(0.2, 10.0)
            await self._until_wanted(next(delays))

    async def stop(self, grace_s: float) -> None:
        """Ask it to stop; kill it after `grace_s`. Returns when it is gone."""
        self._stopping.set()
        await self._end(grace_s, signal.SIGTERM)

    async def restart(self, grace_s: float, by: signal.Signals = signal.SIGTERM) -> None:
        """End the process as at a planned stop, and start the next one at once; returns when that has started.

        A part that is dead is started.
        """
        seen = self.pid.version
        self._again.set()
        await self._end(grace_s, by)
        await self.pid.newer(seen)

    def signal(self, number: signal.Signals) -> None:
        """Tell the process something."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _end(self, grace_s: float, by: signal.Signals) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.signal(by)
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            log.warning("part killed", name=self.part.name, after_s=grace_s)
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """At once."""
        self.signal(signal.SIGKILL)

    @property
    def running(self) -> bool:
        """Whether the process lives now."""
        return self._process is not None and self._process.returncode is None

    async def _once(self) -> int:
        join = await self._join_secret()
        if self._stopping.is_set():
            return 0
        descriptors = [self._lifeline]
        argv = list(self.part.argv)
        if join is not None:
            descriptors.append(join)
            argv += ["--join-fd", str(join)]
        output = logfiles.open_log(self.log_path)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                env={
                    **os.environ,
                    **self.part.environment,
                    LIFELINE_FD: str(self._lifeline),
                    LOG_FILE: str(self.log_path),
                },
                pass_fds=descriptors,
                # Ctrl-C in the terminal is for the supervisor, which stops the parts in order.
                start_new_session=True,
                limit=_LINE_MAX_BYTES,
            )
        finally:
            os.close(output)
            if join is not None:
                os.close(join)
        processes.remember(self._run_file, self._process.pid)
        self.said.set({})
        self.pid.set(self._process.pid)
        log.info("part started", name=self.part.name, pid=self._process.pid)
        await self._read_events(self._process)
        status = await self._process.wait()
        self._run_file.unlink(missing_ok=True)
        self.deaths.set(status)
        self.said.set({})
        return status

    async def _join_secret(self) -> int | None:
        """A descriptor from which the secret can be read once; None if the part needs none."""
        delays = full_jitter(0.1, 2.0)
        while self.part.join is not None and not self._stopping.is_set():
            try:
                secret = await self._unless_stopped(self.part.join())
            except DrtpError as fault:
                log.info("no join secret yet", name=self.part.name, reason=fault.what)
                await self._unless_stopped(self._clock.sleep(next(delays)))
                continue
            if secret is None:
                return None
            reader, writer = os.pipe()
            # Far below a pipe's capacity, so this write never waits.
            os.write(writer, secret.reveal().encode())
            os.close(writer)
            return reader
        return None

    async def _read_events(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            try:
                event = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError:
                log.info("part said", name=self.part.name, line=line.decode(errors="replace").rstrip())
                continue
            self.said.set({**(self.said.value or {}), str(event.get("event", "")): event})

    async def _until_wanted(self, after_s: float | None) -> None:
        """Until it is to be stopped or started, or `after_s` have passed; None: for as long as it takes."""
        async with asyncio.TaskGroup() as group:
            reasons = {group.create_task(self._stopping.wait()), group.create_task(self._again.wait())}
            if after_s is not None:
                reasons.add(group.create_task(_passed(self._clock, after_s)))
            await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
            for reason in reasons:
                reason.cancel()
        self._again.clear()

    async def _unless_stopped(self, work: Awaitable[T]) -> T | None:
        """What `work` gives; None as soon as `stop` is called. Raises: DrtpError as `work` does."""
        async with asyncio.TaskGroup() as both:
            doing = both.create_task(_outcome(work))
            stopped = both.create_task(self._stopping.wait())
            await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            doing.cancel()
            stopped.cancel()
        if doing.cancelled():
            return None
        value, fault = doing.result()
        if fault is not None:
            raise fault
        return value


async def _passed(clock: Clock, seconds: float) -> Literal[True]:
    await clock.sleep(seconds)
    return True


async def _outcome(work: Awaitable[T]) -> tuple[T | None, DrtpError | None]:
    """What `work` gives or raises, as a value: one task's expected error must not become a group's."""
    try:
        return await work, None
    except DrtpError as fault:
        return None, fault
