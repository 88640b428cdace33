"""A machine that slept past the renewal's time: what counts is the wall clock, looked at again soon after it wakes."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from drtp.client.feed import FeedPhase
from drtp.client.renewal import RECHECK_S
from drtp.kit.clock import FakeClock
from unit.edgeserver.edgebed import edge_bed, until


class Laptop(FakeClock):
    """Wall time goes on while the lid is shut; the monotonic clock, by which processes sleep, does not."""

    slept = timedelta()

    def now(self) -> datetime:
        return super().now() + self.slept


async def test_an_edge_renews_within_half_a_minute_of_waking(tmp_path: Path) -> None:
    clock = Laptop(datetime.now(UTC) - timedelta(hours=10))
    async with edge_bed(tmp_path, clock) as bed:
        await bed.enrolled("agent")
        feed = bed.feed("agent")
        async with bed.running(feed):
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            await clock.advance(RECHECK_S + 1)
            assert feed.identity.value.generation == 1
            clock.slept = timedelta(hours=9)
            await clock.advance(RECHECK_S + 1)
            await until(lambda: feed.identity.value.generation == 2)
