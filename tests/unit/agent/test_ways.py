"""The ways that the core is given, in order, and what is remembered of them."""

from __future__ import annotations

from pathlib import Path

from drtp.agent.ways import NETWORKS_MAX, WayMemory, place, ways_of, ways_to
from drtp.api.drtp import Role
from drtp.api.snapshots import PlanServer
from drtp.client.proxies import proxies

SERVER = PlanServer(server="s-1", name="p.tunnel.x", pop="nyc", address="192.0.2.1", port=443, role=Role.PRIMARY)


def kinds(**environment: str) -> list[str]:
    return [way.kind for way in ways_to(SERVER.address, SERVER.port, proxies(environment))]


def test_straight_comes_before_websocket():
    assert kinds() == ["direct", "direct+websocket"]
    assert kinds(HTTPS_PROXY="http://p", NO_PROXY="192.0.2.0/24") == ["direct", "direct+websocket"]


def test_a_variables_proxy_comes_first_and_straight_is_for_networks_without_it():
    assert kinds(HTTPS_PROXY="http://p") == ["connect", "connect+websocket", "direct", "direct+websocket"]


def test_a_chosen_proxy_is_the_only_hop():
    assert kinds(DRTP_PROXY="socks5://p") == ["socks5", "socks5+websocket"]
    assert kinds(DRTP_PROXY="direct", HTTPS_PROXY="http://p") == ["direct", "direct+websocket"]


def test_quic_comes_first_where_it_is_asked_for_and_never_goes_around_a_proxy():
    def kinds_with_quic(**environment: str) -> list[str]:
        ways = ways_to(SERVER.address, SERVER.port, proxies(environment), quic=True)
        return [way.kind for way in ways]

    assert kinds_with_quic() == ["quic", "direct", "direct+websocket"]
    assert kinds_with_quic(HTTPS_PROXY="http://p") == kinds(HTTPS_PROXY="http://p")
    assert kinds_with_quic(DRTP_PROXY="socks5://p") == kinds(DRTP_PROXY="socks5://p")


def test_what_worked_is_begun_with_if_it_is_still_a_way():
    rules = proxies({"HTTPS_PROXY": "http://p"})
    assert ways_of([SERVER], rules, "direct+websocket")["s-1"].first == 3
    assert ways_of([SERVER], rules, "socks5")["s-1"].first == 0
    assert ways_of([SERVER], rules, None)["s-1"].first == 0


def test_each_network_has_its_memory_and_the_file_is_private(tmp_path: Path):
    memory = WayMemory(tmp_path)
    assert memory.worked("home") is None
    memory.remember("home", "direct")
    memory.remember("work", "connect+websocket")
    again = WayMemory(tmp_path)
    assert (again.worked("home"), again.worked("work")) == ("direct", "connect+websocket")
    assert (tmp_path / "ways.json").stat().st_mode & 0o077 == 0


def test_the_network_left_longest_ago_is_forgotten(tmp_path: Path):
    memory = WayMemory(tmp_path)
    for number in range(NETWORKS_MAX + 1):
        memory.remember(f"net-{number}", "direct")
    assert memory.worked("net-0") is None
    assert memory.worked("net-1") == "direct"


def test_a_damaged_memory_is_no_memory(tmp_path: Path):
    (tmp_path / "ways.json").write_bytes(b"{")
    (tmp_path / "ways.json").chmod(0o600)
    assert WayMemory(tmp_path).worked("home") is None


def test_another_proxy_makes_another_place_and_no_password_is_in_it():
    rules = proxies({"HTTPS_PROXY": "http://sam:s3cret@p:3128"})
    assert place("gateway 10.0.0.1", rules) == "gateway 10.0.0.1 by p:3128"
    assert place("gateway 10.0.0.1", proxies({})) == "gateway 10.0.0.1"
