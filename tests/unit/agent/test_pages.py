"""The agent's status pages: for this machine only."""

from __future__ import annotations

import socket

import aiohttp
import pytest

from drtp.agent.pages import Readiness, agent_readiness, free_socket, status_pages
from drtp.agent.settings import PORTS_TRIED, LocalAddress
from drtp.agent.view import AgentPhase, AgentView
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Terminal


def _nothing_yet() -> Readiness:
    return agent_readiness(AgentView())


async def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


async def test_ready_is_503_until_everything_is_proven() -> None:
    view = AgentView(phase=AgentPhase.CONNECTING)
    async with status_pages(free_socket("127.0.0.1", 0), lambda: agent_readiness(view), (), SystemClock()) as url:
        status, text = await fetch(f"{url}/ready")
        assert status == 503
        assert '"phase":"Connecting"' in text


async def test_dns_rebinding_is_refused_cve_2022_41924() -> None:
    """CVE-2022-41924: a web page elsewhere must not reach the local daemon under another name."""
    async with status_pages(free_socket("127.0.0.1", 0), _nothing_yet, ("box.lan",), SystemClock()) as url:
        assert (await fetch(f"{url}/metrics"))[0] == 200
        assert (await fetch(f"{url}/metrics", {"Host": "box.lan:4040"}))[0] == 200
        assert (await fetch(f"{url}/metrics", {"Host": "evil.example"}))[0] == 403
        assert (await fetch(f"{url}/ready", {"Host": "evil.example:80"}))[0] == 403
        assert (await fetch(f"{url}/ready", {"Origin": "http://evil.example"}))[0] == 403


async def test_the_pages_answer_on_ipv6() -> None:
    async with status_pages(free_socket("::1", 0), _nothing_yet, (), SystemClock()) as url:
        assert (await fetch(f"{url}/ready"))[0] == 503


def test_a_port_that_was_named_and_is_taken_is_an_error() -> None:
    with free_socket("127.0.0.1", 0) as first, pytest.raises(Terminal, match="DRTP-4016") as said:
        free_socket(*LocalAddress("127.0.0.1", first.getsockname()[1]))
    assert "is taken" in said.value.what


def test_the_usual_port_being_taken_leads_to_the_next() -> None:
    with free_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with free_socket("127.0.0.1", port, PORTS_TRIED) as second:
            assert second.getsockname()[1] > port
            assert isinstance(second, socket.socket)
