"""POPs of this machine: which of them may be reached over Unix sockets, and still answer there.

What a POP says of its directory is a claim, and believed only where this host sees it: the operator has named the
directory, it is this user's and nobody else may enter it, and its mark is the one that the POP says. Who fails that is
reached over mutual TLS, as POPs elsewhere.

A Unix connection is made by the kernel alone, a TLS handshake by the POP. So each POP's driver is asked a few times a
second whether it runs; one that does not answer is reached over TLS, where a handshake in vain costs a retry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

from drtp.api.probing import PULSE
from drtp.api.snapshots import ProbeTarget
from drtp.kit.clock import Clock
from drtp.kit.latest import Latest
from drtp.kit.observe import logger
from drtp.kit.sockets import directory_mark, is_own_private

_log = logger("gateway")

LOOK_S = 0.2
PATIENCE_S = 0.2
MISSES_MAX = 1
"""A busy machine may be late once. The second time in a row the POP counts as frozen: after half a second in all."""
_CREDENTIALS = struct.Struct("3i")
"""<linux/socket.h> `ucred`: pid, uid, gid."""


def is_here(target: ProbeTarget, named: tuple[Path, ...]) -> bool:
    """Whether the POP's directory is one that this host sees, within the `named` ones, and nobody else's."""
    if not target.sockets or not target.sockets_mark:
        return False
    directory = Path(target.sockets)
    if not any(directory == one or one in directory.parents for one in named) or not is_own_private(directory):
        return False
    try:
        return directory_mark(directory) == target.sockets_mark
    except OSError:
        return False


class Neighbours:
    """Looks at every target a few times a second; `found` is the directory of each POP that is here and answers."""

    def __init__(self, named: tuple[Path, ...], clock: Clock) -> None:
        """`named`: absolute paths of the directories in which POPs may have their sockets."""
        self._named = tuple(one.resolve() for one in named)
        self._clock = clock
        self._targets: Latest[Mapping[str, ProbeTarget]] = Latest({})
        self._misses: dict[str, int] = {}
        self.found: Latest[Mapping[str, str]] = Latest({})
        """By server uid."""

    def aim(self, targets: Mapping[str, ProbeTarget]) -> None:
        """Look at these, by server uid."""
        if targets != self._targets.value:
            self._targets.set(dict(targets))

    async def run(self) -> None:
        """Until cancelled."""
        if not self._named:
            return
        seen = 0
        while True:
            targets = self._targets.value or {}
            near = {uid: target for uid, target in targets.items() if is_here(target, self._named)}
            async with asyncio.TaskGroup() as group:
                asked = {uid: group.create_task(_answers(Path(one.sockets) / PULSE)) for uid, one in near.items()}
            self._note({uid: task.result() for uid, task in asked.items()}, near)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    seen, _ = await self._targets.newer(seen)

    def _note(self, answered: Mapping[str, bool], near: Mapping[str, ProbeTarget]) -> None:
        before = self.found.value or {}
        misses = {uid: 0 if answer else self._misses.get(uid, MISSES_MAX) + 1 for uid, answer in answered.items()}
        self._misses = misses
        found = {uid: near[uid].sockets for uid, count in misses.items() if count <= MISSES_MAX}
        if found == before:
            return
        for uid in found.keys() - before.keys():
            _log.info("POP reached by sockets", server=near[uid].name, directory=near[uid].sockets)
        for uid in before.keys() - found.keys():
            _log.warning("POP reached by sockets no more", server=uid, here=uid in near)
        self.found.set(found)


async def _answers(pulse: Path) -> bool:
    """Whether a process of this user's answers there in time."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(pulse)
            try:
                mine = _peer_uid(writer.get_extra_info("socket")) in (os.geteuid(), None)
                return mine and await reader.read(1) != b""
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


def _peer_uid(connection: socket.socket) -> int | None:
    """Of the process at the other end; None where the system does not say."""
    if not sys.platform.startswith("linux"):
        return None
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(told)[1]
    return uid
