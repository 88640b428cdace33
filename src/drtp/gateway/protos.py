"""The only door to protobuf: resources are plain JSON shapes elsewhere, and bytes on the wire.

The generated modules carry no types, so every untyped name stays in this file. Builders write proto3 JSON, which is
also what `envoy --mode validate` reads, so a builder's output can be checked without a server.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, extension_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.rbac.v3 import rbac_pb2 as rbac_config_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2 as grpc_log_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_authn_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2 as http_filter_state_pb2
from envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.connection_limit.v3 import connection_limit_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from envoy.extensions.matching.common_inputs.ssl.v3 import ssl_inputs_pb2
from envoy.extensions.matching.input_matchers.ip.v3 import ip_pb2
from envoy.extensions.matching.input_matchers.metadata.v3 import metadata_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.transport_sockets.internal_upstream.v3 import internal_upstream_pb2
from envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.extensions.upstreams.tcp.v3 import tcp_protocol_options_pb2
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format, wrappers_pb2

from drtp.gateway.clusters import STREAM_STATE
from drtp.gateway.encoding import fill
from drtp.gateway.resources import Kind, Resource

Json = dict[str, Any]
"""One message in proto3 JSON; an `Any` carries `@type`."""

_NEEDED = (  # imported so that their descriptors are known wherever an `Any` names them
    protocol_pb2, rbac_config_pb2, file_pb2, grpc_log_pb2, lua_pb2, rbac_pb2, router_pb2, proxy_protocol_pb2,
    tls_inspector_pb2, connection_limit_pb2, http_connection_manager_pb2, set_filter_state_pb2, tcp_proxy_pb2,
    header_mutation_pb2, network_inputs_pb2, ip_pb2, previous_hosts_pb2, internal_upstream_pb2,
    upstream_proxy_protocol_pb2, raw_buffer_pb2, tls_pb2, http_protocol_options_pb2, tcp_protocol_options_pb2,
    wrappers_pb2, cel_pb2, jwt_authn_pb2, http_filter_state_pb2, metadata_pb2, ssl_inputs_pb2,
)  # fmt: skip

_MESSAGES: dict[Kind, Any] = {
    Kind.SECRET: secret_pb2.Secret,
    Kind.CLUSTER: cluster_pb2.Cluster,
    Kind.ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    Kind.EXTENSION: extension_pb2.TypedExtensionConfig,
    Kind.LISTENER: listener_pb2.Listener,
    Kind.ROUTES: route_pb2.RouteConfiguration,
}

DISCOVERY = "envoy.service.discovery.v3.AggregatedDiscoveryService"
ACCESS_LOGS = "envoy.service.accesslog.v3.AccessLogService"


class DiscoveryRequest(msgspec.Struct, frozen=True):
    """DeltaDiscoveryRequest. `nonce` empty: a subscription; else an answer, refused if `error` is set."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    holds: dict[str, str] = {}
    nonce: str = ""
    error: str | None = None


class DiscoveryResponse(msgspec.Struct, frozen=True):
    """DeltaDiscoveryResponse: resources of one kind that are new, and names that are gone."""

    kind: Kind
    nonce: str
    upsert: tuple[Resource, ...] = ()
    remove: tuple[str, ...] = ()


class LogEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One access log entry as Envoy, or for UDP the core, tells it. Times in unix seconds; bytes and datagrams are the
    visitor's, from and to; `dropped_datagrams` had no room, or no right, to go on.
    """

    at: float
    listener: str
    event: str
    stream: str
    visitor: str
    visitor_port: int
    cluster: str = ""
    flags: tuple[str, ...] = ()
    received_bytes: int = 0
    sent_bytes: int = 0
    received_datagrams: int = 0
    sent_datagrams: int = 0
    dropped_datagrams: int = 0
    duration_s: float = 0.0
    server_name: str = ""
    method: str = ""
    host: str = ""
    path: str = ""
    status: int = 0
    details: str = ""


def encode(kind: Kind, body: Json) -> bytes:
    """Serialise one resource. Raises: ValueError naming the bad field."""
    message = _MESSAGES[kind]()
    fill(message, body)
    return cast("bytes", message.SerializeToString(deterministic=True))


def decode(kind: Kind, body: bytes) -> Json:
    """The JSON shape of an encoded resource, for validation and tests."""
    return json_format.MessageToDict(_MESSAGES[kind].FromString(body))


def encode_response(response: DiscoveryResponse) -> bytes:
    """Serialise for the wire."""
    message = discovery_pb2.DeltaDiscoveryResponse(
        type_url=response.kind.value, nonce=response.nonce, removed_resources=response.remove
    )
    for resource in response.upsert:
        entry = message.resources.add(name=resource.name, version=resource.version)
        entry.resource.type_url = response.kind.value
        entry.resource.value = resource.body
    return cast("bytes", message.SerializeToString())


def decode_request(data: bytes) -> DiscoveryRequest:
    """Read one from Envoy."""
    message = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
    return DiscoveryRequest(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        holds=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
    )


def encode_request(type_url: str, **fields: Any) -> bytes:
    """A DeltaDiscoveryRequest, for tests of the server without Envoy."""
    return cast("bytes", discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, **fields).SerializeToString())


def decode_response(data: bytes) -> tuple[str, str, dict[str, str], tuple[str, ...]]:
    """(type, nonce, versions by name, removed), for tests of the server without Envoy."""
    message = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
    versions = {entry.name: entry.version for entry in message.resources}
    return message.type_url, message.nonce, versions, tuple(message.removed_resources)


class LogDecoder:
    """Reads one access log stream; only its first message names the log."""

    def __init__(self) -> None:
        self._name = ""

    def read(self, data: bytes) -> list[LogEntry]:
        """The entries of one StreamAccessLogsMessage."""
        message = als_pb2.StreamAccessLogsMessage.FromString(data)
        if message.HasField("identifier"):
            self._name = message.identifier.log_name
        entries = [self._tcp(entry) for entry in message.tcp_logs.log_entry]
        entries += [self._http(entry) for entry in message.http_logs.log_entry]
        return entries

    def _tcp(self, entry: Any) -> LogEntry:
        common = entry.common_properties
        return msgspec.structs.replace(
            self._common(common),
            received_bytes=entry.connection_properties.received_bytes,
            sent_bytes=entry.connection_properties.sent_bytes,
        )

    def _http(self, entry: Any) -> LogEntry:
        request, response = entry.request, entry.response
        return msgspec.structs.replace(
            self._common(entry.common_properties),
            received_bytes=request.request_body_bytes,
            sent_bytes=response.response_body_bytes,
            method=_method(request.request_method),
            host=request.authority,
            path=request.path,
            status=response.response_code.value,
            details=response.response_code_details,
        )

    def _common(self, common: Any) -> LogEntry:
        remote = common.downstream_remote_address.socket_address
        return LogEntry(
            at=common.start_time.seconds + common.start_time.nanos / 1e9,
            listener=self._name,
            event=_LOG_EVENTS.get(common.access_log_type, "end"),
            stream=_stream(common),
            visitor=remote.address,
            visitor_port=remote.port_value,
            cluster=common.upstream_cluster,
            flags=tuple(flag.name for flag, _value in common.response_flags.ListFields()),
            duration_s=common.duration.seconds + common.duration.nanos / 1e9,
            server_name=common.tls_properties.tls_sni_hostname,
            details=common.connection_termination_details or common.upstream_transport_failure_reason,
        )


def _stream(common: Any) -> str:
    """The id that the visitor's connection was given, which its POP knows too; a request's is its own."""
    named = wrappers_pb2.StringValue()
    stated = common.filter_state_objects.get(STREAM_STATE)
    return named.value if stated is not None and stated.Unpack(named) else common.stream_id


# envoy.data.accesslog.v3.AccessLogType; everything else is an end.
_LOG_EVENTS = {1: "connected", 2: "periodic", 4: "start", 5: "periodic"}


def _method(number: int) -> str:
    return cast("str", base_pb2.RequestMethod.Name(number)) if number else ""


def concatenate(parts: Sequence[bytes] | Iterable[bytes]) -> bytes:
    """Join encodings of one message type: repeated fields add up, which spares re-encoding what has not changed."""
    return b"".join(parts)
