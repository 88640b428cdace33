"""What a connector makes of its plan: ports for the core, and words for people."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from drtp.agent.connectplan import ConnectPlan, Port, port_views, read_connect_plan
from drtp.agent.connectview import ConnectorView, PortView
from drtp.agent.picture import views_of
from drtp.agent.view import AgentPhase, FeedView
from drtp.api.drtp import Protocol, Role
from drtp.api.snapshots import ConnectWay, Generation, PlanConnect, PlanServer, Snapshot
from drtp.main.datum.connect_screen import picture
from drtp.main.datum.connect_speaker import ConnectSpeaker, Event, JsonConnectForm
from drtp.tunnel import ConnectionStats, FlowRecord, SessionPhase, SessionStats, Stats

PORT = Port("joe/pg", port=5432)
SERVER = PlanServer(server="s-1", name="nyc.tunnel.test", pop="nyc", address="127.0.0.1", port=7000, role=Role.PRIMARY)
UP = Stats(sessions=(SessionStats(peer="s-1", address="127.0.0.1:7000", state=SessionPhase.OPEN),))


def snapshot(reason: str = "") -> Snapshot:
    ways = () if reason else (ConnectWay("c-1", "a-1", ("s-1",)), ConnectWay("c-2", "a-2", ("s-1", "s-2")))
    plan = PlanConnect(namespace="joe", name="pg", service="u", ways=ways, reason=reason)
    return Snapshot(Generation(1, 1), {"server/s-1": SERVER, "connect/joe/pg": plan})


def view(plan: ConnectPlan, stats: Stats = UP, *, bound: bool = True) -> PortView:
    where = {PORT.key: "127.0.0.1:5432"} if bound else {}
    (one,) = port_views((PORT,), plan, stats, views_of(plan.servers, stats), where)
    return one


def test_a_port_is_there_before_the_first_plan_and_leads_nowhere() -> None:
    plan = read_connect_plan(None, (PORT,))
    assert plan.documents[PORT.key]["ways"] == []
    assert plan.documents[PORT.key]["bind"] == {"address": "127.0.0.1", "port": 5432}
    assert (view(plan).ready, view(plan).code) == (False, "DRTP-4066")


def test_every_agent_on_every_pop_is_a_way() -> None:
    plan = read_connect_plan(snapshot(), (PORT, Port("joe/pg", path=Path("/run/pg.sock"))))
    ways = [(way["agent"], way["server"]) for way in plan.documents[PORT.key]["ways"]]
    assert ways == [("a-1", "s-1"), ("a-2", "s-1"), ("a-2", "s-2")]
    assert plan.documents["port/joe/pg//run/pg.sock"]["bind"] == {"path": "/run/pg.sock"}
    assert view(plan).ready
    assert view(plan).pops == ("nyc",)
    assert not view(plan, Stats()).ready


def test_each_obstacle_has_its_code() -> None:
    codes = {"NotAllowed": "4060", "AgentAway": "4061", "UdpNotSealed": "4070", "Disabled": "4067", "New": "4061"}
    for reason, code in codes.items():
        said = view(read_connect_plan(snapshot(reason), (PORT,)))
        assert (said.ready, said.reason, said.code) == (False, reason, f"DRTP-{code}")
        assert "joe/pg" in said.message


def test_a_service_without_an_agent_on_any_pop_is_not_ready_and_keeps_its_ways() -> None:
    for away, code in ((("s-1",), ""), (("s-1", "s-2"), "DRTP-4061"), (("s-2",), "")):
        ways = (ConnectWay("c-1", "a-1", ("s-1",), ("s-1",)), ConnectWay("c-2", "a-2", ("s-1", "s-2"), away))
        told = PlanConnect(namespace="joe", name="pg", service="u", ways=ways)
        plan = read_connect_plan(Snapshot(Generation(1, 1), {"server/s-1": SERVER, "connect/joe/pg": told}), (PORT,))
        said = view(plan)
        assert len(plan.documents[PORT.key]["ways"]) == 3
        if away == ("s-1",):
            # Its agent is on a POP that this connector has no session with yet.
            assert (said.ready, said.code) == (False, "DRTP-4066")
        else:
            assert (said.ready, said.code, said.reason) == (not code, code, "AgentAway" if code else "")


class Heard(JsonConnectForm):
    """The events, kept."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def say(self, event: Event) -> None:
        self.events.append(event)


def test_the_ready_event_comes_first_and_then_one_for_each_change() -> None:
    heard = Heard()
    speaker = ConnectSpeaker(heard, 0.0)
    plan = read_connect_plan(snapshot(), (PORT,))
    ready = ConnectorView(phase=AgentPhase.READY, ports=(view(plan),), pops=views_of(plan.servers, UP))
    speaker.follow(ready, 1.5)
    assert heard.events[0] == {
        "event": "ready",
        "service": "joe/pg",
        "local": "127.0.0.1:5432",
        "protocol": "TCP",
        "pops": ["nyc"],
        "encrypted": True,
        "seconds": 1.5,
    }
    heard.events.clear()
    speaker.follow(ready, 2.0)
    assert heard.events == []
    gone = view(read_connect_plan(snapshot("NotAllowed"), (PORT,)))
    speaker.follow(ConnectorView(ports=(gone,), pops=ready.pops, feed=FeedView(state="Down")), 3.0)
    assert [event["event"] for event in heard.events] == ["service", "controlplane"]
    assert heard.events[0]["code"] == "DRTP-4060"


def test_a_connection_that_was_refused_is_said_once_and_an_orderly_end_never() -> None:
    heard = Heard()
    speaker = ConnectSpeaker(heard, 0.0)
    ends = (
        "finished",
        "local service refused",
        "end-to-end encryption broke",
        "reset by the other end",
        "idle",
        "the other end is too old for UDP",
        "malformed datagram",
    )
    flows = tuple(
        FlowRecord(ended_unix_ms=number, visitor="", service="joe/pg", connection="", outcome=end)
        for number, end in enumerate(ends, 1)
    )
    speaker.follow(ConnectorView(flows=flows), 1.0)
    speaker.follow(ConnectorView(flows=flows), 2.0)
    codes = [f"DRTP-{number}" for number in (4063, 4065, 4070, 4071)]
    assert [event["code"] for event in heard.events] == codes


def test_counts_are_the_cores_own() -> None:
    counts = ConnectionStats(connection=PORT.key, service="joe/pg", streams=2, streams_total=7, bytes_in=5)
    seen = view(read_connect_plan(snapshot(), (PORT,)), Stats(sessions=UP.sessions, connections=(counts,)))
    assert (seen.streams, seen.streams_total, seen.bytes_in) == (2, 7, 5)


DNS = Port("joe/dns", port=5353)


def told(protocol: Protocol = Protocol.UDP, reason: str = "") -> Snapshot:
    """The control plane's word on `joe/dns`; of what is not allowed it says nothing."""
    ways = () if reason else (ConnectWay("c-1", "a-1", ("s-1",)),)
    said = PlanConnect(namespace="joe", name="dns", service="u", protocol=protocol, ways=ways, reason=reason)
    nothing = PlanConnect(namespace="joe", name="dns", reason=reason)
    entry = nothing if reason == "NotAllowed" else said
    return Snapshot(Generation(1, 1), {"server/s-1": SERVER, "connect/joe/dns": entry})


def bearing(*, datagrams: bool = True) -> Stats:
    session = SessionStats(peer="s-1", address="127.0.0.1:7000", state=SessionPhase.OPEN, carries_datagrams=datagrams)
    return Stats(sessions=(session,))


def presented(port: Port, plan: ConnectPlan, stats: Stats | None = None) -> PortView:
    stats = stats or bearing()
    (one,) = port_views((port,), plan, stats, views_of(plan.servers, stats), {port.key: "127.0.0.1:5353"})
    return one


def test_a_port_is_what_its_service_is_and_stays_so_while_nothing_is_told() -> None:
    plan = read_connect_plan(None, (DNS,))
    assert plan.documents[DNS.key]["protocol"] == "TCP"
    plan = read_connect_plan(told(), (DNS,), plan)
    assert plan.documents[DNS.key]["protocol"] == "UDP"
    assert presented(DNS, plan).ready
    for nothing in (told(reason="NotAllowed"), Snapshot(Generation(1, 1), {})):
        plan = read_connect_plan(nothing, (DNS,), plan)
        assert (plan.documents[DNS.key]["protocol"], plan.documents[DNS.key]["ways"]) == ("UDP", [])
        assert presented(DNS, plan).protocol is Protocol.UDP
    plan = read_connect_plan(told(Protocol.TCP), (DNS,), plan)
    assert plan.documents[DNS.key]["protocol"] == "TCP"


def test_a_place_that_does_not_fit_has_its_code_and_leads_nowhere() -> None:
    path, asked = Port("joe/dns", path=Path("/run/dns.sock")), Port("joe/dns", port=5353, datagrams=True)
    assert DNS.key != asked.key
    for port, snapshot, reason, protocol in (
        (path, told(), "NoDatagrams", "TCP"),
        (asked, told(Protocol.TCP), "NoConnections", "UDP"),
        (asked, told(), "", "UDP"),
        (asked, told(reason="NotAllowed"), "NotAllowed", "UDP"),
    ):
        plan = read_connect_plan(snapshot, (port,))
        document = plan.documents[port.key]
        assert (document["protocol"], bool(document["ways"])) == (protocol, not reason)
        seen = presented(port, plan)
        assert (seen.reason, seen.code == "DRTP-4064") == (reason, reason.startswith("No") and reason != "NotAllowed")


def test_pops_that_carry_no_datagrams_are_none_of_a_udp_service() -> None:
    plan = read_connect_plan(told(), (DNS,))
    seen = presented(DNS, plan, bearing(datagrams=False))
    assert (seen.ready, seen.reason, seen.code, seen.pops) == (False, "TooOld", "DRTP-4070", ())
    assert presented(DNS, plan, Stats()).code == "DRTP-4066"
    tcp = read_connect_plan(told(Protocol.TCP), (DNS,))
    assert presented(DNS, tcp, bearing(datagrams=False)).ready


def test_two_protocols_at_one_number_are_two_places() -> None:
    heard = Heard()
    udp = presented(DNS, read_connect_plan(told(), (DNS,)))
    tcp = presented(DNS, read_connect_plan(told(Protocol.TCP), (DNS,)))
    ConnectSpeaker(heard, 0.0).follow(ConnectorView(ports=(udp, tcp)), 1.0)
    assert [(event["event"], event["protocol"]) for event in heard.events] == [("ready", "UDP"), ("ready", "TCP")]


def test_the_screen_counts_datagrams_of_a_udp_service_alone() -> None:
    shown: dict[Protocol, str] = {}
    for protocol in (Protocol.TCP, Protocol.UDP):
        port = PortView(service="joe/dns", local="127.0.0.1:53", protocol=protocol, datagrams_in=1_200)
        console = Console(width=80, file=io.StringIO())
        console.print(picture(ConnectorView(ports=(port,)), 80))
        assert isinstance(console.file, io.StringIO)
        shown[protocol] = console.file.getvalue()
    assert "127.0.0.1:53 (UDP)" in shown[Protocol.UDP]
    assert "out 1,200, in 0, dropped 0" in shown[Protocol.UDP]
    assert "(UDP)" not in shown[Protocol.TCP]
    assert "dropped" not in shown[Protocol.TCP]
