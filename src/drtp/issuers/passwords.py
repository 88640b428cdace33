"""Passwords of local accounts: argon2id in threads of their own, and the same work for accounts that are not there."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import Argon2Error, InvalidHashError

from drtp.kit.errors import Invalid, Retryable
from drtp.kit.secret import Secret

T = TypeVar("T")

MEMORY_KIB, PASSES, LANES = 64 * 1024, 3, 1
"""RFC 9106's second choice with one lane: 64 MiB and some 100 ms of one core for each guess."""
THREADS = 2
"""So much memory may be in use at once, times this."""
WAITING_MAX = 32
"""Beyond it the next one is told to come again: a flood must not queue for minutes."""
LENGTH_MIN, LENGTH_MAX = 12, 256
"""NIST SP 800-63B: length is what counts; no rules about kinds of characters."""


class Passwords:
    """Hashes and compares. One for each control plane; `close` it."""

    def __init__(self, *, memory_kib: int | None = None) -> None:
        memory_kib = memory_kib or MEMORY_KIB
        self._hasher = PasswordHasher(time_cost=PASSES, memory_cost=memory_kib, parallelism=LANES, type=Type.ID)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._waiting = 0
        self._nobody = _nobodys(memory_kib)

    async def hashed(self, name: str, password: Secret[str]) -> str:
        """What is kept. Raises: Invalid DRTP-2037 for one that is too short, too long or the name itself."""
        text = password.reveal()
        if not LENGTH_MIN <= len(text) <= LENGTH_MAX or text.casefold() == name.casefold():
            raise Invalid("DRTP-2037")
        return await self._in_thread(self._hasher.hash, text)

    async def fits(self, kept: str, password: Secret[str]) -> bool:
        """Whether `kept` was made of it. `kept` "" is nobody's: it takes as long. Raises: Retryable DRTP-2033."""
        right = await self._in_thread(self._verify, kept or self._nobody, password.reveal()[: LENGTH_MAX + 1])
        return right and bool(kept)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, kept: str, text: str) -> bool:
        try:
            return self._hasher.verify(kept, text)
        except (Argon2Error, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[..., T], *texts: str) -> T:
        if self._waiting >= WAITING_MAX:
            raise Retryable("DRTP-2033")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *texts)
        finally:
            self._waiting -= 1


def _nobodys(memory_kib: int) -> str:
    """What nobody's password fits, and comparing with it costs the same: random bytes in the form of a hash.

    Computing a real one would hold up each start for as long as a guess takes.
    """
    salt, digest = (base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (16, 32))
    return f"$argon2id$v=19$m={memory_kib},t={PASSES},p={LANES}${salt}${digest}"
