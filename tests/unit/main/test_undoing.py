"""What a start that came to nothing leaves behind, at a real control plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drtp.agent.view import AgentView
from drtp.api.drtp import API_VERSION
from drtp.client.api import ApiClient
from drtp.client.context import Context
from drtp.kit.clock import SystemClock
from drtp.kit.errors import NotFound, Terminal
from drtp.main.controlplane import running_controlplane
from drtp.main.datum.changes import Event
from drtp.main.datum.enrolling import Enrolment, free, has_identity, prepare
from drtp.main.datum.serve_request import ServeRequest, ServeSettings
from drtp.main.datum.serving import undo_unready
from drtp.main.datum.speaker import LineForm, Speaker
from drtp.main.datum.target import parse_target
from drtp.main.datum.undoing import PLURAL, is_untouched
from unit.main.controlplane_bed import context_of, settings


class Heard(LineForm):
    """What was said of services that are undone."""

    def __init__(self) -> None:
        self.said: list[Event] = []

    def undone(self, event: Event) -> None:
        """Kept."""
        self.said.append(event)


@dataclass
class Bed:
    context: Context
    api: ApiClient
    folder: Path

    def enrolment(self, name: str, *, enabled: bool = True) -> Enrolment:
        """Of one run of `serve`, for a hostname that nobody can have, so that it never gets ready."""
        target = parse_target("localhost:8080")
        request = ServeRequest(name, None, target, hostname="www.example.com", wait_for_enable=not enabled)
        return Enrolment(ServeSettings((request,)), "default", self.folder / name, self.context)

    async def ended(self, enrolment: Enrolment) -> list[Event]:
        """One run, from its start to its end without readiness."""
        heard = Heard()
        with Speaker(heard, {}, 0.0) as speaker:
            speaker.follow(AgentView(), 0.0)
            await undo_unready(enrolment, speaker)
        return heard.said

    async def there(self, name: str) -> bool:
        try:
            await self.api.get(API_VERSION, PLURAL, name, namespace="default")
        except NotFound:
            return False
        return True


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    chosen = settings(tmp_path)
    async with running_controlplane(chosen, SystemClock()):
        context = await context_of(chosen, "system:masters")
        async with ApiClient(context) as api:
            yield Bed(context, api, tmp_path)


async def test_what_this_run_made_and_never_was_ready_goes_with_its_identity(bed: Bed) -> None:
    enrolment = bed.enrolment("other")
    await prepare(enrolment)
    assert has_identity(enrolment.state_dir)
    assert await bed.ended(enrolment) == [{"event": "undone", "service": "other", "namespace": "default"}]
    assert not await bed.there("other")
    assert not has_identity(enrolment.state_dir)
    await prepare(bed.enrolment("other"))
    assert await bed.there("other"), "the next start begins anew"


async def test_what_a_start_that_is_ended_has_asked_for_already_goes_too(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, go_on, create = asyncio.Event(), asyncio.Event(), ApiClient.create

    async def slow(api: ApiClient, *arguments: Any, **named: Any) -> dict[str, Any]:
        answer = await create(api, *arguments, **named)
        made.set()
        await go_on.wait()
        return answer

    monkeypatch.setattr(ApiClient, "create", slow)
    enrolment = bed.enrolment("other")
    starting = asyncio.create_task(prepare(enrolment))
    await made.wait()
    assert await bed.there("other")
    starting.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert [event["event"] for event in await bed.ended(enrolment)] == ["undone"]
    assert not await bed.there("other")


async def test_what_was_there_before_this_run_stays(bed: Bed) -> None:
    await prepare(bed.enrolment("other"))
    again = bed.enrolment("other")
    await prepare(again)
    assert await bed.ended(again) == []
    assert await bed.there("other")


async def test_what_somebody_else_changed_meanwhile_stays(bed: Bed) -> None:
    enrolment = bed.enrolment("other")
    await prepare(enrolment)
    change = {"spec": {"local": {"host": "localhost", "port": 81}}}
    await bed.api.patch(API_VERSION, PLURAL, "other", change, namespace="default")
    assert await bed.ended(enrolment) == []
    assert await bed.there("other")


async def test_what_waits_for_enable_stays(bed: Bed) -> None:
    enrolment = bed.enrolment("other", enabled=False)
    await prepare(enrolment)
    assert await bed.ended(enrolment) == []
    assert await bed.there("other")


async def test_a_control_plane_that_is_away_is_told_with_the_command_that_deletes(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    async with running_controlplane(chosen, SystemClock()):
        context = await context_of(chosen, "system:masters")
        async with ApiClient(context) as api:
            bed = Bed(context, api, tmp_path)
            enrolment = bed.enrolment("other")
            await prepare(enrolment)
    (said,) = await bed.ended(enrolment)
    assert said["event"] == "left"
    assert said["delete"] == "datumctl delete drtpservice other -n default"
    assert has_identity(enrolment.state_dir)


async def test_an_identity_that_somebody_serves_with_is_not_given_up(bed: Bed) -> None:
    enrolment = bed.enrolment("other")
    await prepare(enrolment)
    await bed.api.delete(API_VERSION, PLURAL, "other", namespace="default")
    again = bed.enrolment("other")
    with free(enrolment.state_dir, ["other"]), pytest.raises(Terminal, match="DRTP-4010: other is being served"):
        await prepare(again)
    assert has_identity(enrolment.state_dir)
    await prepare(again)


@pytest.mark.parametrize(
    "differs",
    [
        {"status": {"addresses": [{"hostname": "a.example.com"}]}},
        {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
        {"metadata": {"uid": "another", "generation": 1}},
        {"metadata": {"uid": "u", "generation": 2}},
        {"spec": {"enabled": False}},
    ],
)
def test_an_address_readiness_or_another_hand_keep_a_service(differs: dict[str, Any]) -> None:
    made: dict[str, Any] = {"metadata": {"uid": "u", "generation": 1}, "spec": {}, "status": {}}
    assert is_untouched(made, "u")
    assert not is_untouched(made | differs, "u")
