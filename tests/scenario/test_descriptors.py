"""`ulimit -n 256` for every part. More visitors than descriptors kill nobody."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from scenario.bed import Bed, Serving, eventually, few_descriptors, read_exactly
from scenario.load import local_service
from scenario.strangers import Party, strangers
from scenario.test_strangers import doors, product

FEW = 256
FEW_AT_THE_AGENT = 64
FLOOD = 400
SERVED = 5


def visit(endpoint: tuple[str, int]) -> socket.socket:
    """A visitor who was answered."""
    visitor = socket.create_connection(endpoint, timeout=10)
    _ask(visitor)
    return visitor


def _ask(visitor: socket.socket) -> None:
    visitor.sendall(b"are you there")
    assert read_exactly(visitor, 13) == b"are you there"


def flood(endpoint: tuple[str, int], count: int) -> list[socket.socket]:
    """Visitors who say something and wait, as many as come; those who are not let in find out at once, or wait."""
    came: list[socket.socket] = []
    for _ in range(count):
        visitor = socket.socket()
        visitor.setblocking(False)
        assert visitor.connect_ex(endpoint) in {0, errno.EINPROGRESS}
        came.append(visitor)
    for visitor in came:
        with contextlib.suppress(OSError):
            visitor.send(b"me too")
    return came


def works(bed: Bed, web: Serving, database: Serving) -> bool:
    """New visitors over TCP and HTTP, and a new caller of the API."""
    visit(database.endpoint).close()
    return bed.get(web)[0] == 200 and "hello" in bed.kubectl("get", "drtpservices", "-n", web.namespace)


@pytest.mark.timeout(180)
def test_more_visitors_than_descriptors_kill_nobody(tmp_path: Path) -> None:
    """frp#752, #2604, rathole#367."""
    bed = Bed(tmp_path, launcher=few_descriptors(FEW))
    try:
        bed.start()
        with local_service() as port:
            web = bed.serve(f"http://localhost:{port}", "--name", "web")
            small = replace(bed, launcher=few_descriptors(FEW_AT_THE_AGENT))
            database = small.serve(f"tcp://localhost:{port}", "--name", "db")
            before = sorted(one.pid for one in product(bed))
            staying = [visit(database.endpoint) for _ in range(SERVED)]
            at = [Party(door.place, FLOOD, door.greeting) for door in doors(bed)]
            with strangers(*at) as crowd:
                came = flood(database.endpoint, FLOOD)
                crowd.arrived()
                for visitor in staying:
                    _ask(visitor)
                assert sorted(one.pid for one in product(bed)) == before
            for visitor in came:
                visitor.close()
            for visitor in staying:
                _ask(visitor)
            eventually(lambda: works(bed, web, database), 30.0, 0.2)
            assert sorted(one.pid for one in product(bed)) == before
            late = bed.serve(f"tcp://localhost:{port}", "--name", "late")
            visit(late.endpoint).close()
            for visitor in staying:
                visitor.close()
            for one in (late, web, database):
                assert one.stop() == 0
    finally:
        bed.close()
