"""Strangers who get on with each step of an identity route and then stall, go on at a byte a second, or send garbage.

    with doorsteps(Crowding(place, STEPS, 2000)) as crowd:
        crowd.arrived()
        ...

Unlike `strangers`, they finish their TLS handshake: what they hold is a request that never ends. They are one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import msgspec

from scenario.bed import Lines

ARRIVALS_PER_S = 100
"""A handshake costs a server one or two milliseconds: more would measure its arithmetic."""
AGAIN_S = (8.0, 12.0)
ADDRESSES = 200
PATIENCE_S = 90.0
GARBAGE = random.Random(7).randbytes(512)
BODY = 400
EDGE_ROUTES = (
    "POST /v1/enrol",
    "POST /v1/renew",
    "POST /v1/secrets",
    "GET /v1/feed",
    "GET /v1/nonce",
    "GET /v1/bundle",
)
API_ROUTES = (
    "POST /oidc/token",
    "POST /oidc/authorize",
    "POST /oidc/device",
    "POST /oidc/device_authorization",
    "GET /oidc/visit",
    "POST /oidc/visit/callback",
    "POST /apis/identity.datumapis.com/v1alpha/selftokens",
    "POST /apis/identity.datumapis.com/v1alpha/invitationacceptances",
)
"""What a stranger may ask without having shown who they are, at either door."""


class Crowding(msgspec.Struct, frozen=True):
    """`count` strangers of one door, evenly at the steps of all `routes` (`POST /v1/enrol`)."""

    place: tuple[str, int]
    routes: tuple[str, ...]
    count: int


class Doorsteps:
    """Strangers at work."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def arrived(self) -> Counter[str]:
        """Wait until each has been at its door once; how many are there now, and how often one was turned away."""
        return Counter(json.loads(self._lines.next(PATIENCE_S)))


@contextlib.contextmanager
def doorsteps(*crowdings: Crowding) -> Generator[Doorsteps]:
    """Send them, and take them away at the end."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), msgspec.json.encode(crowdings).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout is not None
    try:
        yield Doorsteps(Lines(process.stdout))
    finally:
        process.kill()
        process.wait(10)


# ---- the process -----------------------------------------------------------------------------------------------------


def openings(route: str) -> list[tuple[bytes, bytes]]:
    """What is said at once at each step of a route, and what would follow."""
    head = f"{route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {BODY}\r\n"
    whole = head.encode() + b"\r\n" + b'{"secret":"' + b"x" * (BODY - 13) + b'"}'
    end = whole.index(b"\r\n\r\n") + 4
    return [(whole[:at], whole[at:]) for at in (0, 5, end - 2, end, end + BODY // 2)]


class _Mob:
    def __init__(self, crowdings: list[Crowding]) -> None:
        self._crowdings = crowdings
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._here = 0
        self._fates: Counter[str] = Counter()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            number = 0
            for crowding in self._crowdings:
                steps = [step for route in crowding.routes for step in openings(route)]
                for index in range(crowding.count):
                    group.create_task(self._stranger(number, crowding.place, steps[index % len(steps)]))
                    number += 1
                    await asyncio.sleep(1 / ARRIVALS_PER_S)
            print(json.dumps(self._fates | {"here": self._here}), flush=True)

    async def _stranger(self, number: int, place: tuple[str, int], step: tuple[bytes, bytes]) -> None:
        source = f"127.{1 + number % ADDRESSES}.{number % 7}.{1 + number % 200}"
        while True:
            try:
                reader, writer = await asyncio.open_connection(*place, ssl=self._tls, local_addr=(source, 0))
            except OSError:
                self._fates["refused"] += 1
            else:
                self._here += 1
                with contextlib.suppress(OSError):
                    writer.write(step[0])
                    going_on = asyncio.ensure_future(self._go_on(number, writer, step[1]))
                    await reader.read()
                    going_on.cancel()
                self._here -= 1
                self._fates["turned away"] += 1
                writer.transport.abort()
            await asyncio.sleep(random.uniform(*AGAIN_S))

    async def _go_on(self, number: int, writer: asyncio.StreamWriter, rest: bytes) -> None:
        sort = number % 3  # silent, slow, garbage
        if sort == 2:
            writer.write(GARBAGE)
        while sort == 1 and rest and not writer.is_closing():
            await asyncio.sleep(1.0)
            writer.write(rest[:1])
            rest = rest[1:]


if __name__ == "__main__":
    asyncio.run(_Mob(msgspec.json.decode(sys.argv[1], type=list[Crowding])).run())
