"""The process that holds store and authority, killed again and again under enrolments and renewals; and its clients.

A nursery has everything imported and forks one life after the other. In each, clients enrol and renew as edges do: the
key first, then the request, and the same request again until there is an answer. What was answered must be known to
every later life; what was not may have happened or not, and asking again must bring it either way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from drtp.client.keys import new_key, request_for
from drtp.kit.secret import Secret
from drtp.main.backup import back_up, restore
from nursery import nursery_of

LANES = 6
TOLD_EVERY = 500
"""Kills: a long campaign says how far it is."""
VERIFIED_EVERY = 10
"""Lives: the audit is only ever appended to, so what one breaks a later one finds; and the last looks in any case."""

NURSERY = """
import asyncio, json, os, signal, sys
from datetime import timedelta
from pathlib import Path
from cryptography import x509
from drtp.api.feed import EdgeRole, EnrolRequest
from drtp.api.internal import Bound
from drtp.api.meta import Key
from drtp.api.people import Decision
from drtp.api.reports import AgentRegistration
from drtp.api.spiffe import key_fingerprint
from drtp.edgeserver.enrolment import Enrolment
from drtp.edgeserver.identities import Identities
from drtp.edgeserver.registrations import Registrations
from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority
from drtp.issuers.digests import Pepper
from drtp.issuers.requests import proven_key
from drtp.issuers.rotation import Rotation
from drtp.issuers.secrets import LIFETIME_MAX_S, EnrolmentSecrets
from drtp.kit.clock import SystemClock
from drtp.kit.errors import DrtpError
from drtp.kit.observe import configure_logs
from drtp.store.sqlite import SqliteStore

SERVICE = Key("DRTPService.datumapis.com", "joe", "web")

class Nobody:
    def decide(self, *_):
        return Decision(False)

class Office:
    def __init__(self, directory, store):
        clock = SystemClock()
        self.store = store
        self.audit = AuditLog(directory / "audit" / "audit.log", clock)
        self.authority = Authority(directory / "authority", "drtp.test", "prism.test", clock)
        self.secrets = EnrolmentSecrets(store, Pepper.open(directory / "peppers", "enrolment"), self.audit, clock)
        self.identities = Identities(store, self.authority, self.audit, clock)
        self.rotation = Rotation(store, self.authority, self.audit, clock)
        self.enrolment = Enrolment(store, self.authority, self.identities, Registrations(store), self.secrets,
                                   authoriser=Nobody(), audit=self.audit, clock=clock)

    async def prepare(self):
        await self.rotation.load()
        if not (await self.store.list("Namespace")).items:
            await self.store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "joe"}})
        if not (await self.store.list(SERVICE.kind)).items:
            await self.store.create({"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPService",
                "metadata": {"name": "web", "namespace": "joe"},
                "spec": {"protocol": "TCP", "local": {"host": "127.0.0.1", "port": 1}}})

    async def mint(self, said):
        service = await self.store.get(SERVICE)
        bound = Bound(kind=SERVICE.kind, name="web", namespace="joe", uid=service.uid)
        return {"secret": (await self.secrets.mint(EdgeRole.AGENT, bound, lifetime_s=LIFETIME_MAX_S)).secret.reveal()}

    async def enrol(self, said):
        request = EnrolRequest(csr_pem=said["csr"], registration=AgentRegistration(hostname="h"), secret=said["secret"])
        given = await self.enrolment.by_secret(request, "127.0.0.1")
        return {"uid": given.uid, "chain": given.spec.certificate_pem, "generation": given.spec.generation}

    async def renew(self, said):
        leaf = x509.load_pem_x509_certificates(said["chain"].encode())[0]
        presented = key_fingerprint(leaf.public_key())
        await self.identities.caught_up(said["uid"], presented, leaf.not_valid_after_utc, said["generation"])
        given = await self.identities.renew(said["uid"], presented, proven_key(said["csr"]), said["generation"])
        return {"chain": given.chain_pem, "generation": given.generation}

    async def connect(self, said):
        leaf = x509.load_pem_x509_certificates(said["chain"].encode())[0]
        await self.identities.connected(said["uid"], key_fingerprint(leaf.public_key()))
        return {}

    async def rotate(self, said):
        if self.authority.state.next:
            await self.rotation.step("campaign", force=True)
        else:
            await self.rotation.begin("campaign", hold=timedelta(), grace=timedelta())
        return {}

    async def verify(self, said):
        verdict = self.audit.trail.verify([self.audit.head])
        return {"sound": verdict.sound and not verdict.missing, "fault": verdict.fault}

async def life(directory, door):
    directory = Path(directory)
    reader, writer = await asyncio.open_unix_connection(door, limit=1 << 20)
    office = Office(directory, await SqliteStore.open(directory / "store"))
    await office.prepare()
    async def answer(line):
        said = json.loads(line)
        try:
            result = {"ok": await getattr(office, said["do"])(said)}
        except DrtpError as error:
            result = {"code": error.code}
        writer.write(json.dumps({"lane": said["lane"], **result}).encode() + b"\\n")
    async with asyncio.TaskGroup() as group:
        writer.write(b"open\\n")
        async for line in reader:
            group.create_task(answer(line))

configure_logs(stream=open(os.devnull, "w"))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        asyncio.run(life(*json.loads(line)))
        os._exit(0)
    print(pid, flush=True)
"""


class Gone(Exception):
    """The process was killed before it answered."""


class Refused(Exception):
    """The answer is a code."""


@dataclass
class Figures:
    """What a campaign did."""

    kills: int = 0
    enrolled: int = 0
    renewed: int = 0
    again: int = 0
    restores: int = 0
    steps: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills and {self.restores} restores, {self.enrolled} enrolments and {self.renewed} renewals "
            f"answered, {self.again} asked for again, {self.steps} steps of a rotation; "
            f"0 spent secrets taken, 0 certificates unknown, 0 agents bricked"
        )


@dataclass
class Edge:
    """One edge as its state directory has it: the key that it asks for is written down before it asks."""

    secret: str = ""
    uid: str = ""
    chain: str = ""
    generation: int = 0
    key: Secret[bytes] = field(default_factory=new_key)
    pending: Secret[bytes] | None = None


@dataclass
class Spent:
    """A secret that has been answered for: the key that has it, and the certificate that it got."""

    secret: str
    key: Secret[bytes]
    chain: str
    uid: str


class Door:
    """A life's socket, one question of each lane at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._answers = asyncio.Semaphore(0)

    def begin(self) -> None:
        """Count answers from here."""
        self._answers = asyncio.Semaphore(0)

    async def answered(self, count: int) -> None:
        """Wait for so many answers more."""
        async with asyncio.timeout(30):
            for _ in range(count):
                await self._answers.acquire()

    async def read(self) -> None:
        """Hand out answers until the process is gone."""
        with contextlib.suppress(ConnectionError):
            while (line := await self._reader.readline()).endswith(b"\n"):
                said = msgspec.json.decode(line)
                self._answers.release()
                self._asked.pop(said["lane"]).set_result(said)
        for waiting in self._asked.values():
            waiting.set_exception(Gone())
        self._asked = {-1: asyncio.get_running_loop().create_future()}

    async def ask(self, lane: int, do: str, **facts: Any) -> dict[str, Any]:
        """Raises: Gone, Refused."""
        if -1 in self._asked:
            raise Gone
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[lane] = future
        self._writer.write(msgspec.json.encode({"lane": lane, "do": do, **facts}) + b"\n")
        answer = await future
        if "code" in answer:
            raise Refused(answer["code"])
        found: dict[str, Any] = answer["ok"]
        return found


class Campaign:
    """Lives one after the other, and the edges that outlive them."""

    def __init__(self, root: Path, seed: int) -> None:
        self.figures = Figures()
        self._root = root
        self._directory = root / "cp"
        self._door = root / "door"
        self._rng = random.Random(seed)
        self._edges = [Edge() for _ in range(LANES)]
        self._spent: list[Spent] = []
        self._moved: set[str] = set()
        """Identities for which a renewal was ever asked: their first certificate may be the newest no more."""

    async def run(self, kills: int) -> Figures:
        """That many kills; a restore of an older backup in the middle."""
        self._directory.mkdir(mode=0o700)
        (self._directory / "settled.json").write_text("{}")
        kept: set[str] = set()
        async with nursery_of(NURSERY) as nursery:
            for number in range(kills):
                await self._live(nursery, last=False)
                self.figures.kills += 1
                if number % TOLD_EVERY == TOLD_EVERY - 1:
                    print(self.figures, flush=True)
                if number == kills // 3:
                    back_up(self._directory, self._root / "backup")
                    kept = {edge.uid for edge in self._edges if edge.uid}
                if number == 2 * kills // 3:
                    restore(self._root / "backup", self._directory)
                    await self._after_restore(nursery, kept)
            await self._live(nursery, last=True)
        return self.figures

    async def _live(self, nursery: asyncio.subprocess.Process, *, last: bool) -> None:
        async with self._born(nursery) as (pid, door):
            await self._check(door, last=last)
            if last:
                return
            door.begin()
            working = [self._work(number, edge, door) for number, edge in enumerate(self._edges)]
            lanes = asyncio.gather(*working, self._rotate(door))
            # So many answers later, and then anywhere in the next: however fast the machine is.
            await door.answered(self._rng.randrange(3 * LANES))
            await asyncio.sleep(self._rng.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
            await lanes

    async def _check(self, door: Door, *, last: bool) -> None:
        """What every life must know of those before it, of some that are picked by chance."""
        if last or self._rng.randrange(VERIFIED_EVERY) == 0:
            assert await door.ask(99, "verify") == {"sound": True, "fault": ""}
        for spent in self._rng.sample(self._spent, min(3, len(self._spent))):
            with _refusal("DRTP-2002"):
                await door.ask(99, "enrol", secret=spent.secret, csr=request_for(new_key()))
        for spent in self._spent[-2:]:
            if spent.uid in self._moved:
                continue
            again = await door.ask(99, "enrol", secret=spent.secret, csr=request_for(spent.key))
            assert again["chain"] == spent.chain

    async def _after_restore(self, nursery: asyncio.subprocess.Process, kept: set[str]) -> None:
        """Spent secrets stay spent, all of them void; edges of before the backup renew, whatever they did since."""
        self.figures.restores += 1
        async with self._born(nursery) as (pid, door):
            for spent in self._spent:
                for key in (new_key(), spent.key):
                    with _refusal("DRTP-2001"):
                        await door.ask(99, "enrol", secret=spent.secret, csr=request_for(key))
            self._spent = []
            for number, edge in enumerate(self._edges):
                if edge.uid in kept:
                    await self._renew(number, edge, door)
                else:
                    self._edges[number] = Edge()
            os.kill(pid, signal.SIGKILL)

    async def _work(self, lane: int, edge: Edge, door: Door) -> None:
        """Enrol once, then renew on and on; now and then begin as another edge."""
        try:
            while True:
                if edge.uid and not edge.pending and self._rng.random() < 0.3:
                    edge.__init__()
                await (self._renew if edge.uid else self._enrol)(lane, edge, door)
        except Gone:
            return

    async def _rotate(self, door: Door) -> None:
        """In some lives the root moves a step on meanwhile."""
        if self._rng.random() < 0.3:
            with contextlib.suppress(Gone):
                await door.ask(98, "rotate")
                self.figures.steps += 1

    async def _enrol(self, lane: int, edge: Edge, door: Door) -> None:
        if not edge.secret:
            edge.secret = (await door.ask(lane, "mint"))["secret"]
        elif edge.pending:
            self.figures.again += 1
        edge.pending = edge.key
        given = await door.ask(lane, "enrol", secret=edge.secret, csr=request_for(edge.key))
        edge.uid, edge.chain, edge.generation, edge.pending = given["uid"], given["chain"], given["generation"], None
        self._spent.append(Spent(edge.secret, edge.key, edge.chain, edge.uid))
        self.figures.enrolled += 1

    async def _renew(self, lane: int, edge: Edge, door: Door) -> None:
        if edge.pending:
            self.figures.again += 1
        edge.pending = edge.pending or new_key()
        self._moved.add(edge.uid)
        csr = request_for(edge.pending)
        given = await door.ask(lane, "renew", uid=edge.uid, chain=edge.chain, csr=csr, generation=edge.generation)
        assert given["generation"] == edge.generation + 1
        edge.chain, edge.generation, edge.key, edge.pending = given["chain"], given["generation"], edge.pending, None
        self.figures.renewed += 1
        await door.ask(lane, "connect", uid=edge.uid, chain=edge.chain)

    @contextlib.asynccontextmanager
    async def _born(self, nursery: asyncio.subprocess.Process) -> AsyncGenerator[tuple[int, Door]]:
        arrived: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.get_running_loop().create_future()
        )
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        self._door.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(
            lambda *streams: arrived.set_result(streams), str(self._door), limit=1 << 20
        )
        async with server:
            nursery.stdin.write(msgspec.json.encode([str(self._directory), str(self._door)]) + b"\n")
            pid = int(await nursery.stdout.readline())
            reader, writer = await asyncio.wait_for(arrived, 20)
            door = Door(reader, writer)
            assert await reader.readline() == b"open\n"
            reading = asyncio.create_task(door.read())
            try:
                yield pid, door
            finally:
                writer.close()
                await reading
                await _gone(pid)


async def _gone(pid: int) -> None:
    """Until the kernel has let go of everything that the process held, its lock on the store too."""
    async with asyncio.timeout(10):
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.001)


@contextlib.contextmanager
def _refusal(code: str):
    try:
        yield
    except Refused as refused:
        assert str(refused) == code  # noqa: PT017
    else:
        raise AssertionError(f"not refused with {code}")
