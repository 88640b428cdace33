"""The whole process, as `drtp gateway` runs it: from an identity and a snapshot on disk, with no control plane."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from operator import ne
from pathlib import Path

from aiohttp import web

from drtp.api.snapshots import ProbeTarget
from drtp.client.identity import IdentityStore, build_identity
from drtp.client.snapshotfile import SnapshotFile
from drtp.gateway.settings import paths
from drtp.kit.latest import Latest
from drtp.kit.secret import Secret
from unit.gateway.gatewaykit import (
    DEADLINE_S,
    Authority,
    EndpointMode,
    Entry,
    Generation,
    Snapshot,
    Visit,
    backend,
    free_port,
    gateway,
    line,
    needs_envoy,
    pop,
    tcp,
    until,
)

RUN = """
import asyncio, sys, uvloop
from pathlib import Path
from drtp.gateway import GatewaySettings, run_gateway
settings = GatewaySettings(directory=Path(sys.argv[1]), name="g", concurrency=1, drain_timeout_s=0.5)
sys.exit(uvloop.run(run_gateway(settings)))
"""


def enrol(directory: Path, authority: Authority, entries: dict[str, Entry]) -> None:
    """What enrolment and one snapshot leave on disk. The feed's address answers nobody."""
    pair = authority.issue(uri="spiffe://drtp.test/gateway/g1")
    identity = build_identity(
        pair.chain_pem, Secret(pair.key_pem), authority.bundle_pem, generation=1, suffix="test",
        feed_url=f"https://127.0.0.1:{free_port()}/v1/feed",
    )  # fmt: skip
    directory.mkdir(mode=0o700)
    IdentityStore(directory).install(identity)
    SnapshotFile(directory).save("g1", Snapshot(generation=Generation(7, 1), entries=entries))


@contextlib.asynccontextmanager
async def host_process(directory: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", RUN, str(directory))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(DEADLINE_S):
            await process.wait()


async def envoy_pid(directory: Path) -> int:
    file = directory / "envoy.process.json"
    async with asyncio.timeout(DEADLINE_S):
        while not file.exists():
            await asyncio.sleep(0.02)
    pid: int = json.loads(file.read_text())["pid"]
    return pid


async def visit(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has seen the service's banner; tries again until the listener is there."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                if await reader.readline() == b"banner 127.0.0.1\n":
                    return reader, writer
                writer.close()
            await asyncio.sleep(0.02)


async def test_restart_without_a_control_plane_serves_and_envoy_outlives_a_killed_host(tmp_path: Path) -> None:
    needs_envoy()
    port, authority, directory = free_port(), Authority(), tmp_path / "g"
    tls = authority.server_context(tmp_path, "p1.tunnel.test")
    async with pop("p1", mode=EndpointMode.MTLS, tls=tls) as endpoint:
        enrol(directory, authority, {**backend(endpoint.endpoint()), **tcp(port)})
        async with host_process(directory) as first:
            reader, writer = await visit(port)
            pid = await envoy_pid(directory)
            first.kill()
            await first.wait()
            writer.write(b"host is gone\n")
            assert await line(reader) == "host is gone"
            _reader, new = await visit(port)
            new.close()
        async with host_process(directory) as second:
            await asyncio.sleep(3)  # longer than back-off, resynchronisation and drain time
            assert await envoy_pid(directory) == pid
            writer.write(b"adopted\n")
            assert await line(reader) == "adopted"
            writer.close()
            second.terminate()
            async with asyncio.timeout(DEADLINE_S):
                assert await second.wait() == 0
        assert not _alive(pid)


async def test_long_directory_names_are_no_obstacle(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path / ("x" * 120)) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})


async def test_killed_envoy_is_started_again_with_everything(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        await running.ready()
        killed = running.host.envoy.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        _reader, writer = await visit(port)
        assert running.host.envoy.pid != killed
        writer.close()


async def test_sockets_are_private(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        await running.apply({})
        await running.ready()
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()}
        hot = {name for name in modes if name.startswith("h_")}
        assert modes.keys() - hot == {"xds.sock", "admin.sock"} and len(hot) == 4
        assert set(modes.values()) == {0o600}
    assert not list((tmp_path / "run").glob("h_*"))
    assert not Path(f"/dev/shm/envoy_shared_memory_{10 * paths(tmp_path).base_id}").exists()


async def test_a_hot_restart_loses_no_newcomer_and_lets_visitors_finish(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path, drain_timeout_s=3.0) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        for _round in range(2):
            reader, writer = await visit(port)
            before = await until(running.host.serving, bool)
            async with newcomers(port) as served:
                running.host.renew_envoy()
                after = await until(running.host.serving, partial(ne, before))
                began = asyncio.get_running_loop().time()
                writer.write(b"still here\n")
                assert await line(reader) == "still here"
                async with asyncio.timeout(DEADLINE_S):
                    while _alive(before):
                        await asyncio.sleep(0.05)
            assert served() > 0
            assert await reader.read() == b""
            # Envoy counts whole seconds from when the next one serves; we hear of that a little later.
            assert asyncio.get_running_loop().time() - began > 1.5
            assert await envoy_pid(tmp_path) == after and _alive(after)
            writer.close()


async def test_a_port_that_is_new_while_two_envoys_run_is_the_newest_ones(tmp_path: Path) -> None:
    port, new = free_port(), free_port()
    async with pop("p1") as endpoint, gateway(tmp_path, drain_timeout_s=20.0) as running:
        table = {**backend(endpoint.endpoint()), **tcp(port)}
        await running.programmed(table)
        former = await until(running.host.serving, bool)
        reader, writer = await visit(port)
        running.host.renew_envoy()
        await until(running.host.serving, partial(ne, former))
        await running.programmed({**table, **tcp(new)})
        _reader, newcomer = await visit(new)
        newcomer.close()
        os.kill(former, signal.SIGKILL)
        _reader, newcomer = await visit(new)
        newcomer.close()
        assert await reader.read() == b""
        writer.close()


async def test_an_envoy_that_cannot_take_over_changes_nothing(tmp_path: Path) -> None:
    port, broken = free_port(), tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    broken.chmod(0o700)
    async with pop("p1") as endpoint, gateway(tmp_path / "g") as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        before = await until(running.host.serving, bool)
        good, running.host.envoy.binary = running.host.envoy.binary, broken
        async with newcomers(port) as served:
            running.host.renew_envoy()
            async with asyncio.timeout(DEADLINE_S):
                while "\nno" not in f"\n{(tmp_path / 'g' / 'envoy.log').read_text()}" or running.host.renewing:
                    await asyncio.sleep(0.02)
        assert served() > 0
        assert (running.host.envoy.pid, _alive(before)) == (before, True)
        running.host.envoy.binary = good
        running.host.renew_envoy()
        await until(running.host.serving, lambda pid: pid != before)


async def test_an_envoy_killed_while_the_one_before_it_drains_is_replaced(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path, drain_timeout_s=20.0) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        first = await until(running.host.serving, bool)
        reader, writer = await visit(port)
        running.host.renew_envoy()
        second = await until(running.host.serving, lambda pid: pid != first)
        os.kill(second, signal.SIGKILL)
        await until(running.host.serving, lambda pid: pid not in (first, second))
        _reader, newcomer = await visit(port)
        newcomer.close()
        writer.write(b"in the first\n")
        assert await line(reader) == "in the first"
        writer.close()
    assert not _alive(first)


async def test_the_next_host_adopts_the_newest_envoy_and_sees_the_former_end(tmp_path: Path) -> None:
    needs_envoy()
    port, authority, directory = free_port(), Authority(), tmp_path / "g"
    tls = authority.server_context(tmp_path, "p1.tunnel.test")
    async with pop("p1", mode=EndpointMode.MTLS, tls=tls) as endpoint:
        enrol(directory, authority, {**backend(endpoint.endpoint()), **tcp(port)})
        async with host_process(directory) as first:
            _reader, writer = await visit(port)
            former = await envoy_pid(directory)
            first.send_signal(signal.SIGHUP)
            async with asyncio.timeout(DEADLINE_S):
                while await envoy_pid(directory) == former:
                    await asyncio.sleep(0.02)
            first.send_signal(signal.SIGUSR1)
            async with asyncio.timeout(DEADLINE_S):
                assert await first.wait() == 0
            newest = await envoy_pid(directory)
        async with host_process(directory):
            _other, newcomer = await visit(port)
            newcomer.close()
            async with asyncio.timeout(30):
                while _alive(former) or json.loads((directory / "envoy.process.json").read_text())["former"]:
                    await asyncio.sleep(0.05)
            assert await envoy_pid(directory) == newest and _alive(newest)
        writer.close()


@contextlib.asynccontextmanager
async def newcomers(port: int) -> AsyncGenerator[Callable[[], int]]:
    """Visitors one after the other, every one of whom must be served; gives how many were."""
    served, over = 0, asyncio.Event()

    async def come() -> None:
        nonlocal served
        while not over.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.readline() == b"banner 127.0.0.1\n"
            writer.close()
            served += 1
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        group.create_task(come())
        try:
            yield lambda: served
        finally:
            over.set()


async def test_two_gateways_live_side_by_side(tmp_path: Path) -> None:
    one, two = free_port(), free_port()
    async with pop("p1") as endpoint, gateway(tmp_path / "a") as first, gateway(tmp_path / "b") as second:
        await first.programmed({**backend(endpoint.endpoint()), **tcp(one)})
        await second.programmed({**backend(endpoint.endpoint()), **tcp(two)})


async def test_new_identity_is_shown_to_pops_and_live_connections_go_on(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    tls = authority.server_context(tmp_path, "p1.tunnel.test")
    async with (
        pop("p1", mode=EndpointMode.MTLS, tls=tls) as endpoint,
        gateway(tmp_path / "g", authority.credentials("before")) as running,
    ):
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        reader, writer = await visit(port)
        running.host.use(authority.credentials("after"))
        async with asyncio.timeout(DEADLINE_S):
            while endpoint.visits[-1].peer_uris != ("spiffe://drtp.test/gateway/after",):
                _reader, other = await visit(port)
                other.close()
        writer.write(b"still\n")
        assert await line(reader) == "still"
        writer.close()


async def test_pop_that_fails_its_probe_is_left_and_taken_back(tmp_path: Path) -> None:
    """Both endpoints accept, but only one POP answers its probe: visitors go there."""
    port, authority = free_port(), Authority()
    healthy = asyncio.Event()

    async def health(_request: web.Request) -> web.Response:
        return web.Response(status=200 if healthy.is_set() else 503)

    async with (
        health_endpoint(authority, tmp_path, "p1.tunnel.test", health) as health_port,
        pop("p1") as first,
        pop("p2") as second,
        gateway(tmp_path / "g", authority.credentials(), probe_interval_s=0.1) as running,
    ):
        await running.programmed(
            {
                **backend(first.endpoint(), second.endpoint(priority=1)),
                **tcp(port),
                "pop/p1": ProbeTarget(server="p1", name="p1.tunnel.test", address="127.0.0.1", health_port=health_port),
            }
        )
        await _goes_to(port, second.visits)
        healthy.set()
        await _goes_to(port, first.visits)


async def test_a_pop_that_leaves_is_left_at_once_and_told_and_taken_back(tmp_path: Path) -> None:
    """Its first word suffices, and the next question tells it that Envoy has moved."""
    port, authority, fitness = free_port(), Authority(), ["ok"]
    told: Latest[str] = Latest()

    async def health(request: web.Request) -> web.Response:
        if request.headers["drtp-sends-visitors"] != told.value:
            told.set(request.headers["drtp-sends-visitors"])
        return web.json_response({"status": fitness[0]}, status=200 if fitness[0] == "ok" else 503)

    async with (
        health_endpoint(authority, tmp_path, "p1.tunnel.test", health) as health_port,
        pop("p1") as first,
        pop("p2") as second,
        gateway(tmp_path / "g", authority.credentials(), probe_interval_s=0.1) as running,
    ):
        await running.programmed(
            {
                **backend(first.endpoint(), second.endpoint(priority=1)),
                **tcp(port),
                "pop/p1": ProbeTarget(server="p1", name="p1.tunnel.test", address="127.0.0.1", health_port=health_port),
            }
        )
        await until(told, lambda word: word == "yes")
        reader, writer = await visit(port)
        fitness[0] = "draining"
        await until(told, lambda word: word == "no")
        there = len(first.visits)
        for _visitor in range(20):
            _reader, newcomer = await visit(port)
            newcomer.close()
        assert len(first.visits) == there, "Envoy had moved when it said so"
        writer.write(b"still\n")
        assert await line(reader) == "still"
        writer.close()
        fitness[0] = "ok"
        await until(told, lambda word: word == "yes")
        await _goes_to(port, first.visits)


async def _goes_to(port: int, visits: Sequence[Visit]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        before = len(visits)
        while len(visits) == before:
            _reader, writer = await visit(port)
            writer.close()
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def health_endpoint(authority: Authority, directory: Path, name: str, answer: object) -> AsyncGenerator[int]:
    application = web.Application()
    application.router.add_get("/healthz", answer)  # pyright: ignore[reportArgumentType] - a handler
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server_context(directory, name)).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(FileNotFoundError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return False
