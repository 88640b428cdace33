"""Threat 6: the control plane cannot point the agent at another target than its owner did."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from drtp.agent.pins import Pins
from drtp.agent.plan import read_plan
from drtp.api.drtp import LocalService
from drtp.kit.errors import Refused
from drtp.tunnel import Target
from edge_world import plan_server, plan_service, snapshot

GIVEN = {"joe/echo": Target(host="127.0.0.1", port=5432)}


def test_the_given_target_is_the_only_one(tmp_path: Path) -> None:
    pins = Pins(GIVEN, tmp_path / "pins.json")
    pins.judge(plan_service(5432), allow_target=False)
    with pytest.raises(Refused, match=r"DRTP-4012.*127\.0\.0\.1:22 .*127\.0\.0\.1:5432 was given here"):
        pins.judge(plan_service(22), allow_target=False)


def test_allow_target_lets_the_control_plane_choose(tmp_path: Path) -> None:
    Pins(GIVEN, tmp_path / "pins.json").judge(plan_service(22), allow_target=True)


def test_a_service_that_nobody_gave_a_target_for_is_refused(tmp_path: Path) -> None:
    other = msgspec.structs.replace(plan_service(5432), name="other")
    with pytest.raises(Refused, match="No target was given"):
        Pins(GIVEN, tmp_path / "pins.json").judge(other, allow_target=False)


def test_without_a_given_target_the_first_plans_is_pinned_for_good(tmp_path: Path) -> None:
    Pins({}, tmp_path / "pins.json").judge(plan_service(5432), allow_target=False)
    after_restart = Pins({}, tmp_path / "pins.json")
    after_restart.judge(plan_service(5432), allow_target=False)
    with pytest.raises(Refused, match="DRTP-4012"):
        after_restart.judge(plan_service(22), allow_target=False)


def test_a_host_change_is_a_target_change(tmp_path: Path) -> None:
    moved = msgspec.structs.replace(plan_service(5432), local=LocalService(host="169.254.169.254", port=5432))
    with pytest.raises(Refused):
        Pins(GIVEN, tmp_path / "pins.json").judge(moved, allow_target=False)


def test_one_refused_service_stops_no_other(tmp_path: Path) -> None:
    entries = {
        "server/p1": plan_server("p1", 443),
        "service/c1": plan_service(22),
        "service/c2": plan_service(5432, connection="c2"),
    }
    plan = read_plan(snapshot(dict(entries)), Pins(GIVEN, tmp_path / "pins.json"), allow_target=False)
    assert list(plan.documents) == ["server/p1", "service/c2"]
    assert list(plan.refused) == ["service/c1"]
    assert len(plan.services) == 2, "a refused service is still shown"


def test_where_names_were_given_nothing_else_is_served(tmp_path: Path) -> None:
    """A secret of another service, mixed up, must not open that service's target on this machine."""
    own = plan_service(5432)
    other = msgspec.structs.replace(own, name="others")
    for named in (f"{own.namespace}/{own.name}", own.name):
        pins = Pins({}, tmp_path / f"{len(named)}.json", frozenset({named}))
        pins.judge(own, allow_target=False)
        for allow_target in (False, True):
            with pytest.raises(Refused, match="DRTP-4012"):
                pins.judge(other, allow_target=allow_target)
