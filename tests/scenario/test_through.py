"""Getting through corporate networks: real proxies between an agent and everything else, real visitors behind it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from scenario.bed import Bed, Serving, echo, eventually, read_exactly, tcp_service
from scenario.proxies import socks, squid, tinyproxy

USER, PASSWORD = "sam", "p4ssw0rd-s3cret"


def exchange(serving: Serving, count: int = 2_000_000) -> None:
    """A visitor's bytes there and back."""
    with socket.create_connection(serving.endpoint, timeout=20) as visitor:
        visitor.sendall(b"\x5a" * count)
        assert read_exactly(visitor, count) == b"\x5a" * count


def remembered(serving: Serving) -> str:
    """The way that the agent wrote down as working."""
    state = next(
        Path(psutil.Process(serving.program.pid).environ()["HOME"]).parent.rglob(f"*{serving.service}/ways.json")
    )
    (kind,) = json.loads(state.read_text()).values()
    return str(kind)


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
        agent = psutil.Process(serving.program.pid)
        beyond = {c.raddr.port for c in agent.net_connections("tcp") if c.raddr and c.status == "ESTABLISHED"}
        assert beyond - {port} == {proxy.port}, "the agent reaches its proxy and its service, and nothing else"
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


def test_a_proxy_of_another_network_is_passed_by_and_the_agent_says_so(bed: Bed) -> None:
    """tailscale#15555: the laptop that is at home. Loopback is exempt from variables, so nothing is even tried here."""
    with tcp_service(echo) as port:
        env = {"HTTPS_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "at-home", env=env)
        exchange(serving)
        assert eventually(lambda: remembered(serving)) == "direct"
        serving.stop()


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
