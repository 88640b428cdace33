"""Getting through corporate networks: real proxies between an agent and everything else, real visitors behind it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from scenario.bed import BIN, Bed, Program, Serving, echo, eventually, read_exactly, require, tcp_service
from scenario.network import own_network
from scenario.proxies import socks, squid, tinyproxy

ELSEWHERE = "10.98.76.54"
USER, PASSWORD = "sam", "p4ssw0rd-s3cret"


def exchange(serving: Serving, count: int = 2_000_000) -> None:
    """A visitor's bytes there and back."""
    with socket.create_connection(serving.endpoint, timeout=20) as visitor:
        visitor.sendall(b"\x5a" * count)
        assert read_exactly(visitor, count) == b"\x5a" * count


def beyond(serving: Serving) -> set[int]:
    """The ports that the agent is connected to now."""
    agent = psutil.Process(serving.program.pid)
    return {c.raddr.port for c in agent.net_connections("tcp") if c.raddr and c.status == "ESTABLISHED"}


def remembered_all(serving: Serving) -> set[str]:
    """The ways that the agent wrote down as working, of all networks."""
    home = Path(psutil.Process(serving.program.pid).environ()["HOME"])
    state = next(home.parent.rglob(f"*{serving.service}/ways.json"))
    return set(json.loads(state.read_text()).values())


def remembered(serving: Serving) -> str:
    """The one way that the agent wrote down."""
    (kind,) = remembered_all(serving)
    return kind


def controlplane_ports(bed: Bed) -> list[int]:
    """Where people and edges reach the control plane."""
    told = json.loads(bed.curl(f"{bed.ready['api']}/.well-known/drtp", "--insecure").stdout)
    return [urlsplit(url).port or 443 for url in (bed.ready["api"], told["edge"])]


def silent_about(text: str, serving: Serving) -> None:
    said = [*serving.program.out.seen, *serving.program.err.seen, *psutil.Process(serving.program.pid).cmdline()]
    assert not any(text in line for line in said)


@pytest.mark.parametrize("started", [tinyproxy, squid])
def test_everything_goes_by_an_http_proxy(bed: Bed, started: Callable[..., object]) -> None:
    with started() as proxy, tcp_service(echo) as port:  # type: ignore[attr-defined]
        name = f"by-{started.__name__}"
        serving = bed.serve(f"tcp://localhost:{port}", "--name", name, env={"DRTP_PROXY": f"127.0.0.1:{proxy.port}"})
        exchange(serving)
        assert beyond(serving) - {port} == {proxy.port}, "the agent reaches its proxy and its service, and nothing else"
        assert eventually(lambda: remembered(serving)) == "connect"
        serving.stop()


def test_credentials_of_an_http_proxy_are_used_and_show_nowhere(bed: Bed) -> None:
    with tinyproxy(user=USER, password=PASSWORD) as proxy, tcp_service(echo) as port:
        url = f"http://{USER}:{PASSWORD}@127.0.0.1:{proxy.port}"
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "by-basic", env={"DRTP_PROXY": url})
        exchange(serving)
        silent_about(PASSWORD, serving)
        serving.stop()


def test_wrong_credentials_end_the_start_at_once_and_are_named(bed: Bed) -> None:
    with tinyproxy(user=USER, password=PASSWORD) as proxy:
        began = time.monotonic()
        program = bed.run(
            "serve", "tcp://localhost:1", "--name", "by-nobody", "--output", "json",
            env={"DRTP_PROXY": f"http://{USER}:wr0ng@127.0.0.1:{proxy.port}"},
        )  # fmt: skip
        event = program.event("error", 10)
        assert event["code"] == "DRTP-4050"
        assert "refused the user name or password" in event["message"]
        assert program.process.wait(10) == 77
        assert time.monotonic() - began < 8
        assert "wr0ng" not in program.story()


def test_everything_goes_by_a_socks_proxy_that_signs_in(bed: Bed) -> None:
    with socks(user=USER, password=PASSWORD) as proxy, tcp_service(echo) as port:
        url = f"socks5h://{USER}:{PASSWORD}@127.0.0.1:{proxy.port}"
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "by-socks", env={"DRTP_PROXY": url})
        exchange(serving)
        assert eventually(lambda: remembered(serving)) == "socks5"
        silent_about(PASSWORD, serving)
        serving.stop()


def test_wrong_socks_credentials_are_named(bed: Bed) -> None:
    with socks(user=USER, password=PASSWORD) as proxy:
        program = bed.run(
            "serve", "tcp://localhost:1", "--name", "by-no-socks", "--output", "json",
            env={"DRTP_PROXY": f"socks5://{USER}:wr0ng@127.0.0.1:{proxy.port}"},
        )  # fmt: skip
        assert program.event("error", 10)["code"] == "DRTP-4050"
        assert program.process.wait(10) == 77


def test_a_chosen_proxy_that_is_not_there_is_named(bed: Bed) -> None:
    program = bed.run(
        "serve", "tcp://localhost:1", "--name", "no-proxy", "--once", "--proxy", "127.0.0.1:9", "--output", "json"
    )
    assert program.event("error", 15)["code"] == "DRTP-4054"
    assert program.process.wait(10) == 69


def test_a_password_is_no_argument(bed: Bed) -> None:
    done = bed.datumctl("serve", "8080", "--proxy", f"http://{USER}:{PASSWORD}@127.0.0.1:1", check=False)
    assert done.returncode == 64
    assert "DRTP_PROXY" in done.stderr
    assert PASSWORD not in done.stderr


def test_through_a_network_that_looks_into_tls_the_agent_goes_by_websocket(bed: Bed) -> None:
    """Squid ends TLS to the POPs with a certificate of its own. The control plane is exempt, as the page asks for."""
    ports = controlplane_ports(bed)
    exempt = (f"acl controlplane port {' '.join(map(str, ports))}", "ssl_bump splice controlplane")
    with squid(inspecting=True, extra=exempt) as proxy, tcp_service(echo) as port:
        env = {"DRTP_PROXY": f"127.0.0.1:{proxy.port}"}
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "by-websocket", env=env)
        exchange(serving)
        assert eventually(lambda: remembered(serving)) == "connect+websocket"
        serving.stop()
        assert eventually(lambda: "/drtp/1" in proxy.said()), "squid saw one request, and in it only what is sealed"
        again = bed.serve(f"tcp://localhost:{port}", "--name", "by-websocket", env=env)
        reasons = [line for line in again.program.err.seen if "DRTP-4055" in line]
        assert not reasons, "the second start begins with what worked"
        again.stop()


def test_through_a_network_that_looks_into_all_tls_the_control_plane_is_reached_by_websocket(bed: Bed) -> None:
    """Create, enrol, follow the feed and serve: nothing is exempt, and nothing is sent that squid could read."""
    with squid(inspecting=True) as proxy, tcp_service(echo) as port:
        env = {"DRTP_PROXY": f"127.0.0.1:{proxy.port}"}
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "all-by-websocket", env=env)
        exchange(serving)
        serving.stop()
        said = proxy.said()
        for door in controlplane_ports(bed):
            assert f":{door}/drtp/1" in said, said
        assert not any(word in said for word in ("/v1/", "/apis/")), said
        status, found = findings(bed, env=env)
    assert status == 0
    for door in ("api", "edge"):
        assert (found["tls", door]["verdict"], found["tls", door]["code"]) == ("WARN", "DRTP-4055")
        assert found["websocket", door]["verdict"] == "OK"
    assert found["account", "api"]["verdict"] == "OK"


def findings(
    bed: Bed, *argv: str, env: dict[str, str] | None = None
) -> tuple[int, dict[tuple[str, str], dict[str, str]]]:
    """Exit status, and what `diagnose` found by (check, subject)."""
    program = bed.run("diagnose", *argv, "--output", "json", env=env)
    status = program.process.wait(60)
    lines = [json.loads(line) for line in program.out.seen]
    assert lines[-1]["event"] == "diagnosis", program.story()
    return status, {(line["check"], line["subject"]): line for line in lines[:-1]}


def test_diagnose_finds_nothing_where_nothing_is_in_the_way(bed: Bed) -> None:
    with tcp_service(echo) as port:
        status, found = findings(bed, f"tcp://localhost:{port}")
    assert status == 0
    assert {line["verdict"] for line in found.values()} == {"OK"}
    pops = [f"pop {pop['name']}" for pop in bed.ready["pops"]]
    wanted = {(check, pop) for pop in pops for check in ("tcp", "tls", "websocket")}
    doors = {(check, door) for door in ("api", "edge") for check in ("tcp", "tls")}
    assert wanted | doors | {("clock", "api"), ("account", "api"), ("proxy", "environment")} <= found.keys()
    assert found["local", "service"]["what"].startswith(f"tcp://localhost:{port} accepts")


def test_diagnose_names_what_is_in_the_way_and_shows_no_password(bed: Bed) -> None:
    with tinyproxy(user=USER, password=PASSWORD) as proxy:
        url = f"http://{USER}:{PASSWORD}-not@127.0.0.1:{proxy.port}"
        status, found = findings(bed, "udp://127.0.0.1:1", env={"DRTP_PROXY": url})
    assert status == 69
    assert found["proxy", "environment"]["what"] == f"http://****@127.0.0.1:{proxy.port} by DRTP_PROXY"
    assert (found["tcp", "api"]["verdict"], found["tcp", "api"]["code"]) == ("FAIL", "DRTP-4050")
    assert found["tcp", "api"]["remedy"]
    assert found["local", "service"]["code"] == "DRTP-4013"
    assert PASSWORD not in json.dumps([*found.values()])


def test_diagnose_names_who_looks_into_tls_and_that_the_tunnel_passes(bed: Bed) -> None:
    exempt = (f"acl controlplane port {' '.join(map(str, controlplane_ports(bed)))}", "ssl_bump splice controlplane")
    with squid(inspecting=True, extra=exempt) as proxy:
        status, found = findings(bed, env={"DRTP_PROXY": f"127.0.0.1:{proxy.port}"})
    assert status == 0, "the agent has a way"
    for pop in (f"pop {pop['name']}" for pop in bed.ready["pops"]):
        tls = found["tls", pop]
        assert (tls["verdict"], tls["code"]) == ("WARN", "DRTP-4055")
        assert "Corporate Inspection CA" in tls["what"]
        assert found["websocket", pop]["verdict"] == "OK"


def test_diagnose_goes_by_what_agents_left_where_there_is_no_context(bed: Bed, tmp_path: Path) -> None:
    with tcp_service(echo) as port:
        bed.serve(f"tcp://localhost:{port}", "--name", "left-behind").stop()
    state = next(Path(bed.ready["context"]).parent.glob("agents"))
    done = bed.datumctl("--context", str(tmp_path / "none.json"), "diagnose", check=False)
    assert "DRTP-7003" in done.stdout + done.stderr
    program = bed.run("diagnose", "--context", str(tmp_path / "none.json"), env={"DRTP_STATE_DIR": str(state)})
    assert program.process.wait(60) == 0
    told = "\n".join(program.out.seen)
    assert all(f"pop {pop['name']}" in told for pop in bed.ready["pops"]), told


def test_a_remembered_way_is_begun_with_and_another_is_found_when_it_is_gone(bed: Bed) -> None:
    """The POP's own network changes from one that looks into TLS to one that does not."""
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "moving")
        assert eventually(lambda: remembered(serving)) == "direct"
        serving.stop()
        with socks() as proxy:
            env = {"DRTP_PROXY": f"socks5://127.0.0.1:{proxy.port}"}
            by_proxy = bed.serve(f"tcp://localhost:{port}", "--name", "moving", env=env)
            exchange(by_proxy)
            assert eventually(lambda: "socks5" in remembered_all(by_proxy))
            by_proxy.stop()
        again = bed.serve(f"tcp://localhost:{port}", "--name", "moving")
        exchange(again)
        assert remembered_all(again) == {"direct", "socks5"}, "each network, and each proxy, has a memory of its own"
        again.stop()


def operator(bed: Bed, *argv: str) -> str:
    command = [str(BIN / "drtp"), *argv, "--data-dir", str(bed.data)]
    return subprocess.run(command, capture_output=True, text=True, env=bed.env, timeout=30, check=True).stdout.strip()


def only_pop_elsewhere(bed: Bed) -> None:
    """A POP at an address that is not loopback joins; the bed's own take nobody new."""
    secret, name = bed.directory / "join", "worker-003-elsewhere.by-hand"
    secret.write_text(operator(bed, "join", "pop", name))
    argv = [
        BIN / "drtp", "pop", "--data-dir", bed.directory / "pop", "--name", name, "--pop", "nrt",
        "--location", "35.7,139.7", "--address", ELSEWHERE, "--port", "0", "--endpoint-address", ELSEWHERE,
        "--join-file", secret,
    ]  # fmt: skip
    bed.programs.append(Program(argv, bed.env))
    eventually(lambda: bed.kubectl("get", "drtpserver", name))
    bed.kubectl("wait", f"drtpserver/{name}", "--for=condition=Ready", "--timeout=30s")
    for pop in bed.ready["pops"]:
        operator(bed, "drain", pop["name"])


@pytest.mark.timeout(180)
def test_the_usual_variables_lead_by_the_proxy_and_no_proxy_around_it(tmp_path: Path) -> None:
    with own_network():
        subprocess.run([require("ip"), "address", "add", f"{ELSEWHERE}/32", "dev", "lo"], check=True)
        bed = Bed(tmp_path).start()
        try:
            only_pop_elsewhere(bed)
            with tinyproxy() as proxy, tcp_service(echo) as port:
                for name, env, way in (
                    ("by-variable", {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}, "connect"),
                    (
                        "around",
                        {"all_proxy": f"http://127.0.0.1:{proxy.port}", "no_proxy": f"other.example, {ELSEWHERE}/31"},
                        "direct",
                    ),
                    # tailscale#15555: the laptop at home, where the proxy at work is not there.
                    ("at-home", {"HTTPS_PROXY": "http://127.0.0.1:9"}, "direct"),
                ):
                    serving = bed.serve(f"tcp://localhost:{port}", "--name", name, env=env)
                    exchange(serving)
                    assert eventually(partial(remembered, serving)) == way
                    assert (proxy.port in beyond(serving)) is (way == "connect")
                    serving.stop()
        finally:
            bed.close()


def test_an_agent_comes_by_quic_where_pops_listen_for_it_and_one_pop_killed_costs_no_newcomer(
    new_bed: Callable[..., Bed],
) -> None:
    bed = new_bed(environment={"DRTP_QUIC": "1"})
    with tcp_service(echo) as port:
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "by-quic", "--transport", "quic")
        exchange(serving, 20_000_000)
        doors = {port["port"] for one in bed.objects("drtpservers") for port in one["spec"]["listeners"]}
        assert doors and not beyond(serving) & doors, "no TCP to a tunnel server"
        assert eventually(lambda: remembered(serving)) == "quic"
        bed.part(bed.primary(serving.service)).kill()
        exchange(serving)
        serving.stop()


def test_where_no_pop_listens_for_quic_an_agent_goes_by_tcp(bed: Bed) -> None:
    with tcp_service(echo) as port:
        began = time.monotonic()
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "by-no-quic", "--transport", "quic")
        exchange(serving)
        assert time.monotonic() - began < 10
        assert eventually(lambda: remembered(serving)) == "direct"
        serving.stop()
