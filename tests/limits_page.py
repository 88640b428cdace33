"""The tables of `docs/operations/limits.md`, made from the code: `python tests/limits_page.py` writes them.

Figures are read where they are used, those of the native core from its source; a test compares the page with them.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from drtp.api.reports import CALLED_MAX
from drtp.apiserver import calls, forms, watches
from drtp.apiserver import server as api
from drtp.edgeserver import feed, routes
from drtp.edgeserver import server as edge
from drtp.gateway import balancers, bootstrap, envoy, http, listeners
from drtp.gateway.accesslogs import AccessLogs
from drtp.gateway.settings import Paths
from drtp.kit import door, webway
from drtp.pop import health, vitals

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/operations/limits.md"
DESCRIPTORS = 65_536
"""The example that the figures are worked out for; the page says so."""


def current() -> str:
    """The page with its tables as the code has them."""
    text = PAGE.read_text(encoding="utf-8")
    for name, rows in {
        "doors": _doors(),
        "core": _core(),
        "udp": _udp(),
        "connect": _connect(),
        "envoy": _envoy(),
    }.items():
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{_table(rows)}\g<2>", text, flags=re.DOTALL)
    return text


def core_limits() -> dict[str, int]:
    """The native core's own defaults, by name."""
    source = (ROOT / "native/drtp-core/src/config.rs").read_text()
    body = source[source.index("impl Default for CoreLimits") :]
    found = re.findall(r"^\s+(\w+): ([\d_]+),$", body[: body.index("\n}\n")], re.MULTILINE)
    return {name: int(value) for name, value in found}


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join((lines[0], "|---" * len(rows[0]) + "|\n", *lines[1:]))


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count % (1 << 20) == 0 else f"{count >> 10} KiB"


def _doors() -> list[tuple[str, ...]]:
    api_body = f"{_size(calls.BODY_BYTES_MAX)} in {calls.BODY_DEADLINE_S:.0f} s"
    edge_body = f"{_size(routes.BODY_BYTES_MAX)} in {routes.BODY_TIMEOUT_S:.0f} s"
    sign_in = f"{_size(forms.BODY_BYTES_MAX)} in {forms.BODY_DEADLINE_S:.0f} s"
    messages = f"feed messages {_size(min(feed.MESSAGE_BYTES_MAX.values()))} (agents)"
    found = (
        ("API", api.CONNECTIONS_MAX, api_body, f"{watches.WATCHES_PER_USER_MAX} watches a user"),
        ("the same, sign-in below `/oidc`", api.CONNECTIONS_MAX, sign_in, "buckets: address, account, account at home"),
        ("edges (edgeserver)", edge.CONNECTIONS_MAX, f"{edge_body}; {messages}", "enrolment: a bucket an address"),
        (
            "API and edges, inside a WebSocket",
            min(api.CONNECTIONS_MAX, edge.CONNECTIONS_MAX),
            "the same",
            f"two connections each; message {_size(webway.MESSAGE_BYTES_MAX)}",
        ),
        ("POP's health door", health.CONNECTIONS_MAX, "1 KiB", "certificates only"),
        ("operator socket", 0, "64 KiB", "file mode 0600"),
        ("metrics pages, agent's status page", 0, "1 KiB", "loopback"),
    )
    rows = [("door", "connections: all / one address", "strangers", "handshake, first request", "bodies", "more")]
    for name, most, body, more in found:
        one = door.public_limits(most, DESCRIPTORS) if most else door.NEIGHBOURS
        connections = f"{one.connections_max:,} / {one.connections_per_address_max:,}"
        strangers = f"{one.strangers_max:,} / {one.strangers_per_address_max:,}"
        rows.append((name, connections, strangers, f"{one.handshake_s:g} s, {one.first_request_s:g} s", body, more))
    return rows


def _core() -> list[tuple[str, ...]]:
    limits = core_limits()
    share = f"{vitals.PRE_AUTH_SHARE:.0%} of the descriptors, {vitals.PRE_AUTH_MIN} to {vitals.PRE_AUTH_MAX:,}"
    handshake, header = f"handshake {limits['handshake_ms']} ms", f"PROXY header {limits['proxy_header_ms']} ms"
    hello = f"HELLO {limits['first_frame_ms']} ms"
    streams = "`streamsMax` of the service"
    web_ms = limits["handshake_ms"] + limits["first_frame_ms"]
    hello_bytes = _constants("tls/hello.rs")["HELLO_BYTES_MAX"]
    message_bytes = _constants("through/web.rs")["MESSAGE_BYTES_MAX"]
    return [
        ("listener", "in all", "strangers: all / one address", "deadlines"),
        (
            "agents' door",
            f"{limits['sessions_max']:,} sessions",
            f"{share} / {limits['pre_auth_per_address_max']}",
            f"{handshake}, {hello}",
        ),
        (
            "the same, by WebSocket",
            "the same",
            "the same room",
            f"all of it {web_ms} ms; ClientHello {_size(hello_bytes)}, message {_size(message_bytes)}",
        ),
        ("endpoint, `mtls`", streams, f"{share} / three quarters of each room", f"{handshake}, {header}"),
        ("endpoint, `plain` and `unix`", streams, "the same room", header),
    ]


def _constants(path: str) -> dict[str, int]:
    """The figures of one of the core's files, by name; sums of factors are worked out."""
    source = (ROOT / "native/drtp-core/src" / path).read_text()
    found = re.findall(r"^(?:pub(?:\(crate\))? )?const (\w+): u?\w+ = ([\d_* ]+);", source, re.MULTILINE)
    return {name: math.prod(int(factor) for factor in value.split("*")) for name, value in found}


def _udp() -> list[tuple[str, ...]]:
    listener, flow, lane = (_constants(f"{p}.rs") for p in ("agent/listener", "driver/flow", "session/datagrams"))
    longest = _constants("frame.rs")["DATAGRAM_BYTES_MAX"]
    return [
        ("what", "how much"),
        ("a datagram", f"0 to {longest:,} bytes"),
        ("flows of a listener", f"{listener['FLOWS_MAX']:,}"),
        ("flows of a source address (IPv6: /64) at a listener", f"{listener['FLOWS_PER_SOURCE_MAX']:,}"),
        ("flows of a gateway", f"{listener['FLOWS_IN_ALL_MAX']:,}"),
        ("a silent flow", "60 s"),
        ("waiting for a lane", f"{_flow(lane, 'FLOW_')} of a flow; {_flow(lane, '')} in all"),
        ("waiting for a socket", f"{_flow(flow, '')} of a flow"),
        (
            "answers to an unproven visitor",
            f"{flow['UNPROVEN_FACTOR']} times its bytes, at least {_size(flow['UNPROVEN_BYTES'])}",
        ),
    ]


def _connect() -> list[tuple[str, ...]]:
    port, flow = (_constants(f"agent/{name}.rs") for name in ("port", "../driver/flow"))
    return [
        ("what", "how much"),
        ("services of a connector", f"{CALLED_MAX}"),
        ("connections of a port, or flows", f"{port['CONNECTIONS_MAX']:,}"),
        ("UDP: a silent flow", "60 s"),
        ("UDP: waiting for a flow's stream", f"{_flow(flow, '')} of a flow"),
    ]


def _flow(figures: dict[str, int], prefix: str) -> str:
    return f"{figures[prefix + 'DATAGRAMS_MAX']} datagrams, {_size(figures[prefix + 'BYTES_MAX'])}"


def _envoy() -> list[tuple[str, ...]]:
    most, root = envoy.visitors_max(DESCRIPTORS), Path("/")
    made: dict[str, Any] = bootstrap.bootstrap("", Paths(directory=root, run=root), bootstrap.Budget(most, 1 << 30))
    overload = made["overload_manager"]
    most = overload["resource_monitors"][0]["typed_config"]["max_active_downstream_connections"]
    steps = ", ".join(_step(action) for action in overload["actions"])
    manager = http.connection_manager("", "", AccessLogs())["typed_config"]
    common, h2 = manager["common_http_protocol_options"], manager["http2_protocol_options"]
    head = (manager["request_headers_timeout"], f"{manager['max_request_headers_kb']} KiB")
    windows = _size(h2["initial_stream_window_size"])
    return [
        ("what", "how much", "beyond it"),
        ("all together", f"{most:,} connections", "refused at accept"),
        ("one TCP service", f"{most // 2:,} connections", "closed at accept"),
        ("TLS handshake, server name", listeners.HANDSHAKE_TIMEOUT, "closed"),
        ("PROXY header of a load balancer", balancers.HEADER_TIMEOUT, "closed"),
        ("HTTP request's head", f"{', '.join(head)}, {common['max_headers_count']} headers", "408, 431"),
        ("HTTP connection without a request", common["idle_timeout"], "closed"),
        ("HTTP/2", f"{h2['max_concurrent_streams']} streams, windows of {windows}", "they wait"),
        ("HTTP/2 streams reset at once", f"{bootstrap.EARLY_RESETS_MAX} a connection", "closed"),
        ("memory", "half of the machine's", steps),
    ]


def _step(action: dict[str, Any]) -> str:
    trigger = action["triggers"][0]
    at = trigger["threshold"]["value"] if "threshold" in trigger else trigger["scaled"]["scaling_threshold"]
    return f"{action['name'].rpartition('.')[2].replace('_', ' ')} from {at:.0%}"


if __name__ == "__main__":
    PAGE.write_text(current(), encoding="utf-8")
