"""Handshakes with tunnel servers: timed on a real socket, remembered soberly."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from drtp.client import roundtrips
from drtp.client.roundtrips import (
    EVERY_S,
    QUICK_ROUNDS,
    QUICK_S,
    SILENT_AFTER,
    SPREAD,
    RoundTripMeter,
    Target,
    handshake,
)
from drtp.kit.clock import FakeClock, SystemClock


@asynccontextmanager
async def listener() -> AsyncGenerator[tuple[int, list[float]]]:
    """A port that counts who comes: (port, the fake clock's time of each visit, filled by `measured`)."""
    visits: list[float] = []

    async def visit(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(0.0)
        writer.close()

    server = await asyncio.start_server(visit, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], visits
    finally:
        server.close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def measuring(*targets: Target) -> AsyncGenerator[tuple[RoundTripMeter, FakeClock]]:
    clock = FakeClock()
    meter = RoundTripMeter(clock, random.Random(7))
    meter.aim(targets)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(meter.run())
        await asyncio.sleep(0)
        yield meter, clock
        task.cancel()


async def rounds(clock: FakeClock, visits: list[float], wanted: int, step_s: float) -> None:
    """Time passes in steps until so many have come."""
    async with asyncio.timeout(10):
        while len(visits) < wanted:
            await clock.advance(step_s)
            await asyncio.sleep(0.001)


async def test_a_handshake_with_loopback_is_short_and_one_with_nobody_is_lost() -> None:
    async with listener() as (port, _):
        found = await handshake("127.0.0.1", port, SystemClock())
        assert found.round_trip_ms is not None
        assert 0 < found.round_trip_ms < 1000
        assert not found.lost
    assert await handshake("127.0.0.1", closed_port(), SystemClock()) == (None, True)


async def test_nothing_is_said_before_it_was_measured_a_few_times() -> None:
    async with listener() as (port, visits), measuring(Target("nyc", "127.0.0.1", port)) as (meter, clock):
        await rounds(clock, visits, QUICK_ROUNDS - 1, QUICK_S)
        assert meter.paths == {}
        await rounds(clock, visits, QUICK_ROUNDS, QUICK_S)
        async with asyncio.timeout(5):
            while "nyc" not in meter.paths:
                await asyncio.sleep(0.001)
        path = meter.paths["nyc"]
        assert 0 < path.floor_ms <= path.round_trip_ms < 1000
        assert path.loss == 0


async def test_a_known_target_is_measured_once_a_minute() -> None:
    async with listener() as (port, visits), measuring(Target("nyc", "127.0.0.1", port)) as (_, clock):
        await rounds(clock, visits, QUICK_ROUNDS, QUICK_S)
        began_s = clock.monotonic()
        await rounds(clock, visits, QUICK_ROUNDS + 2, 1.0)
        assert clock.monotonic() - began_s >= 2 * EVERY_S * (1 - SPREAD) - QUICK_S


async def test_who_is_aimed_at_no_more_is_forgotten_and_others_keep_their_history() -> None:
    async with listener() as (port, visits), listener() as (other, _):
        kept, gone = Target("kept", "127.0.0.1", port), Target("gone", "127.0.0.1", other)
        async with measuring(kept, gone) as (meter, clock):
            await rounds(clock, visits, QUICK_ROUNDS, QUICK_S)
            async with asyncio.timeout(5):
                while meter.paths.keys() != {"kept", "gone"}:
                    await clock.advance(QUICK_S)
                    await asyncio.sleep(0.001)
            meter.aim((kept,))
            assert meter.paths.keys() == {"kept"}


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "fe80::1", "fe80::1%eth0", "224.0.0.1", "0.0.0.0", "::"],
)
async def test_a_place_where_no_server_can_be_is_not_measured(address: str) -> None:
    nyc = Target("nyc", "nyc.example", 443)
    async with measuring(Target("bad", address, 80), nyc) as (meter, _):
        assert meter.targets == {nyc}


async def test_who_does_not_answer_is_unknown_and_is_tried_more_and_more_seldom() -> None:
    course = roundtrips._Course(0.0)
    for _ in range(QUICK_ROUNDS):
        course.note(roundtrips.Handshake(20.0, lost=False))
    assert course.path is not None
    steady_s = course.wait_s(0.5)
    for _ in range(SILENT_AFTER):
        course.note(roundtrips.Handshake(None, lost=True))
    assert course.path is None
    assert course.wait_s(0.5) > steady_s
    for _ in range(20):
        course.note(roundtrips.Handshake(None, lost=True))
    assert course.wait_s(0.5) == roundtrips.SILENT_EVERY_MAX_S


async def test_one_outlier_moves_nothing_and_a_lost_one_shows_as_loss() -> None:
    course = roundtrips._Course(0.0)
    for millis in (20.0, 21.0, 400.0, 20.5):
        course.note(roundtrips.Handshake(millis, lost=False))
    course.note(roundtrips.Handshake(None, lost=True))
    path = course.path
    assert path is not None
    assert path.round_trip_ms == 20.5
    assert path.floor_ms == 20.0
    assert 0.05 < path.loss <= 0.1
