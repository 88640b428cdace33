"""A process that enrols at a fixed pace, whatever the answers: `python -m bench.enrolling FILE`, a `Campaign` in JSON.

Each enrolment is a connection, a TLS handshake and a request of its own, as an edge's is, from one of many addresses.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from pathlib import Path

import msgspec

from drtp.api.feed import EnrolRequest
from drtp.api.reports import AgentRegistration
from drtp.client.tls import trusting

ADDRESSES = 1_000
DEADLINE_S = 15.0


class Campaign(msgspec.Struct, frozen=True):
    """`jobs`: a secret and a certificate request for each enrolment."""

    host: str
    port: int
    bundle: str
    per_s: float
    jobs: list[tuple[str, str]]


class Fate(msgspec.Struct, frozen=True):
    """What came of one: seconds from the moment that it was due; status 0 where no answer came."""

    seconds: float
    status: int
    answer: str = ""


def main() -> None:
    """Print the fates, in the order of the jobs."""
    campaign = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Campaign)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(_all(campaign))))


async def _all(campaign: Campaign) -> list[Fate]:
    tls = trusting(campaign.bundle.encode())
    bodies = [
        msgspec.json.encode(EnrolRequest(csr_pem=csr, registration=AgentRegistration(hostname="bench"), secret=secret))
        for secret, csr in campaign.jobs
    ]
    begin = time.monotonic() + 0.2
    async with asyncio.TaskGroup() as group:
        due = [begin + number / campaign.per_s for number in range(len(bodies))]
        tasks = [
            group.create_task(_one(campaign, tls, body, when, f"127.{2 + n % ADDRESSES // 250}.9.{1 + n % 250}"))
            for n, (body, when) in enumerate(zip(bodies, due, strict=True))
        ]
    return [task.result() for task in tasks]


async def _one(campaign: Campaign, tls: ssl.SSLContext, body: bytes, due: float, source: str) -> Fate:
    await asyncio.sleep(due - time.monotonic())
    try:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection(
                campaign.host, campaign.port, ssl=tls, server_hostname=campaign.host, local_addr=(source, 0)
            )
            head = f"POST /v1/enrol HTTP/1.1\r\nHost: {campaign.host}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            said = await reader.read()
            seconds = time.monotonic() - due
            writer.transport.abort()
    except (OSError, TimeoutError):
        return Fate(time.monotonic() - due, 0)
    head, _, answer = said.partition(b"\r\n\r\n")
    return Fate(seconds, int(head.split()[1]) if head else 0, answer.decode())


if __name__ == "__main__":
    main()
