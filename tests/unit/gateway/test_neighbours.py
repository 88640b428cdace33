"""POPs of the same machine: who is believed to be one, and what a claim in vain costs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from drtp.api.probing import PULSE
from drtp.api.snapshots import Entry, ProbeTarget
from drtp.gateway.neighbours import Neighbours, is_here
from drtp.kit.clock import SystemClock
from drtp.kit.sockets import directory_mark, socket_directory
from unit.gateway.gatewaykit import (
    Authority,
    EndpointMode,
    Pop,
    Visit,
    backend,
    free_port,
    gateway,
    line,
    pop,
    tcp,
    until,
)

NAME = "0f8fad5b-d9cb-469f-a165-70867728950e.sock"


def sockets_in(tmp_path: Path, name: str = "pop") -> Path:
    return socket_directory(tmp_path / name, NAME, "test")


def target(directory: Path, mark: str = "", server: str = "p1") -> ProbeTarget:
    return ProbeTarget(
        server=server,
        name=f"{server}.tunnel.test",
        address="127.0.0.1",
        health_port=9,
        sockets=str(directory),
        sockets_mark=mark or directory_mark(directory),
    )


def told(one: ProbeTarget) -> dict[str, Entry]:
    return {f"pop/{one.server}": one}


@contextlib.asynccontextmanager
async def pulse(directory: Path, answers: asyncio.Event) -> AsyncGenerator[None]:
    """A POP's, which is frozen while it shall not answer."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers.wait()
        writer.write(b".")
        writer.close()

    server = await asyncio.start_unix_server(answer, directory / PULSE)
    try:
        yield
    finally:
        answers.set()
        server.close()


def always() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def test_a_directory_that_this_host_sees_by_its_mark_is_here(tmp_path: Path) -> None:
    directory = sockets_in(tmp_path)
    assert is_here(target(directory), (directory,))
    assert is_here(target(directory), (directory.parent,))


@pytest.mark.parametrize("fault", ["unnamed", "mark", "loose", "link", "silent", "gone", "beside"])
def test_whatever_is_wrong_with_a_claim_it_is_not_believed(tmp_path: Path, fault: str) -> None:
    directory = sockets_in(tmp_path)
    named, claim = (directory,), target(directory)
    match fault:
        case "unnamed":
            named = ()
        case "mark":
            claim = target(directory, mark=directory_mark(tmp_path))
        case "loose":
            directory.chmod(0o755)
        case "link":
            other = tmp_path / "other"
            other.symlink_to(directory)
            named, claim = (other,), target(other)
        case "silent":
            claim = msgspec.structs.replace(claim, sockets_mark="")
        case "gone":
            directory.rmdir()
        case _:
            claim = target(sockets_in(tmp_path, "pop-of-another"))
    assert not is_here(claim, named)


async def test_a_pop_that_answers_no_more_is_a_neighbour_no_more_until_it_does(tmp_path: Path) -> None:
    directory, running = sockets_in(tmp_path), always()
    neighbours = Neighbours((directory,), SystemClock())
    neighbours.aim({"p1": target(directory)})
    async with pulse(directory, running), asyncio.TaskGroup() as group:
        looking = group.create_task(neighbours.run())
        await until(neighbours.found, lambda found: found == {"p1": str(directory)})
        running.clear()
        await until(neighbours.found, lambda found: found == {})
        running.set()
        await until(neighbours.found, lambda found: found == {"p1": str(directory)})
        looking.cancel()


async def test_visitors_reach_a_neighbour_over_its_socket_and_others_by_tls(tmp_path: Path) -> None:
    port, authority, directory = free_port(), Authority(), sockets_in(tmp_path)
    tls = authority.server_context(tmp_path, "p1.tunnel.test")
    socket = directory / NAME
    async with (
        pulse(directory, always()),
        pop("p1", mode=EndpointMode.UNIX, tls=tls, path=socket) as endpoint,
        gateway(tmp_path / "g", authority.credentials(), pop_sockets=(directory,)) as running,
    ):
        entries = {**backend(endpoint.endpoint()), **tcp(port)}
        await running.apply({**entries, **told(target(directory))})
        while not (await _visit(port, endpoint)).local:
            pass
        visit = await _visit(port, endpoint)
        assert visit.local
        assert visit.tlvs[0xE1] == b"s1"
        assert visit.tlvs[0xE2] == b"g1"
        # The socket leads nowhere: the visitor is served all the same, by TLS.
        socket.unlink()
        visit = await _visit(port, endpoint)
        assert not visit.local
        assert visit.peer_uris == ("spiffe://drtp.test/gateway/g1",)


async def test_a_path_outside_the_pops_own_directory_is_not_taken(tmp_path: Path) -> None:
    """A POP that is not to be believed names somebody else's socket: nobody is sent there."""
    port, authority = free_port(), Authority()
    own, foreign = sockets_in(tmp_path, "own"), sockets_in(tmp_path, "foreign")
    tls = authority.server_context(tmp_path, "p1.tunnel.test")
    async with (
        pulse(own, always()),
        pop("p1", mode=EndpointMode.UNIX, tls=tls, path=foreign / NAME) as liar,
        gateway(tmp_path / "g", authority.credentials(), pop_sockets=(own, foreign)) as running,
    ):
        await running.apply({**backend(liar.endpoint()), **tcp(port), **told(target(own))})
        await until(running.host.neighbours.found, lambda found: "p1" in found)
        await running.apply({**backend(liar.endpoint()), **tcp(port), **told(target(own))})
        assert not any([(await _visit(port, liar)).local for _ in range(5)])


async def _visit(port: int, endpoint: Pop) -> Visit:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await line(reader) == "banner 127.0.0.1"
    writer.close()
    return endpoint.visits[-1]
