from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

from drtp.api.drtp import Action
from drtp.api.snapshots import Access, AccessList, AccessListRule, Generation, PathMatch
from drtp.gateway.ledger import SHARED_PORT
from drtp.gateway.protos import LogEntry
from unit.gateway.gatewaykit import (
    ANYONE,
    DEADLINE_S,
    ELSEWHERE,
    ExposureState,
    HttpMatch,
    HttpRule,
    ListenerProtocol,
    Snapshot,
    WeightedBackend,
    backend,
    free_port,
    gateway,
    http,
    line,
    listener,
    pop,
    tcp,
    until,
)
from unit.gateway.test_http import get, rule, service, web_backend
from unit.gateway.test_tls import sni

BAD = HttpRule(
    matches=(HttpMatch(path_type=PathMatch.REGEX, path="/(unclosed"),), access=ANYONE,
    backends=(WeightedBackend(service="s1"),),
)  # fmt: skip


async def test_port_in_use_fails_one_listener_and_heals_when_it_is_free(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        async with pop("p1") as endpoint, gateway(tmp_path) as running:
            reports = await running.apply({**backend(endpoint.endpoint()), **tcp(port), **tcp(other)})
            failed = {key for key, report in reports.items() if report.state is ExposureState.FAILED}
            assert failed == {f"listener/127.0.0.1/{port}", f"tcp/127.0.0.1/{port}"}
            assert "in use" in reports[f"tcp/127.0.0.1/{port}"].message
            reader, writer = await asyncio.open_connection("127.0.0.1", other)
            assert await line(reader) == "banner 127.0.0.1"
            writer.close()
            squatter.close()
            await until(running.host.applied, lambda applied: not applied.failed)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await line(reader) == "banner 127.0.0.1"
            writer.close()


async def test_names_on_a_refused_port_are_not_told_envoys_words_about_it(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        async with pop("p1") as endpoint, gateway(tmp_path) as running:
            standing = listener(port, ListenerProtocol.TLS_PASSTHROUGH)
            reports = await running.apply({**standing, **backend(endpoint.endpoint()), **sni(port, "a.test")})
            assert "in use" in reports[f"listener/127.0.0.1/{port}"].message
            name = reports[f"sni/127.0.0.1/{port}/a.test"]
            assert (name.state, name.message) == (ExposureState.FAILED, SHARED_PORT)


async def test_host_that_envoy_refuses_is_set_apart_and_others_go_on(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        standing = {**listener(port, ListenerProtocol.HTTP), **web_backend(endpoint.endpoint())}
        good = {**standing, **http(port, "a.test"), **http(port, "b.test")}
        reports = await running.apply({**good, **http(port, "bad.test", BAD), **http(port, "worse.test", BAD)})
        failed = {key for key, report in reports.items() if report.state is ExposureState.FAILED}
        assert failed == {f"http/127.0.0.1/{port}/bad.test", f"http/127.0.0.1/{port}/worse.test"}
        assert "unclosed" in reports[f"http/127.0.0.1/{port}/bad.test"].message
        assert (await get(port, host="a.test"))[0] == 200
        assert (await get(port, host="bad.test"))[0] == 503
        await running.programmed({**good, **http(port, "bad.test")})
        assert (await get(port, host="bad.test"))[0] == 200


async def test_host_that_cannot_be_built_fails_by_itself(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        bad = http(port, "bad.test", rule(matches=(HttpMatch(path="no-slash"),)))
        reports = await running.apply(
            {**listener(port, ListenerProtocol.HTTP), **web_backend(endpoint.endpoint()), **http(port, "a.test"), **bad}
        )
        assert reports[f"http/127.0.0.1/{port}/bad.test"].state is ExposureState.FAILED
        assert (await get(port, host="a.test"))[0] == 200


async def test_unreadable_policy_lets_nobody_in_and_says_so(tmp_path: Path) -> None:
    port = free_port()
    unreadable = Access(lists=(AccessList(rules=(AccessListRule(action=Action.ALLOW, cidrs=("127.0.0.1/8/8",)),)),))
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        reports = await running.apply({**backend(endpoint.endpoint()), **tcp(port, unreadable)})
        assert reports[f"tcp/127.0.0.1/{port}"].state is ExposureState.FAILED
        assert "nobody" in reports[f"tcp/127.0.0.1/{port}"].message
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        assert endpoint.accepted == 0
        writer.close()


async def test_reports_repeat_the_entry_s_sources(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        entries = {**backend(endpoint.endpoint()), **tcp(port)}
        reports = await running.apply(entries)
        assert {key: report.sources for key, report in reports.items()} == {
            key: getattr(entry, "sources", None) for key, entry in entries.items()
        }


async def test_lower_generation_is_refused(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        running.host.apply(Snapshot(generation=Generation(1, 0), entries={}))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await line(reader) == "banner 127.0.0.1"
        writer.close()


async def test_flows_are_logged_and_refusals_at_accept_too(tmp_path: Path) -> None:
    port, shut = free_port(), free_port()
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        watch = running.host.flows.watch()
        first = asyncio.ensure_future(anext(watch))
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port), **tcp(shut, ELSEWHERE)})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await line(reader) == "banner 127.0.0.1"
        writer.write(b"12345\n")
        assert await line(reader) == "12345"
        writer.close()
        _reader, denied = await asyncio.open_connection("127.0.0.1", shut)
        async with asyncio.timeout(DEADLINE_S):
            seen = [await first]
            while not any("no_route_found" in entry.flags for entry in seen) or not _ended(seen, port):
                seen.append(await anext(watch))
        await watch.aclose()
        denied.close()
        end = next(entry for entry in seen if entry.event == "end" and entry.listener.endswith(f"/{port}"))
        assert end.received_bytes == 6
        assert end.stream == endpoint.visits[0].tlvs[0xE0].decode()
        counts = running.host.flows.counts["s1"]
        assert (counts.visitors, counts.active, counts.received_bytes) == (1, 0, 6)
        assert running.host.flows.refused_at_accept == 1
        written = [json.loads(text) for text in (tmp_path / "access.jsonl").read_text().splitlines()]
        assert [entry["listener"] for entry in written if "no_route_found" in entry.get("flags", [])] == [
            f"listener/127.0.0.1/{shut}"
        ]


def _ended(entries: list[LogEntry], port: int) -> bool:
    return any(entry.event == "end" and entry.listener.endswith(f"/{port}") for entry in entries)
