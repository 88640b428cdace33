"""A sign-in on disk: the tokens beside their context, refreshed before they end, by one process at a time.

A refresh token is good once. Of two processes that spend one at the same time, the issuer would take the second for a
thief and end the sign-in: so a lock is held from reading the file to writing it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from drtp.client.api import ApiClient
from drtp.client.context import load_context
from drtp.client.oidc import Granted, Issuer, oidc_client
from drtp.kit.clock import Clock, SystemClock
from drtp.kit.errors import Refused, Retryable
from drtp.kit.files import read_private, write_atomic
from drtp.kit.secret import Secret

AHEAD_S = 120.0
"""A token that ends within this is refreshed first: it must last for the request, and clocks differ."""
LOCK_S = 40.0
"""Longer than any refresh of another process takes."""


class SignedIn(msgspec.Struct, frozen=True):
    """The file. `expires_at`: of the ID token, unix seconds."""

    issuer: str
    client_id: str
    scopes: tuple[str, ...]
    subject: str
    id_token: str
    refresh_token: str
    expires_at: float
    ca: str = ""
    local: bool = False


def path_of(context: Path) -> Path:
    """Where the sign-in of a context is."""
    return context.with_name(f"{context.name}.login")


def keep(context: Path, issuer: Issuer, granted: Granted) -> None:
    """Write a sign-in (0600), durable and whole."""
    refresh = granted.refresh_token.reveal() if granted.refresh_token is not None else ""
    content = SignedIn(
        issuer=issuer.issuer,
        client_id=issuer.client_id,
        scopes=issuer.scopes,
        subject=granted.subject,
        id_token=granted.id_token.reveal(),
        refresh_token=refresh,
        expires_at=granted.expires_at,
        ca="" if issuer.local else issuer.ca_pem,
        local=issuer.local,
    )
    write_atomic(path_of(context), msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def read_sign_in(context: Path) -> SignedIn | None:
    """The sign-in of a context, if there is one. Raises: Terminal for loose modes, Refused DRTP-7085 if unreadable."""
    try:
        return msgspec.json.decode(read_private(path_of(context)), type=SignedIn)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        raise Refused("DRTP-7085", f"The sign-in in {path_of(context)} cannot be read.") from None


def fresh_token(context: Path, clock: Clock | None = None) -> tuple[Secret[str], float]:
    """An ID token that is good for a while yet, and when it ends. Blocks for as long as an issuer takes.

    Raises: Refused DRTP-7087 (no sign-in), DRTP-7085 (over); Retryable DRTP-7083; Terminal DRTP-7084.
    """
    time = clock or SystemClock()
    held = read_sign_in(context)
    if held is None:
        raise Refused("DRTP-7087")
    if not _due(held, time):
        return Secret(held.id_token), held.expires_at
    return _apart(lambda: refreshed(context, time))


async def refreshed(context: Path, clock: Clock) -> tuple[Secret[str], float]:
    """As `fresh_token`, for a token that is due."""
    async with locked(context, clock):
        held = read_sign_in(context)
        if held is None:
            raise Refused("DRTP-7087")
        if not _due(held, clock):
            return Secret(held.id_token), held.expires_at  # another process has refreshed it meanwhile
        if not held.refresh_token:
            return _while_good(held, clock, Refused("DRTP-7085", "The sign-in has ended, and cannot be renewed."))
        try:
            whom = await issuer_of(held, context)
            async with oidc_client(whom, clock) as issuer:
                granted = await issuer.refresh(Secret(held.refresh_token), held.subject)
        except Retryable as fault:
            return _while_good(held, clock, fault)
        keep(context, whom, granted)
        return granted.id_token, granted.expires_at


async def issuer_of(held: SignedIn, context: Path) -> Issuer:
    """Where a sign-in is renewed. A control plane's own roots may have been replaced: they are followed first.

    Raises: as `ApiClient`.
    """
    ca_pem = held.ca
    if held.local:
        async with ApiClient(load_context(context)) as api:
            await api.request("GET", "/.well-known/drtp")
            ca_pem = api.context.ca_pem.decode()
    return Issuer(held.issuer, held.client_id, held.scopes, ca_pem, held.local)


@contextlib.asynccontextmanager
async def locked(context: Path, clock: Clock) -> AsyncGenerator[None, None]:
    """Be the only process that changes this sign-in. Raises: Retryable DRTP-7083 if another one does not end."""
    path = path_of(context).with_suffix(".login.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        ends_s = clock.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.monotonic() > ends_s:
                    raise Retryable("DRTP-7083", f"Another process holds {path}.") from None
                await clock.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _due(held: SignedIn, clock: Clock) -> bool:
    return clock.now().timestamp() >= held.expires_at - AHEAD_S


def _while_good(held: SignedIn, clock: Clock, fault: Exception) -> tuple[Secret[str], float]:
    """An issuer that is away ends no sign-in before its time."""
    if clock.now().timestamp() < held.expires_at - 5.0:
        return Secret(held.id_token), held.expires_at
    raise fault


def _apart(work: Callable[[], Coroutine[Any, Any, tuple[Secret[str], float]]]) -> tuple[Secret[str], float]:
    """Run it in a loop of its own: whoever asks may be inside one already."""
    done: list[tuple[Secret[str], float]] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(asyncio.run(work()))
        except BaseException as fault:
            failed.append(fault)

    thread = threading.Thread(target=run, name="refresh", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
