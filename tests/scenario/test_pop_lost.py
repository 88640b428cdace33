"""A POP is lost under load, killed or frozen. Of those who come later nobody fails; who was there is told at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from scenario.bed import Bed, eventually, killed
from scenario.load import Crowd, Fate, hears_of_it, http, local_service, silent_visitor, tcp, visitors

pytestmark = pytest.mark.alone

NEW_PER_S = 100.0
"""Of each sort: 200 a second together."""
ESTABLISHED = 20
IN_VAIN_SHARE = {"mtls": 0.0, "unix": 0.3}
"""Over a socket, of those who speak ten times a second, at most, who speak between two looks of a busy Envoy."""
SLOW_S = 3.0
"""A frozen POP may slow set-ups for so long."""
NAPS, NAP_S = 4, 1.5
"""Shorter than the silence by which an agent leaves a POP; longer than anybody's patience with a handshake."""
UNNOTICED_S = {"mtls": 0.0, "unix": 1.0}
"""A socket's connections are made by the kernel: until the gateway host has noticed, who comes is as who was there."""


def _ready(bed: Bed, server: str) -> str:
    """The status of a DRTPServer's Ready condition."""
    found = next(s for s in bed.objects("drtpservers") if s["metadata"]["name"] == server)
    return next(c["status"] for c in found["status"]["conditions"] if c["type"] == "Ready")


def _whole(bed: Bed, *services: str) -> dict[str, dict[tuple[str, str], tuple[str, int]]]:
    """Endpoints by service, once each is connected on both POPs."""
    eventually(lambda: all(len(bed.endpoints(service)) == 2 for service in services), 60)
    return {service: bed.endpoints(service) for service in services}


def _told(crowd: Crowd, instant: float, hop: str) -> None:
    """Who was there saw a reset within a second, or nothing: never a hang, and never an end in good order."""
    established = crowd.of("established").there_at(instant)
    cut = established.failed
    in_vain = [visit for visit in cut if visit.asked_in_vain]
    assert len(in_vain) <= len(cut) * IN_VAIN_SHARE[hop], established.fates
    assert {visit.fate for visit in cut if visit not in in_vain} <= {Fate.RESET}, established.fates
    assert all(visit.ended - instant < 1.0 for visit in cut), max(visit.ended - instant for visit in cut)


@pytest.mark.timeout(120)
def test_who_speaks_in_the_moment_of_a_kill_sees_a_reset_too(new_bed: Callable[..., Bed]) -> None:
    """Envoy finds the visitor's word and its POP's end in one look, because it slept meanwhile."""
    bed = new_bed()
    with local_service() as port:
        echo = bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        _whole(bed, "echo")
        there = [silent_visitor(echo.endpoint) for _ in range(ESTABLISHED)]
        envoy = bed.part("envoy")
        envoy.suspend()
        try:
            for visitor in there[::2]:
                visitor.sendall(b"a word")
            killed(bed.part(bed.primary(echo.service)))
            for visitor in there[1::4]:
                visitor.sendall(b"a word that is too late")
        finally:
            thawed = time.monotonic()
            envoy.resume()
        assert max(hears_of_it(visitor) for visitor in there) - thawed < 1.0


@pytest.mark.timeout(240)
def test_r7_a_killed_pop_fails_nobody_who_comes_later_and_comes_back_with_its_ports(
    new_bed: Callable[..., Bed], hop: str
) -> None:
    bed = new_bed("--hop", hop)
    with local_service() as port:
        echo = bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        web = bed.serve(f"localhost:{port}", "--name", "web")
        before = _whole(bed, "echo", "web")
        streams = (
            tcp(echo.endpoint, per_s=NEW_PER_S),
            http(bed.http, web.host, per_s=NEW_PER_S),
            tcp(echo.endpoint, "established", staying=ESTABLISHED),
        )
        primary = bed.primary(echo.service)
        kills: list[float] = []
        with visitors(*streams) as load:
            for pop in sorted(bed.ready["pops"], key=lambda pop: pop["name"] != primary):
                load.run_on(1.5)
                kills.append(killed(bed.part(pop["name"])))
                load.run_on(2.5)
                eventually(lambda: _whole(bed, "echo", "web") == before, 60)
                eventually(lambda: _ready(bed, pop["name"]) == "True")  # noqa: B023
        crowd = load.crowd()
    for instant in kills:
        later = crowd.within(instant, instant + 2.5)
        print(f"killed: {later.of('tcp')} · {later.of('http')}")
        assert [v for v in later.failed if v.stream != "established"] == []
        _told(crowd, instant, hop)
    assert crowd.of("established").fates[Fate.RESET.value] >= ESTABLISHED // 2, "nobody was on the killed POPs"


@pytest.mark.timeout(240)
def test_r7_a_frozen_pop_slows_set_ups_for_a_moment_and_fails_none(new_bed: Callable[..., Bed], hop: str) -> None:
    bed = new_bed("--hop", hop)
    with local_service() as port:
        echo = bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        web = bed.serve(f"localhost:{port}", "--name", "web")
        before = _whole(bed, "echo", "web")
        frozen = bed.part(bed.primary(echo.service))
        silent = [silent_visitor(echo.endpoint) for _ in range(ESTABLISHED)]
        with visitors(tcp(echo.endpoint, per_s=NEW_PER_S), http(bed.http, web.host, per_s=NEW_PER_S)) as load:
            load.run_on(1.5)
            instant = time.monotonic()
            frozen.send_signal(signal.SIGSTOP)
            try:
                load.run_on(6.0)
                measured = time.monotonic()
                # Asked at leisure: each question is a process beside the visitors.
                primary = bed.primary("echo")
                eventually(lambda: _ready(bed, primary) != "True", 30, 0.5)
            finally:
                thawed = time.monotonic()
                frozen.send_signal(signal.SIGCONT)
            # Its agents have left it meanwhile.
            heard = [hears_of_it(visitor) - thawed for visitor in silent]
            load.run_on(2.0)
            eventually(lambda: _whole(bed, "echo", "web") == before, 60)
        crowd = load.crowd()
    later, after = crowd.after(instant), crowd.within(instant + SLOW_S, measured)
    print(f"frozen ({hop}): {later} · after {SLOW_S:.0f} s: {after}")
    assert crowd.after(instant + UNNOTICED_S[hop]).failed == []
    assert {visit.fate for visit in later.failed} <= {Fate.HANG}, later.fates
    # Through the frozen POP every set-up takes the connect timeout, half a second. A median stands on a busy machine.
    assert after.setup_s(0.5) < 0.5, str(after)
    assert max(heard) < 2.0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", ["both POPs", "Envoy"])
def test_a_machine_that_sleeps_for_a_moment_fails_nobody(new_bed: Callable[..., Bed], part: str) -> None:
    """Connections that Envoy began for visitors who went another way are left over, and lead nobody else anywhere."""
    bed = new_bed()
    with local_service() as port:
        echo = bed.serve(f"tcp://localhost:{port}", "--name", "echo")
        web = bed.serve(f"localhost:{port}", "--name", "web")
        _whole(bed, "echo", "web")
        asleep = [bed.part("envoy")] if part == "Envoy" else [bed.part(server) for _, server in bed.endpoints("web")]
        with visitors(tcp(echo.endpoint, per_s=50), http(bed.http, web.host, per_s=50)) as load:
            load.run_on(1.0)
            for _ in range(NAPS):
                for process in asleep:
                    process.suspend()
                load.run_on(NAP_S)
                for process in asleep:
                    process.resume()
                load.run_on(1.0)
        assert load.crowd().failed == []
