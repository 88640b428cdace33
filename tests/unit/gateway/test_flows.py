from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from drtp.gateway.flows import FlowBook, RotatingLog
from drtp.gateway.memo import Memo
from drtp.gateway.metrics import serve_metrics
from drtp.gateway.protos import LogEntry
from drtp.kit.clock import SystemClock
from unit.gateway.gatewaykit import DEADLINE_S, ELSEWHERE, backend, free_port, gateway, pop, tcp


def entry(**more: object) -> LogEntry:
    fields: dict[str, object] = {
        "at": 1.0, "listener": "l", "event": "end", "stream": "s", "visitor": "192.0.2.1", "visitor_port": 1,
    }  # fmt: skip
    return LogEntry(**{**fields, **more})  # pyright: ignore[reportArgumentType] - keyword fields of one struct


def test_log_is_rotated_and_bounded(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "access.jsonl", bytes_max=300, kept=2)
    for _line in range(20):
        log.write([entry()])
    assert {path.name for path in tmp_path.iterdir()} == {"access.jsonl", "access.jsonl.1", "access.jsonl.2"}
    assert all(path.stat().st_size <= 300 for path in tmp_path.iterdir())


async def test_envoys_own_file_tells_of_visitors_and_refusals_and_is_rotated_under_it(tmp_path: Path) -> None:
    port, shut = free_port(), free_port()
    file, former = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    async with pop("p1") as endpoint, gateway(tmp_path, access_log_bytes_max=3000) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port), **tcp(shut, ELSEWHERE)})
        async with asyncio.timeout(4 * DEADLINE_S):
            # Until a file was put aside, and Envoy writes into the next one.
            while not (former.exists() and file.exists() and file.stat().st_size):
                for where in (port, shut):
                    _reader, writer = await asyncio.open_connection("127.0.0.1", where)
                    writer.close()
                await asyncio.sleep(0.02)
        entries = [json.loads(text) for text in former.read_text().splitlines()]
        assert {entry["flags"] for entry in entries if entry["local"].endswith(f":{shut}")} == {"NR"}
        visits = [entry for entry in entries if entry["local"].endswith(f":{port}")]
        assert visits
        assert all(entry["visitor"].startswith("127.0.0.1:") and entry["stream"] for entry in visits)
        assert all(path.stat().st_mode & 0o077 == 0 for path in (file, former))


def test_control_characters_of_strangers_are_escaped(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "access.jsonl", bytes_max=10_000, kept=1)
    log.write([entry(host="\x1b[2Jevil\n", path="/\x9b", server_name="a\x7f")])
    text = (tmp_path / "access.jsonl").read_text()
    assert text.count("\n") == 1
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text.rstrip("\n"))
    assert json.loads(text)["host"] == "\\x1b[2Jevil\\x0a"


async def test_slow_watcher_loses_the_oldest_and_holds_up_nobody(tmp_path: Path) -> None:
    book = FlowBook(RotatingLog(tmp_path / "log", 10**9, 1))
    watch = book.watch()
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    book.take([entry(stream=str(number)) for number in range(1500)])
    assert (await first).stream == "500"
    await watch.aclose()


def test_services_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    book = FlowBook(RotatingLog(tmp_path / "log", 10**9, 1))
    book.name_services({"l4/a": "a", "l4/b": "b"})
    book.take([entry(cluster="l4/a"), entry(cluster="l4/b"), entry(cluster="l4/stranger")])
    book.name_services({"l4/a": "a"})
    assert book.counts.keys() == {"a"}


def test_visitors_who_outlive_their_service_are_forgotten_when_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drtp.gateway.flows.OPEN_FLOWS_MAX", 1)
    book = FlowBook(RotatingLog(tmp_path / "log", 10**9, 1))
    book.name_services({"l4/a": "a", "l4/b": "b"})
    book.take([entry(cluster="l4/b", event="connected", stream="1")])
    book.name_services({"l4/a": "a"})
    book.take([entry(cluster="l4/b", event="end", stream="1"), entry(cluster="l4/a", event="connected", stream="2")])
    assert book.counts["a"].active == 1


def test_memo_builds_again_only_for_other_inputs_and_keeps_what_somebody_wants() -> None:
    memo: Memo[int] = Memo()
    built: list[int] = []

    def get(value: int) -> int:
        return memo.get("name", (value,), lambda: built.append(value) or value)

    get(1)
    for owner in ("a", "b"):
        memo.want(owner, {"name"})
    get(1)
    assert built == [1]
    get(2)
    assert built == [1, 2]
    memo.want("a", set())
    get(2)
    assert built == [1, 2]
    memo.want("b", {"another"})
    get(2)
    assert built == [1, 2, 2]


async def test_metrics_hold_the_host_s_figures_and_envoy_s(tmp_path: Path) -> None:
    port, metrics_port = free_port(), free_port()
    async with pop("p1") as endpoint, gateway(tmp_path) as running, asyncio.TaskGroup() as group:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        await running.ready()
        serving = group.create_task(serve_metrics(running.host, metrics_port, SystemClock()))
        async with asyncio.timeout(DEADLINE_S), aiohttp.ClientSession() as session:
            text = ""
            while not text:
                try:
                    async with session.get(f"http://127.0.0.1:{metrics_port}/metrics") as answer:
                        text = await answer.text()
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.01)
        serving.cancel()
        assert "drtp_gateway_envoy_ready 1.0" in text
        assert "drtp_gateway_entries 3.0" in text
        assert "envoy_listener_downstream_cx_active" in text
        assert len(text) < 200_000
