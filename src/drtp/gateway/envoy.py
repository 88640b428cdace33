"""Envoy as a process: found, started in its own session so that it outlives a crash of the host, adopted, stopped.

The process file holds pid, start time and boot; with these a pid that was given to another program is never taken
for ours. A new host adopts the Envoy it finds if that runs the same binary and bootstrap, and replaces it otherwise.

One Envoy replaces another by hot restart: it asks the older one for its listening sockets, which goes on with the
visitors it has. The newest is the one that counts; older ones are remembered until they have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sysconfig
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec

from drtp.gateway.admin import Admin
from drtp.gateway.bootstrap import Budget, bootstrap
from drtp.gateway.settings import GatewaySettings, Paths
from drtp.kit.clock import Clock
from drtp.kit.descriptors import raise_descriptor_limit
from drtp.kit.errors import Retryable, Terminal
from drtp.kit.files import write_atomic
from drtp.kit.observe import logger

_log = logger("gateway")

READY_DEADLINE_S = 20.0
READY_POLL_S = 0.02
QUIT_DEADLINE_S = 5.0
_HOW = b"\0hot restart\0"
"""Envoys that were started otherwise are not adopted: they cannot hand over."""
OVERDUE_S = 5.0
"""On top of its deadline for an Envoy that was replaced: the next one tells it to end, and may have died meanwhile."""
DESCRIPTORS_KEPT = 1024  # for listeners, logs, sockets to the host; half of them where there are few
DESCRIPTORS_PER_VISITOR = 3  # its own, the POP's, and room for retries
CONNECTIONS_MAX = 100_000


def visitors_max(descriptors: int | None) -> int:
    """How many visitors that many descriptors serve: an Envoy that cannot open a socket to a POP ends itself."""
    if descriptors is None:
        return CONNECTIONS_MAX
    kept = min(DESCRIPTORS_KEPT, descriptors // 2)
    return min(CONNECTIONS_MAX, (descriptors - kept) // DESCRIPTORS_PER_VISITOR)


def memory_bytes() -> int:
    """Of this machine, or of the container that it is to us."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return physical


class ProcessFile(msgspec.Struct, frozen=True):
    """Which process is ours, and what it was started with.

    `epoch` counts hot restarts. `former`: those before it that let their visitors finish, until `ends_unix_s`.
    """

    pid: int
    started: int
    boot: str
    configuration: str
    epoch: int = 0
    base_id: int = 0
    ends_unix_s: float = 0.0
    former: tuple[ProcessFile, ...] = ()


def find_envoy(configured: Path | None) -> Path:
    """The binary itself: the wheel's `envoy` command is a Python program that would stand between. Raises: Terminal."""
    chosen = configured or (Path(os.environ["ENVOY"]) if os.environ.get("ENVOY") else None)
    if chosen is None:
        chosen = _installed()
    if chosen is None or not os.access(chosen, os.X_OK) or not chosen.is_file():
        raise Terminal("DRTP-5010", f"There is no Envoy binary at {chosen}." if chosen else "")
    return chosen


def _installed() -> Path | None:
    roots = [Path(sysconfig.get_path("purelib"))]
    spec = find_spec("envoy")
    roots += [Path(place).parent for place in (spec.submodule_search_locations or [])] if spec is not None else []
    return next((binary for root in roots if (binary := root / "envoy" / "_bin" / "envoy").is_file()), None)


class EnvoyProcess:
    """The one Envoy of this directory, and those that it has replaced while they drain. One task calls it."""

    def __init__(self, settings: GatewaySettings, paths: Paths, clock: Clock) -> None:
        self._settings = settings
        self._paths = paths
        self._clock = clock
        self.binary = find_envoy(settings.envoy)
        self._running: ProcessFile | None = None
        self.admin = Admin(paths.admin_socket)
        connections = min(settings.connections_max or CONNECTIONS_MAX, visitors_max(raise_descriptor_limit()))
        self.budget = Budget(connections, settings.heap_bytes_max or memory_bytes() // 2)

    @property
    def pid(self) -> int | None:
        """The running Envoy's process id."""
        return self._running.pid if self._running is not None else None

    async def ensure(self) -> None:
        """Adopt the Envoy that runs, replace it if it is not what it should be, or start one.

        Raises: Retryable if it cannot be started.
        """
        found = self._read()
        # The newest first; one that it was to replace is better than none.
        alive = next((one for one in (found, *found.former) if _is_alive(one)), None) if found is not None else None
        if alive is not None and found is not None:
            self._running = msgspec.structs.replace(
                alive, ends_unix_s=0.0, former=tuple(one for one in found.former if one != alive and _is_alive(one))
            )
            if alive.configuration == self._configuration()[1] and await self.admin.epoch() == alive.epoch:
                self._write()
                _log.info("envoy adopted", pid=alive.pid, epoch=alive.epoch)
                return
            try:
                await self.renew()
            except Retryable as error:
                _log.warning("envoy not replaced while it serves", code=error.code, reason=error.what)
                await self._end(alive)
            else:
                return
        self._start(None)
        await self._until(self._answers)

    async def renew(self) -> None:
        """Hot restart: the next Envoy takes the listeners once it has everything, and the present one drains and ends.

        Returns when the next one serves. Raises: Retryable DRTP-5017 if it does not; then the present one goes on.
        """
        before = self._running
        if before is None:
            raise Retryable("DRTP-5017", "There is no Envoy to replace.")
        self._start(before)
        try:
            await self._until(self._serves)
        except Retryable as error:
            self._running = before if _is_alive(before) else None
            self._write()
            raise Retryable("DRTP-5017", error.what) from error
        _log.info("envoy replaced", pid=self.pid, former=before.pid, drain_s=self._settings.drain_timeout_s)

    async def wait(self) -> None:
        """Until the running Envoy has ended, child or not."""
        if self._running is not None:
            await _ended(self._running)

    def end_former(self) -> None:
        """See to those that were replaced: each ends by itself at its deadline, or is ended."""
        running = self._running
        if running is None or not running.former:
            return
        now_s = self._clock.now().timestamp()
        for former in running.former:
            if _is_alive(former) and now_s > former.ends_unix_s + OVERDUE_S:
                _log.warning("former envoy overdue", pid=former.pid)
                _send(former, signal.SIGKILL if now_s > former.ends_unix_s + 2 * OVERDUE_S else signal.SIGTERM)
        left = tuple(former for former in running.former if _is_alive(former))
        if left != running.former:
            self._running = msgspec.structs.replace(running, former=left)
            self._write()

    async def stop(self) -> None:
        """Stop accepting, let visitors finish within the drain time, then end Envoy."""
        running = self._running
        if running is None:
            return
        await self.admin.drain()
        deadline = self._clock.monotonic() + self._settings.drain_timeout_s
        while self._clock.monotonic() < deadline and _is_alive(running) and await self.admin.connections():
            await self._clock.sleep(0.1)
        await self._end(running)

    async def _end(self, process: ProcessFile) -> None:
        self._running = process
        await self.admin.quit()
        for one in (process, *process.former):
            await self._end_one(one)
        self._running = None
        self._paths.process.unlink(missing_ok=True)
        self._tidy(process.base_id)
        _log.info("envoy stopped", pid=process.pid)

    async def _end_one(self, process: ProcessFile) -> None:
        signs = (signal.SIGTERM, signal.SIGKILL) if process == self._running else (signal.SIGKILL,)
        if len(signs) == 1:
            _send(process, signal.SIGTERM)
        for sign in signs:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIT_DEADLINE_S):
                    await _ended(process)
            if not _is_alive(process):
                break
            _send(process, sign)
        else:
            await _ended(process)

    def _tidy(self, base_id: int) -> None:
        """What Envoy leaves of its hot restarts: a page of shared memory, and sockets."""
        Path(f"/dev/shm/envoy_shared_memory_{10 * base_id}").unlink(missing_ok=True)  # noqa: S108 - its place
        for left in self._paths.run.glob(f"{self._paths.hot_socket.name}_*"):
            left.unlink(missing_ok=True)

    def _configuration(self) -> tuple[bytes, str]:
        """Bootstrap, and what tells it and the binary from others."""
        data = msgspec.json.encode(bootstrap(self._settings.name, self._paths, self.budget), order="sorted")
        return data, hashlib.sha256(bytes(self.binary) + _HOW + data).hexdigest()

    def _start(self, before: ProcessFile | None) -> None:
        """Start one: the first, or the one that takes over from `before`."""
        data, configuration = self._configuration()
        write_atomic(self._paths.bootstrap, data)
        epoch, base_id = (0, self._paths.base_id) if before is None else (before.epoch + 1, before.base_id)
        if before is None:
            self._paths.admin_socket.unlink(missing_ok=True)
            self._tidy(base_id)
        drain_s = max(1, round(self._settings.drain_timeout_s))
        command = [
            str(self.binary), "-c", str(self._paths.bootstrap), "--log-level", "warning",
            "--base-id", str(base_id), "--restart-epoch", str(epoch),
            "--socket-path", str(self._paths.hot_socket), "--socket-mode", "600",
            # Listeners do not change while they stand, so one that is removed shall be gone at once.
            "--drain-time-s", "1", "--parent-shutdown-time-s", str(drain_s),
        ]  # fmt: skip
        if self._settings.concurrency:
            command += ["--concurrency", str(self._settings.concurrency)]
        pid = _orphan(command, self._paths)
        former: tuple[ProcessFile, ...] = ()
        if before is not None:
            ends_unix_s = self._clock.now().timestamp() + drain_s + READY_DEADLINE_S
            former = (msgspec.structs.replace(before, former=(), ends_unix_s=ends_unix_s), *before.former)
        self._running = ProcessFile(
            pid=pid, started=_started(pid) or 0, boot=_boot(), configuration=configuration,
            epoch=epoch, base_id=base_id, former=former,
        )  # fmt: skip
        self._write()
        _log.info("envoy started", pid=pid, epoch=epoch)

    def _write(self) -> None:
        if self._running is not None:
            write_atomic(self._paths.process, msgspec.json.encode(self._running))

    async def _answers(self, epoch: int) -> bool:
        """The admin interface answers. Whether resources have come is the ledger's matter."""
        return self._paths.admin_socket.exists() and await self.admin.epoch() == epoch

    async def _serves(self, epoch: int) -> bool:
        return await self.admin.serves(epoch)

    async def _until(self, good: Callable[[int], Awaitable[bool]]) -> None:
        """Until the one that was started is good; it is ended otherwise. Raises: Retryable."""
        running = self._running
        assert running is not None
        deadline = self._clock.monotonic() + READY_DEADLINE_S
        while self._clock.monotonic() < deadline and _is_alive(running):
            if await good(running.epoch):
                return
            await self._clock.sleep(READY_POLL_S)
        _send(running, signal.SIGKILL)
        await _ended(running)
        raise Retryable("DRTP-5011", f"Envoy did not become ready: {self._last_words()}")

    def bound_log(self, bytes_max: int) -> None:
        """Start Envoy's own log anew when it has grown too large; Envoy appends, so it goes on at the start."""
        with contextlib.suppress(FileNotFoundError):
            if self._paths.envoy_log.stat().st_size > bytes_max:
                os.truncate(self._paths.envoy_log, 0)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._paths.envoy_log.read_text(errors="replace")[-2000:].splitlines()
            return lines[-1] if lines else "it said nothing"
        return "it left no log"

    def _read(self) -> ProcessFile | None:
        try:
            return msgspec.json.decode(self._paths.process.read_bytes(), type=ProcessFile)
        except (FileNotFoundError, msgspec.DecodeError):
            return None


def _send(process: ProcessFile, number: signal.Signals) -> None:
    if _is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


_ORPHAN = 'exec 3<&0; { read -r _ <&3; exec "$@" </dev/null 3<&-; } >>"$0" 2>&1 & echo $!'
"""For a shell: start "$@", with the log "$0", once the shell itself has gone and standard input is closed."""


def _orphan(command: list[str], paths: Paths) -> int:
    """Start a process that outlives this one; gives its id.

    An Envoy that can be restarted hot asks the kernel to end it with its parent. So it gets none: the shell in between
    has ended before Envoy begins.
    """
    log = os.open(paths.envoy_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.close(log)
    with subprocess.Popen(
        ["/bin/sh", "-c", _ORPHAN, str(paths.envoy_log), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd=paths.directory, umask=0o077,
    ) as shell:  # fmt: skip
        assert shell.stdin is not None
        assert shell.stdout is not None
        told = shell.stdout.readline()
        shell.wait()
        # Leaving closes its standard input, for which Envoy waits.
    return int(told)


def _reap(process: ProcessFile) -> None:
    """Where this process is the init of a container, orphans are its own to bury."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


async def _ended(process: ProcessFile) -> None:
    """Until this process has ended, child or not."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        if _is_alive(process):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        _reap(process)


def _is_alive(process: ProcessFile) -> bool:
    """The very process, not another one with its number; a zombie is dead."""
    return process.boot == _boot() and _started(process.pid) == process.started


def _started(pid: int) -> int | None:
    """Start time in clock ticks since boot; None for no process or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
