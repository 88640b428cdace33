"""Clusters and endpoints: how a service is reached through the POPs that hold its connections.

An `mtls` endpoint wants to hear from its gateway who comes, under the gateway's certificate. Two ways:

TCP:   the ClientHello introduces the visitor. Its address and the stream's id are a protocol that the hello offers, the
       service is in the server name, and the handshake proves all of it. So one TCP proxy stands between visitor and
       POP, and what ends the one ends the other alike: two in a row lose a reset that comes together with a word.
HTTP:  a PROXY header inside TLS. Envoy writes it before the handshake, so the service's front cluster writes it into an
       internal connection; the one internal listener (in the bootstrap) carries that through the service's hop cluster,
       whose connections are mutual TLS. The front cluster's metadata names the hop, so one internal listener serves
       all services and never changes. A request's body is no matter here: the hop tries again below HTTP.

POPs that take no introductions (their certificate or program is of before) get TCP visitors in HTTP's way too, and a
gateway that conceals its visitors brings all of them so. Failover and retry happen before the handshake has
completed, at the TCP proxy or at the hop. Endpoints in the clear (`plain`, and the sockets of `unix`) get a PROXY
header and need no hop unless HTTP finds them beside others.

A `unix` endpoint of a POP on this machine is two to Envoy: its socket first, mutual TLS next. Whatever is wrong with
the socket costs a refused connection, and nobody a visit.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Collection, Mapping
from enum import Enum, IntEnum
from functools import lru_cache
from typing import Any

from drtp.api.drtp import AppProtocol
from drtp.api.snapshots import Backend, EndpointMode, PopEndpoint

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
_SOCKETS = f"{_TYPE}envoy.extensions.transport_sockets."

INTERNAL_LISTENER = "drtp_hop"
METADATA = "drtp"
IDENTITY_SECRET = "identity"  # noqa: S105 - a resource name
BUNDLE_SECRET = "bundle"  # noqa: S105 - a resource name

SERVICE_TLV = 0xE1
STREAM_TLV = 0xE0
GATEWAY_TLV = 0xE2
"""This gateway's uid: on a Unix socket it has no certificate to show."""
STREAM_STATE = "drtp.stream"
"""Filter state of a visitor's connection: its id, a UUID, for the POP. HTTP requests in it have ids of their own."""
VISITOR_TLV = 0xE4
VISITOR_STATE = "drtp.visitor"
"""Filter state of a request: who has signed in, in JSON, for the POP; none where nobody has. Part of the pool's key, so
that nobody's request goes by a connection that was opened for somebody else's.
"""
INTRODUCTION = "drtp-visitor/1"
"""The protocol that introduces a visitor in a ClientHello: `;<visitor>;<where it came to>;<stream id>` follows."""

CONNECT_TIMEOUT = "0.5s"  # a frozen POP costs a visitor this long, once
LEFT_OVER_TIMEOUT = "1s"  # of a connection whose visitor went before it was made; the POP would wait for longer
UPSTREAM_IDLE_TIMEOUT = "4s"  # below the 5 s keep-alive of common servers, so the reuse of a dying connection is rare
CONNECT_RETRIES: dict[str, object] = {
    # Where all endpoints are suspect, attempts choose among them at random. On a machine that is busy for seconds a
    # visitor is slow and not lost.
    "max_connect_attempts": 8,
    "backoff_options": {"base_interval": "0.05s", "max_interval": "0.5s"},
}
KEEPALIVE: Json = {"keepalive_time": 3, "keepalive_interval": 1, "keepalive_probes": 3}
"""To POPs: who waits in silence hears of a POP that has vanished after 6 s (over TCP as an end, decision
0014). No TCP_USER_TIMEOUT beside it: the kernel counts a full window into that, and would cut visitors whose service
does not read for a while.
"""
CONNECTIONS_MAX = 100_000  # per service: unset, every cluster stops at 1,024


class Carries(Enum):
    """What travels through a front cluster."""

    STREAM = "l4"
    HTTP = "http"


def front_name(service: str, carries: Carries) -> str:
    """The cluster that listeners and routes refer to."""
    return f"{carries.value}/{service}"


def hop_name(service: str) -> str:
    """The mutual-TLS cluster behind the internal listener; also the name of its endpoints."""
    return f"hop/{service}"


def direct_name(service: str) -> str:
    """The endpoints of a front cluster that needs no hop."""
    return f"direct/{service}"


def needs_hop(backend: Backend) -> bool:
    """Any endpoint not in mode `plain`, or none at all (the usual mode stands ready)."""
    return not backend.endpoints or any(endpoint.mode is not EndpointMode.PLAIN for endpoint in backend.endpoints)


def endpoints_name(backend: Backend) -> str:
    """The one ClusterLoadAssignment that this backend uses."""
    return hop_name(backend.service) if needs_hop(backend) else direct_name(backend.service)


def is_introduced(backend: Backend) -> bool:
    """Every POP that is reached by mutual TLS takes introductions."""
    return all(endpoint.introductions for endpoint in backend.endpoints if endpoint.mode is not EndpointMode.PLAIN)


def goes_straight(backend: Backend, *, introduces: bool) -> bool:
    """Nothing stands between the front cluster and the POPs. `introduces`: the listener has the words for it."""
    return not needs_hop(backend) or (introduces and is_introduced(backend))


def front_cluster(name: str, backend: Backend, carries: Carries, gateway: str, *, straight: bool) -> Json:
    """The cluster that says who comes, to the endpoints themselves (`straight`) or into the internal listener.

    `gateway`: this one's uid, "" while it has none.
    """
    cluster: Json = {"name": name, **_limits()}
    if carries is Carries.HTTP:
        cluster["typed_extension_protocol_options"] = _http_options(backend.app_protocol)
        cluster["connection_pool_per_downstream_connection"] = True
    proxy = _proxy_socket(backend.service, gateway, carries)
    if not needs_hop(backend):
        return cluster | {"transport_socket": proxy} | _from_eds(direct_name(backend.service))
    if straight:
        return cluster | _mutual_tls(backend.service, clear=proxy)
    return cluster | {
        "connect_timeout": "5s",
        "metadata": {"filter_metadata": {METADATA: {"hop": hop_name(backend.service)}}},
        "transport_socket": {
            "name": "internal",
            "typed_config": {
                "@type": f"{_SOCKETS}internal_upstream.v3.InternalUpstreamTransport",
                "passthrough_metadata": [{"kind": {"cluster": {}}, "name": METADATA}],
                "transport_socket": proxy,
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _internal_address()}}]}],
        },
    }


def hop_cluster(service: str) -> Json:
    """Mutual TLS to the POPs, for what has its PROXY header already."""
    raw = {"name": "raw", "typed_config": {"@type": f"{_SOCKETS}raw_buffer.v3.RawBuffer"}}
    return {"name": hop_name(service), **_limits(), **_mutual_tls(service, clear=raw)}


def _mutual_tls(service: str, *, clear: Json) -> Json:
    """The certificate's name is each endpoint's own. Clear endpoints beside them are marked, and get `clear`."""
    return {
        **_from_eds(hop_name(service)),
        "upstream_connection_options": {"tcp_keepalive": KEEPALIVE},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions": {
                "@type": f"{_TYPE}envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions",
                "idle_timeout": LEFT_OVER_TIMEOUT,
            }
        },
        "transport_socket_matches": [{"name": "clear", "match": {"clear": True}, "transport_socket": clear}],
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": f"{_SOCKETS}tls.v3.UpstreamTlsContext",
                "auto_host_sni": True,
                "auto_sni_san_validation": True,
                "max_session_keys": 0,  # resumption admitted clients that a full handshake would refuse
                "common_tls_context": {
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_3",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "tls_certificate_sds_secret_configs": [sds(IDENTITY_SECRET)],
                    "validation_context_sds_secret_config": sds(BUNDLE_SECRET),
                },
            },
        },
    }


def name_connection() -> Json:
    """The network filter that gives a visitor's connection its id, for the PROXY header."""
    return _states(_STREAM)


def introduce_connection() -> Json:
    """The same, and the words that introduce the visitor in a ClientHello."""
    return _states(_STREAM, _WORDS)


_STREAM: Json = {
    "object_key": STREAM_STATE,
    "factory_key": "envoy.hashable_string",  # part of the pool's key: no visitor has another's id
    "format_string": {"text_format_source": {"inline_string": "%UNIQUE_ID%"}},
    "shared_with_upstream": "TRANSITIVE",  # the hop's pool too: a connection that is left over is nobody else's
}
_WORDS: Json = {
    # Part of the pool's key as well. Not shared: a hop's own hello introduces nobody.
    "object_key": "envoy.network.application_protocols",
    "format_string": {
        "text_format_source": {
            "inline_string": f"{INTRODUCTION};%DOWNSTREAM_REMOTE_ADDRESS%;%DOWNSTREAM_LOCAL_ADDRESS%;"
            f"%FILTER_STATE({STREAM_STATE}:PLAIN)%"
        }
    },
}


def _states(*states: Json) -> Json:
    return {
        "name": "envoy.filters.network.set_filter_state",
        "typed_config": {
            "@type": f"{_TYPE}envoy.extensions.filters.network.set_filter_state.v3.Config",
            "on_new_connection": list(states),
        },
    }


class Shun(Enum):
    """Why a server gets no visitors, and how Envoy is told."""

    DEAD = "marked"
    """It may be back already, and is tried when all else fails."""
    LEAVING = "left out"
    """It has asked for it, and shuts its doors: no try is wasted on it. Those who are on it stay."""


def avoided(backend: Backend, dead: Collection[str], leaving: Collection[str]) -> dict[str, Shun]:
    """Servers of the backend that get no visitors.

    Where nobody else is there, one that is `leaving` serves on, and where all are `dead` each is tried: that costs less
    than a certain refusal, and the fault may be the gateway's own.
    """
    servers = {endpoint.server for endpoint in backend.endpoints}
    shunned = {server: Shun.DEAD for server in servers if server in dead and server not in leaving}
    if len(shunned) == len(servers):
        return {}
    going = {server: Shun.LEAVING for server in servers if server in leaving}
    return shunned if len(shunned) + len(going) == len(servers) else shunned | going


def load_assignment(backend: Backend, shunned: Mapping[str, Shun], near: Mapping[str, str]) -> Json:
    """The backend's endpoints by priority, without those that leave or have a fault.

    `shunned`: as `avoided` has it. `near`: directories of sockets by server uid, as `Neighbours` has it. Duplicate
    addresses count once, or Envoy refuses all.
    """
    ranked: dict[tuple[int, _Way], list[Json]] = {}
    seen: set[tuple[str, int] | str] = set()
    for endpoint in backend.endpoints:
        if shunned.get(endpoint.server) is Shun.LEAVING:
            continue
        ways: dict[_Way, tuple[str, int] | str] = {}
        if _is_near(endpoint, near):
            ways[_Way.SOCKET] = endpoint.path
        if not _fault(endpoint):
            ways[_Way.ADDRESS] = (endpoint.address, endpoint.port)
        for way, place in ways.items():
            group = ranked.setdefault((endpoint.priority, way), [])
            if place not in seen:
                seen.add(place)
                group.append(_endpoint(backend.service, endpoint, way, endpoint.server in shunned))
    return {
        "cluster_name": endpoints_name(backend),
        "endpoints": [{"priority": number, "lb_endpoints": ranked[rank]} for number, rank in enumerate(sorted(ranked))],
    }


def endpoints_fault(backend: Backend) -> str:
    """What is wrong with the endpoints that are left out; "" if nothing."""
    faults = [f"endpoint of {e.server}: {fault}" for e in backend.endpoints if (fault := _fault(e))]
    return "; ".join(faults)


def sds(name: str) -> Json:
    """Take the secret of this name from the one ADS stream."""
    return {"name": name, "sds_config": ADS}


ADS: Json = {"ads": {}, "resource_api_version": "V3"}


@lru_cache(maxsize=1_024)  # every build asks again for every endpoint, and POPs have few addresses
def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _fault(endpoint: PopEndpoint) -> str:
    """Why Envoy would refuse this endpoint's address, and with it all of the backend's; "" if it would not."""
    if not _is_address(endpoint.address):
        return f"{endpoint.address!r} is not an IP address"
    if not 0 < endpoint.port < 65536:
        return f"{endpoint.port} is not a port"
    if endpoint.mode is not EndpointMode.PLAIN and not endpoint.server_name:
        return "there is no server name to hold its certificate against"
    return ""


class _Way(IntEnum):
    """How a POP is reached, the better one first."""

    SOCKET = 0
    ADDRESS = 1


def _is_near(endpoint: PopEndpoint, near: Mapping[str, str]) -> bool:
    """Its socket is in the very directory that was found to be its POP's."""
    directory, _, name = endpoint.path.rpartition("/")
    return bool(endpoint.mode is EndpointMode.UNIX and name and directory and near.get(endpoint.server) == directory)


def _endpoint(service: str, endpoint: PopEndpoint, way: _Way, unhealthy: bool) -> Json:
    found: Json = {}
    entry: Json = {"endpoint": found}
    if way is _Way.SOCKET:
        found["address"] = {"pipe": {"path": endpoint.path}}
    else:
        found["address"] = {"socket_address": {"address": endpoint.address, "port_value": endpoint.port}}
    if way is _Way.ADDRESS and endpoint.mode is not EndpointMode.PLAIN:
        name = endpoint.server_name
        found["hostname"] = f"{service}.{name}" if endpoint.introductions else name
    else:
        entry["metadata"] = {"filter_metadata": {"envoy.transport_socket_match": {"clear": True}}}
    if unhealthy:
        entry["health_status"] = "UNHEALTHY"
    return entry


def _from_eds(name: str) -> Json:
    return {
        "type": "EDS",
        "eds_cluster_config": {"service_name": name, "eds_config": ADS},
        "connect_timeout": CONNECT_TIMEOUT,
        "ignore_health_on_host_removal": True,
        "common_lb_config": {
            # Less than one in a hundred is none at all: then every endpoint is tried, because one may be back already,
            # and a try costs less than a certain refusal.
            "healthy_panic_threshold": {"value": 1},
            # Unset, an ejection or a health change within 1 s of the cluster's last one is kept back for that second,
            # and all attempts of a visitor go to the dead POP.
            "update_merge_window": "0s",
        },
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 1,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_consecutive_5xx": 0,  # a service's own errors say nothing about the path to it
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            # A restarted POP is back within two seconds, and should count when the other one goes. One that is still
            # dead costs one visitor a retry at each end of its ejection, until the host's own probe has found it.
            "interval": "0.25s",
            "base_ejection_time": "1s",
            "max_ejection_time": "5s",
            "max_ejection_percent": 100,
        },
    }


def _limits() -> Json:
    cap = {"max_connections": CONNECTIONS_MAX, "max_pending_requests": CONNECTIONS_MAX, "max_requests": CONNECTIONS_MAX}
    retries = {"max_retries": 10_000}
    return {
        "circuit_breakers": {"thresholds": [cap | retries, cap | retries | {"priority": "HIGH"}]},
        "per_connection_buffer_limit_bytes": 262_144,
    }


def _proxy_socket(service: str, gateway: str, carries: Carries) -> Json:
    """PROXY v2 with the visitor's address, service id, gateway and stream id, and whoever has signed in."""
    said = {SERVICE_TLV: service, GATEWAY_TLV: gateway}
    tlvs: list[Json] = [
        {"type": kind, "value": base64.b64encode(value.encode()).decode()} for kind, value in said.items() if value
    ]
    stream = f"%FILTER_STATE({STREAM_STATE}:PLAIN)%"
    tlvs.append({"type": STREAM_TLV, "format_string": {"text_format_source": {"inline_string": stream}}})
    if carries is Carries.HTTP:
        tlvs.append({"type": VISITOR_TLV, "format_string": said_or_nothing(f"%FILTER_STATE({VISITOR_STATE}:PLAIN)%")})
    return {
        "name": "proxy",
        "typed_config": {
            "@type": f"{_SOCKETS}proxy_protocol.v3.ProxyProtocolUpstreamTransport",
            "config": {"version": "V2", "added_tlvs": tlvs},
            "transport_socket": {"name": "raw", "typed_config": {"@type": f"{_SOCKETS}raw_buffer.v3.RawBuffer"}},
        },
    }


def said_or_nothing(what: str) -> Json:
    """A format string that is empty where there is nothing to say."""
    return {"text_format_source": {"inline_string": what}, "omit_empty_values": True}


def _internal_address() -> Json:
    return {"envoy_internal_address": {"server_listener_name": INTERNAL_LISTENER}}


def _http_options(protocol: AppProtocol) -> Json:
    explicit: Json = {"http_protocol_options": {}}
    if protocol is AppProtocol.H2C:
        explicit = {"http2_protocol_options": {"allow_connect": True, "max_concurrent_streams": 1000}}
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{_TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"idle_timeout": UPSTREAM_IDLE_TIMEOUT},
            "explicit_http_config": explicit,
        }
    }
