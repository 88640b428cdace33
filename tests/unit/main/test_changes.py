"""Events of `serve`, and the screen."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from msgspec.structs import replace
from rich.console import Console

from drtp.agent.view import AgentPhase, AgentView, FeedView, LocalView, PopView, ServiceView
from drtp.api.drtp import ClientStatus, Protocol, Role, ServiceAddress
from drtp.api.reports import LocalState
from drtp.main.commands.options import OutputForm
from drtp.main.datum.changes import Asked, address_of, changes
from drtp.main.datum.measured import EVERY_S, Measured
from drtp.main.datum.screen import ScreenForm, picture
from drtp.main.datum.speaker import JsonForm, LineForm, Speaker
from drtp.main.shell import set_up_logs
from drtp.tunnel import FlowRecord


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """Logs go to this test's stderr, which is closed after it."""
    yield
    structlog.reset_defaults()


POPS = (
    PopView(
        server="s1",
        name="worker-001",
        pop="nyc",
        address="127.0.0.1:1",
        role=Role.PRIMARY,
        state=ClientStatus.CONNECTED,
        round_trip_ms=1.25,
    ),
    PopView(
        server="s2",
        name="worker-002",
        pop="fra",
        address="127.0.0.1:2",
        role=Role.SECONDARY,
        state=ClientStatus.CONNECTING,
    ),
)
SERVICE = ServiceView(
    connection="c1",
    connection_name="web-1",
    namespace="sam",
    name="web",
    protocol=Protocol.HTTP,
    enabled=True,
    addresses=(
        ServiceAddress(hostname="web.prism.localhost", port=7080, url="http://web.prism.localhost:7080"),
        ServiceAddress(hostname="web.prism.localhost", port=7443, url="https://web.prism.localhost:7443"),
    ),
    ready=True,
    local=LocalView(state=LocalState.REACHABLE, target="localhost:8080", connect_ms=0.2),
)
VIEW = AgentView(phase=AgentPhase.READY, services=(SERVICE,), pops=POPS, feed=FeedView(state="Up"))


def names(before: AgentView, after: AgentView) -> list[str]:
    return [event["event"] for event in changes(before, after)]


def test_nothing_changed_is_nothing_said() -> None:
    assert names(VIEW, VIEW) == []
    moved = replace(VIEW, pops=tuple(replace(pop, round_trip_ms=9.0, loss=0.5) for pop in POPS), streams=7)
    assert names(VIEW, moved) == []


def test_each_change_is_one_event() -> None:
    lost = replace(VIEW, pops=(replace(POPS[0], state=ClientStatus.DISCONNECTED, message="reset"), POPS[1]))
    assert names(VIEW, lost) == ["pop", "pops"]
    unreachable = replace(SERVICE, ready=False, reason="LocalServiceUnreachable", message="connection refused")
    unreachable = replace(unreachable, local=LocalView(state=LocalState.UNREACHABLE, message="connection refused"))
    assert names(VIEW, replace(VIEW, services=(unreachable,))) == ["local", "service"]
    assert names(VIEW, replace(VIEW, services=(replace(SERVICE, enabled=False),))) == ["disabled"]
    assert names(VIEW, replace(VIEW, services=())) == ["gone"]
    assert names(VIEW, replace(VIEW, feed=FeedView(state="Down", message="refused"))) == ["controlplane"]
    moved = replace(SERVICE, addresses=SERVICE.addresses[:1])
    assert names(VIEW, replace(VIEW, services=(moved,))) == ["address"]


@pytest.mark.parametrize(
    ("address", "written"),
    [
        (ServiceAddress(hostname="a", port=1, url="http://a:1"), "http://a:1"),
        (ServiceAddress(ip="127.0.0.1", port=15432), "127.0.0.1:15432"),
        (ServiceAddress(ip="::1", port=15432), "[::1]:15432"),
        (ServiceAddress(hostname="vault", port=443), "vault:443"),
        (ServiceAddress(), None),
    ],
)
def test_an_address_is_written_as_visitors_type_it(address: ServiceAddress, written: str | None) -> None:
    assert address_of(replace(SERVICE, addresses=(address,))) == written


def test_first_json_line_is_the_ready_event(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(OutputForm.JSON, quiet=False)
    waiting = replace(VIEW, services=(replace(SERVICE, ready=False, reason="NotConnected"),), pops=POPS[1:])
    with Speaker(JsonForm(), {"web": None}, 10.0) as speaker:
        speaker.follow(waiting, 10.1)
        speaker.follow(VIEW, 10.5)
        assert speaker.all_ready
        speaker.follow(replace(VIEW, pops=POPS[:1]), 11.0)
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {
        "event": "ready",
        "service": "web",
        "namespace": "sam",
        "address": "http://web.prism.localhost:7080",
        "pops": ["worker-001"],
        "seconds": 0.5,
        "addresses": ["http://web.prism.localhost:7080", "https://web.prism.localhost:7443"],
    }
    assert [line["event"] for line in lines[1:]] == ["pop", "measured"]


def test_first_line_for_people_is_the_address_alone(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(OutputForm.TEXT, quiet=False)
    with Speaker(LineForm(), {"web": None}, 0.0) as speaker:
        speaker.follow(VIEW, 0.1)
    assert capsys.readouterr().out.splitlines()[0] == "http://web.prism.localhost:7080"


def test_a_local_service_that_is_not_there_yet_is_told_with_the_address_it_will_have(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logs(OutputForm.TEXT, quiet=False)
    local = LocalView(state=LocalState.UNREACHABLE, target="localhost:8080", message="Connection refused")
    waiting = replace(VIEW, services=(replace(SERVICE, ready=False, local=local),))
    with Speaker(LineForm(), {"web": None}, 0.0) as speaker:
        for now in (0.1, 1.1):
            speaker.follow(waiting, now)
        told = capsys.readouterr()
        assert told.out == ""
        (line,) = [line for line in told.err.splitlines() if "reserved" in line]
        assert "address=http://web.prism.localhost:7080" in line
        assert "waits_for=localhost:8080" in line
        speaker.follow(VIEW, 2.0)
        speaker.follow(waiting, 3.0)
    assert "reserved" not in capsys.readouterr().err


RESERVED = replace(
    SERVICE,
    ready=False,
    addresses=(),
    reason="HostnameReserved",
    message="docs.prism.localhost is not a name that can be had (DRTP-6006).",
)


def test_what_somebody_must_mend_is_one_event_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(OutputForm.JSON, quiet=False)
    waiting = replace(VIEW, services=(RESERVED,))
    with Speaker(JsonForm(), {"web": None}, 0.0) as speaker:
        for now in (0.1, 0.2, 1.2, 2.2):
            speaker.follow(waiting, now)
        assert speaker.blocked is not None
        error = speaker.blocked.error()
        speaker.follow(VIEW, 3.0)
        assert speaker.blocked is None
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["blocked", "ready", "service"][: len(lines)]
    assert lines[0] == {
        "event": "blocked",
        "service": "web",
        "namespace": "sam",
        "reason": "HostnameReserved",
        "code": "DRTP-6006",
        "message": "docs.prism.localhost is not a name that can be had.",
        "remedy": "Choose another one, or leave it out and have one vended.",
    }
    assert error.code == "DRTP-6006"


def test_what_somebody_must_mend_is_one_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(OutputForm.TEXT, quiet=False)
    with Speaker(LineForm(), {"web": None}, 0.0) as speaker:
        for now in (0.1, 1.2, 2.2):
            speaker.follow(replace(VIEW, services=(RESERVED,)), now)
    said = [line for line in capsys.readouterr().err.splitlines() if "HostnameReserved" in line]
    assert len(said) == 1
    assert "event=blocked" in said[0]
    assert "DRTP-6006" in said[0]


def test_blockers_of_an_old_plan_are_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(OutputForm.JSON, quiet=False)
    with Speaker(JsonForm(), {"web": None}, 0.0) as speaker:
        for now in (0.1, 1.2):
            speaker.follow(replace(VIEW, services=(RESERVED,), feed=FeedView(state="Down")), now)
        speaker.follow(replace(VIEW, services=(RESERVED,)), 1.3)
        speaker.follow(VIEW, 1.4)
        assert speaker.blocked is None
    assert "blocked" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 72, 80, 100])
def test_no_word_but_a_name_is_cut_on_the_screen(width: int) -> None:
    pop = replace(
        VIEW.pops[0], name="worker-001-nyc-ac.embedded.tunnel.x", state=ClientStatus.CONNECTING,
        round_trip_ms=5.1, round_trip_floor_ms=4.9, jitter_ms=10.25, loss=0.0,
    )  # fmt: skip
    flow = FlowRecord(
        ended_unix_ms=1, visitor="198.51.100.207:50123", service="default/machine-8080-168f72", connection="c1",
        bytes_in=5_000_000, bytes_out=1_234, duration_ms=12_345, outcome="finished",
    )  # fmt: skip
    paper = io.StringIO()
    console = Console(file=paper, width=width, color_system=None)
    console.print(picture(replace(VIEW, pops=(pop,), flows=(flow,)), {"web": "http://localhost:8080"}, width))
    cut = [word for line in paper.getvalue().splitlines() for word in line.split()[1:] if "…" in word]
    assert cut == []
    assert "Connecting" in paper.getvalue()
    assert "5.1 ms" in paper.getvalue()
    assert "12345.0 ms" in paper.getvalue()


@pytest.mark.parametrize("width", [40, 72, 120])
def test_the_screen_fits_its_terminal_and_escapes_strangers(width: int) -> None:
    flow = FlowRecord(
        ended_unix_ms=1,
        visitor="203.0.113.7:5\x1b[2J",
        service="sam/web",
        connection="c1",
        bytes_in=5,
        outcome="finished",
    )
    paper = io.StringIO()
    console = Console(file=paper, width=width, color_system=None)
    console.print(picture(replace(VIEW, flows=(flow,)), {"web": "http://localhost:8080"}, width))
    shown = paper.getvalue()
    assert "\x1b" not in shown
    assert all(len(line) <= width for line in shown.splitlines())
    assert "worker-001" in shown
    assert "Forwarding" in shown
    if width >= 120:
        assert "http://web.prism.localhost:7080 -> http://localhost:8080" in shown


def test_the_screen_leaves_the_address_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    paper = io.StringIO()
    console = Console(file=paper, width=100, force_terminal=True, color_system=None)
    with Speaker(ScreenForm({"web": "http://localhost:8080"}, console), {"web": None}, 0.0) as speaker:
        speaker.follow(replace(VIEW, services=(RESERVED,)), 0.1)
        paper.seek(0)
        paper.truncate()
        speaker.follow(VIEW, 0.2)
    assert capsys.readouterr().out == "http://web.prism.localhost:7080\n"
    # What is drawn below the address never moves up over it.
    _, _, after = paper.getvalue().rpartition("\x1b[?25l")
    drawn, _, rest = after.partition("Forwarding")
    assert "\x1b[1A" not in drawn
    assert "Stopped." in rest


def test_a_former_address_is_not_announced(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(OutputForm.TEXT, quiet=False)
    moved = replace(SERVICE, addresses=(ServiceAddress(hostname="demo.x", port=1, url="http://demo.x:1"),))
    with Speaker(LineForm(), {"web": Asked(hostname="demo.x")}, 0.0) as speaker:
        speaker.follow(replace(VIEW, feed=FeedView()), 0.1)
        speaker.follow(VIEW, 0.2)
        speaker.follow(replace(VIEW, services=(moved,)), 0.3)
    assert capsys.readouterr().out == "http://demo.x:1\n"


def test_with_the_control_plane_down_the_address_on_disk_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(OutputForm.TEXT, quiet=False)
    with Speaker(LineForm(), {"web": Asked(hostname="demo.x")}, 0.0) as speaker:
        speaker.follow(replace(VIEW, feed=FeedView(state="Down")), 0.1)
    assert capsys.readouterr().out == "http://web.prism.localhost:7080\n"


def test_figures_are_an_event_when_one_has_moved_and_not_every_time() -> None:
    measured = Measured()
    first = measured.news(VIEW, 0.0)
    assert first is not None
    assert first["pops"][0] == {
        "pop": "worker-001", "roundTripMillis": 1.25, "roundTripFloorMillis": 1.25, "jitterMillis": 0.0, "loss": 0.0,
    }  # fmt: skip
    assert first["local"][0]["failures"] == VIEW.services[0].local.failures_total
    moved = replace(VIEW, pops=(replace(POPS[0], round_trip_ms=80.0), POPS[1]))
    assert measured.news(moved, EVERY_S / 2) is None
    assert measured.news(VIEW, EVERY_S) is None
    later = measured.news(moved, EVERY_S)
    assert later is not None
    assert later["pops"][0]["roundTripMillis"] == 80.0
    assert measured.news(moved, 9 * EVERY_S) is None


def test_scripts_hear_of_figures_after_the_ready_event(capsys: pytest.CaptureFixture[str]) -> None:
    with Speaker(JsonForm(), {"web": None}, 0.0) as speaker:
        speaker.follow(VIEW, 1.0)
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events[0] == "ready"
    speaker.follow(VIEW, 2.0)
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == ["measured"]
