"""A start that came to nothing leaves nothing behind: what this very run has made, and nobody has been given, goes.

Otherwise a start that waits in vain for a hostname would leave a service that takes the name once it is free. What has
an address stays: Ctrl-C never gives up what is reserved. So does what somebody else has changed, or is to enable.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drtp.api.drtp import API_VERSION
from drtp.client.api import ApiClient, resource_path
from drtp.client.context import Context
from drtp.kit.errors import Conflict, DrtpError, NotFound, Terminal
from drtp.kit.exclusive import exclusive

PLURAL = "drtpservices"
UNDO_WITHIN_S = 3.0
"""Ctrl-C is to end, with a control plane that is away too."""
_TRIES = 5
"""Controllers write the status meanwhile, at most a few times."""


@dataclass
class Made:
    """What this run has made: service name -> uid. Filled while it prepares."""

    uids: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Undone:
    """What has become of them, by name: deleted, kept with good reason (not said), or left for want of an answer."""

    gone: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


async def undo(context: Context, namespace: str, unready: dict[str, str]) -> Undone:
    """Delete those services (name -> uid) that nobody can have come to rely on. Never raises."""
    gone: list[str] = []
    kept: list[str] = []
    with contextlib.suppress(DrtpError, OSError, TimeoutError):
        async with asyncio.timeout(UNDO_WITHIN_S), ApiClient(context) as api:
            for name, uid in unready.items():
                (gone if await _deleted(api, namespace, name, uid) else kept).append(name)
    return Undone(tuple(gone), tuple(name for name in unready if name not in (*gone, *kept)))


def is_untouched(service: dict[str, Any], uid: str) -> bool:
    """Whether it is as it was made, has no address, never was ready, and waits for nobody's `enable`."""
    metadata: dict[str, Any] = service["metadata"]
    status: dict[str, Any] = service.get("status", {})
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))
    return (
        metadata["uid"] == uid
        and metadata.get("generation", 1) == 1
        and service["spec"].get("enabled", True)
        and not status.get("addresses")
        and not ready
    )


async def _deleted(api: ApiClient, namespace: str, name: str, uid: str) -> bool:
    """Whether it is gone. Judged and deleted as one: a change in between is seen. Raises: as `ApiClient`."""
    for _ in range(_TRIES):
        try:
            present = await api.get(API_VERSION, PLURAL, name, namespace=namespace)
            if not is_untouched(present, uid):
                return False
            exactly = {"uid": uid, "resourceVersion": present["metadata"]["resourceVersion"]}
            where = resource_path(API_VERSION, PLURAL, namespace, name)
            await api.request("DELETE", where, body={"preconditions": exactly})
        except Conflict:
            continue
        except NotFound:
            pass
        return True
    return False


def forget_identity(state_dir: Path, record: Path) -> None:
    """An identity that was made for nothing but what is undone; it stays where another process has it by now."""
    with contextlib.suppress(Terminal, FileNotFoundError), exclusive(state_dir / "lock", "DRTP-4010", "In use."):
        shutil.rmtree(state_dir / "identity", ignore_errors=True)
        record.unlink(missing_ok=True)
