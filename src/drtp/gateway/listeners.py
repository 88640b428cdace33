"""Listeners: one bound socket each, immutable in everything but its matcher, because other changes cut live visitors.

TCP: one chain, access decided at accept. HTTPS: one chain for each certificate, chosen by server name, so that adding
a certificate drains no other; passthrough names stand beside them and win by exact name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from drtp.api.snapshots import GatewayListener, ServingCertificate, SniExposure, TcpExposure, WeightedBackend
from drtp.gateway.accesslogs import AccessLogs
from drtp.gateway.admission import NO_CHAIN, accept_matcher, admitted, name_action
from drtp.gateway.clusters import BUNDLE_SECRET, CONNECT_RETRIES, Carries, front_name, introduce_connection, sds
from drtp.gateway.http import connection_filters
from drtp.rules.hostnames import known_as

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
_FILTERS = f"{_TYPE}envoy.extensions.filters."
HANDSHAKE_TIMEOUT = "5s"
TRAFFIC_CHAIN = "traffic"
PASSTHROUGH_CHAIN = "passthrough"


class Certificate(msgspec.Struct, frozen=True):
    """A certificate that a listener serves: its secret's name and the server names it answers to."""

    secret: str
    names: tuple[str, ...]


def place(address: str, port: int) -> str:
    """`address/port`: what listeners, routes and passthrough clusters of one socket share."""
    return f"{address}/{port}"


def listener_name(address: str, port: int) -> str:
    """The Envoy listener, equal to the snapshot entry's key."""
    return f"listener/{place(address, port)}"


def routes_name(address: str, port: int) -> str:
    """The RDS resource of a listener."""
    return f"routes/{place(address, port)}"


def sni_cluster(address: str, port: int, hostname: str) -> str:
    """The front cluster that the shared passthrough chain finds by server name."""
    return f"sni/{place(address, port)}/{hostname}"


def certificate_secret(certificate: str) -> str:
    """The SDS resource of a `ServingCertificate` by its id."""
    return f"certificate/{certificate}"


def certificate_of(certificate: str, entry: ServingCertificate) -> Certificate:
    """What a listener needs to know of a certificate: nothing of its content, which rotates by SDS alone."""
    return Certificate(secret=certificate_secret(certificate), names=tuple(name.lower() for name in entry.names))


def tcp_listener(entry: GatewayListener, exposure: TcpExposure | None, logs: AccessLogs, connections_max: int) -> Json:
    """Without an exposure the socket is bound and lets nobody in. One service may have `connections_max` visitors."""
    name = listener_name(entry.address, entry.port)
    targets = exposure.backends if exposure is not None else ()
    matcher = {"on_no_match": name_action(NO_CHAIN)}
    if exposure is not None:
        matcher = accept_matcher(admitted(exposure.access), TRAFFIC_CHAIN)
    filters = [_at_most(connections_max), *_carried(name, _targets(targets), logs)]
    chain = {"name": TRAFFIC_CHAIN, "filters": filters}
    return _listener(entry, logs) | {"filter_chain_matcher": matcher, "filter_chains": [chain]}


def http_listener(entry: GatewayListener, logs: AccessLogs) -> Json:
    """HTTP/1.1, and HTTP/2 with prior knowledge."""
    name, routes = listener_name(entry.address, entry.port), routes_name(entry.address, entry.port)
    chain = {"name": TRAFFIC_CHAIN, "filters": connection_filters(name, routes, logs)}
    return _listener(entry, logs) | {"filter_chains": [chain]}


def tls_listener(
    entry: GatewayListener,
    certificates: Sequence[Certificate],
    exposures: Sequence[SniExposure],
    logs: AccessLogs,
    asking: Collection[str] | None,
) -> Json:
    """Passthrough by exact server name, then by suffix, then termination by the certificates' names.

    Without a matching certificate the first one answers (a page says that the name is unknown here). Names of hosts
    that ask who visitors are (`asking`; None where no certificate could be checked) have chains of their own, so that
    nobody else is asked for one. They are always there: a chain that goes cuts those who are on it.
    """
    listener = _listener(entry, logs)
    listener["listener_filters"] = [
        {
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {"@type": f"{_FILTERS}listener.tls_inspector.v3.TlsInspector"},
        }
    ]
    doors = _doors(certificates, frozenset(asking or ()))
    ways = (False,) if asking is None else (False, True)
    terminating = [_Door(certificate, asks) for certificate in certificates for asks in ways]
    chains = [_terminating_chain(entry, door, logs) for door in terminating]
    chains += _passthrough_chains(entry, exposures, logs)
    return listener | {
        "listener_filters_timeout": HANDSHAKE_TIMEOUT,
        "filter_chain_matcher": _server_name_matcher(doors, exposures),
        "filter_chains": chains or [{"name": "idle", "filters": _carried(listener["name"], {"cluster": "none"}, logs)}],
    }


def shares_chain(exposure: SniExposure) -> bool:
    """One exact name for one service: its connections find their cluster by the name they asked for."""
    return len(exposure.backends) == 1 and not exposure.hostname.startswith("*")


def _passthrough_chains(entry: GatewayListener, exposures: Sequence[SniExposure], logs: AccessLogs) -> list[Json]:
    name = listener_name(entry.address, entry.port)
    by_name = f"sni/{place(entry.address, entry.port)}/%REQUESTED_SERVER_NAME%"
    chosen = {
        "name": "envoy.filters.network.set_filter_state",
        "typed_config": {
            "@type": f"{_FILTERS}network.set_filter_state.v3.Config",
            "on_new_connection": [
                {
                    "object_key": "envoy.tcp_proxy.cluster",
                    "format_string": {"text_format_source": {"inline_string": by_name}},
                }
            ],
        },
    }
    # Always there, so that the first passthrough name changes the matcher only.
    chains: list[Json] = [
        {"name": PASSTHROUGH_CHAIN, "filters": [chosen, *_carried(name, {"cluster": "unresolved"}, logs)]}
    ]
    for exposure in exposures:
        if not shares_chain(exposure):
            own = {"name": _chain_of(exposure), "filters": _carried(name, _targets(exposure.backends), logs)}
            chains.append(own)
    return chains


def _chain_of(exposure: SniExposure) -> str:
    return PASSTHROUGH_CHAIN if shares_chain(exposure) else f"passthrough/{exposure.hostname.lower()}"


class _Door(NamedTuple):
    """Where TLS ends: under which certificate, and whether visitors are asked for theirs."""

    certificate: Certificate
    asks: bool = False

    @property
    def chain(self) -> str:
        return f"{self.certificate.secret}/asking" if self.asks else self.certificate.secret


def _doors(certificates: Sequence[Certificate], asking: frozenset[str]) -> dict[str, _Door]:
    """By name, `*.` for all below one: those of certificates (the first that has it serves it) and hosts that ask.

    Under the name `*` whatever comes to none of them. Names below a wildcard that asks are asked too.
    """
    if not certificates:
        return {}
    serving: dict[str, Certificate] = {}
    for certificate in certificates:
        for name in certificate.names:
            serving.setdefault(name, certificate)
    names = dict.fromkeys((*serving, *sorted(asking), "*"))
    found: dict[str, _Door] = {}
    for name in names:
        serves = known_as(name, serving)
        certificate = serving[serves] if serves is not None else certificates[0]
        found[name] = _Door(certificate, asks=known_as(name, asking) is not None)
    return found


def _server_name_matcher(doors: Mapping[str, _Door], exposures: Sequence[SniExposure]) -> Json:
    """Exact names first; then suffixes, longest first, where a passthrough name wins over a certificate."""
    exact: Json = {}
    suffixes: list[tuple[str, int, Json]] = []
    for name, door in doors.items():
        if name.startswith("*."):
            suffixes.append((name[1:], 1, name_action(door.chain)))
        elif name != "*":
            exact[name] = name_action(door.chain)
    for exposure in exposures:
        decision = {"matcher": accept_matcher(admitted(exposure.access), _chain_of(exposure))}
        name = exposure.hostname.lower()
        if name.startswith("*."):
            suffixes.append((name[1:], 0, decision))
        else:
            exact[name] = decision
    fallback = name_action(doors["*"].chain if doors else NO_CHAIN)
    ordered = sorted(suffixes, key=lambda suffix: (-len(suffix[0]), suffix[1]))
    rest = _suffix_matcher([(suffix, decision) for suffix, _rank, decision in ordered], fallback)
    if not exact:
        return rest
    server_name = {"name": "server_name", "typed_config": {"@type": _SERVER_NAME}}
    tree = {"input": server_name, "exact_match_map": {"map": exact}}
    return {"matcher_tree": tree, "on_no_match": {"matcher": rest}}


_SERVER_NAME = f"{_TYPE}envoy.extensions.matching.common_inputs.network.v3.ServerNameInput"


def _suffix_matcher(suffixes: Sequence[tuple[str, Json]], fallback: Json) -> Json:
    if not suffixes:
        return {"on_no_match": fallback}
    server_name = {"name": "server_name", "typed_config": {"@type": _SERVER_NAME}}
    matchers = [
        {
            "predicate": {"single_predicate": {"input": server_name, "value_match": {"suffix": suffix}}},
            "on_match": decision,
        }
        for suffix, decision in suffixes
    ]
    return {"matcher_list": {"matchers": matchers}, "on_no_match": fallback}


def _terminating_chain(entry: GatewayListener, door: _Door, logs: AccessLogs) -> Json:
    name, routes = listener_name(entry.address, entry.port), routes_name(entry.address, entry.port)
    # Who has none is a stranger. Another authority's fails the handshake; who it names is for the rules.
    asked: Json = {"validation_context_sds_secret_config": sds(BUNDLE_SECRET)} if door.asks else {}
    return {
        "name": door.chain,
        "filters": connection_filters(name, routes, logs, asks=door.asks),
        "transport_socket_connect_timeout": HANDSHAKE_TIMEOUT,
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                **(_UNRESUMED if door.asks else {}),
                "common_tls_context": {
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_2",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificate_sds_secret_configs": [sds(door.certificate.secret)],
                    **asked,
                },
            },
        },
    }


_UNRESUMED: Json = {"disable_stateless_session_resumption": True, "disable_stateful_session_resumption": True}
"""Each handshake looks at the certificate: what was true an hour ago proves nobody."""


def _listener(entry: GatewayListener, logs: AccessLogs) -> Json:
    name = listener_name(entry.address, entry.port)
    return {
        "name": name,
        "stat_prefix": "public",
        "address": {"socket_address": {"address": entry.address, "port_value": entry.port}},
        "enable_reuse_port": False,  # the default shares a port with any other process, and halves what arrives
        "per_connection_buffer_limit_bytes": 262_144,
        "socket_options": _KEEPALIVE,
        "access_log": logs.refusals(name),
    }


def _option(level: int, name: int, value: int, description: str) -> Json:
    return {"level": level, "name": name, "int_value": value, "state": "STATE_PREBIND", "description": description}


_KEEPALIVE = [  # accepted sockets inherit these on Linux: a visitor that vanished is noticed, an idle one is kept
    _option(1, 9, 1, "SO_KEEPALIVE"),
    _option(6, 4, 60, "TCP_KEEPIDLE"),
    _option(6, 5, 15, "TCP_KEEPINTVL"),
    _option(6, 6, 4, "TCP_KEEPCNT"),
]


def _at_most(connections: int) -> Json:
    return {
        "name": "envoy.filters.network.connection_limit",
        "typed_config": {
            "@type": f"{_FILTERS}network.connection_limit.v3.ConnectionLimit",
            "stat_prefix": "service",
            "max_connections": connections,
        },
    }


def _targets(backends: Sequence[WeightedBackend]) -> Json:
    live = [target for target in backends if target.weight > 0]
    if not live:
        return {"cluster": front_name("unresolved", Carries.STREAM)}
    if len(live) == 1:
        return {"cluster": front_name(live[0].service or "unresolved", Carries.STREAM)}
    clusters = [
        {"name": front_name(target.service or "unresolved", Carries.STREAM), "weight": target.weight} for target in live
    ]
    return {"weighted_clusters": {"clusters": clusters}}


def _carried(listener: str, targets: Json, logs: AccessLogs) -> list[Json]:
    """What a TCP chain ends with: the visitor gets its id and its introduction, then bytes pass."""
    proxy = {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": f"{_FILTERS}network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp",
            **targets,
            **CONNECT_RETRIES,
            "idle_timeout": "0s",  # an idle database session is not a fault; keep-alive finds the dead
            "access_log": logs.tcp(listener),
            "access_log_options": {"flush_access_log_on_connected": True, "access_log_flush_interval": "10s"},
        },
    }
    return [introduce_connection(), proxy]
