"""What Envoy writes down about visitors: to the host over its Unix socket, and to its own file in case no host runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from drtp.gateway.clusters import STREAM_STATE

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
ALS_CLUSTER = "drtp_als"


_AUDIT_FIELDS = {
    "at": "%START_TIME%",
    "visitor": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "local": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream": "%UPSTREAM_HOST%",
    "flags": "%RESPONSE_FLAGS%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "stream": "%STREAM_ID%",
    "server_name": "%REQUESTED_SERVER_NAME%",
    "status": "%RESPONSE_CODE%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
}


class AccessLogs(msgspec.Struct, frozen=True):
    """Where entries go. `audit_path` empty: no file."""

    audit_path: str = ""

    def tcp(self, listener: str) -> list[Json]:
        """Of a TCP proxy: connected, periodic and end to the host; ends to the file."""
        fields = _AUDIT_FIELDS | {"stream": f"%FILTER_STATE({STREAM_STATE}:PLAIN)%"}
        host = self._grpc("tcp_grpc", "TcpGrpcAccessLogConfig", listener, states=[STREAM_STATE])
        return [host, *self._file(["TcpConnectionEnd"], fields)]

    def http(self, listener: str) -> list[Json]:
        """Of an HTTP connection manager."""
        return [self._grpc("http_grpc", "HttpGrpcAccessLogConfig", listener), *self._file(["DownstreamEnd"])]

    def refusals(self, listener: str) -> list[Json]:
        """Of a listener: only connections that no filter chain took, which nothing else would tell of."""
        only = {"response_flag_filter": {"flags": ["NR"]}}
        return [
            {**entry, "filter": only}
            for entry in (self._grpc("tcp_grpc", "TcpGrpcAccessLogConfig", listener), *self._file([]))
        ]

    def _grpc(self, logger: str, config: str, listener: str, states: Sequence[str] = ()) -> Json:
        return {
            "name": f"envoy.access_loggers.{logger}",
            "typed_config": {
                "@type": f"{_TYPE}envoy.extensions.access_loggers.grpc.v3.{config}",
                "common_config": {
                    "log_name": listener,
                    "transport_api_version": "V3",
                    "grpc_service": {"envoy_grpc": {"cluster_name": ALS_CLUSTER}},
                    "buffer_flush_interval": "0.1s",
                    "filter_state_objects_to_log": list(states),
                },
            },
        }

    def _file(self, types: list[str], fields: Mapping[str, str] = _AUDIT_FIELDS) -> list[Json]:
        if not self.audit_path:
            return []
        entry: Json = {
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": f"{_TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": self.audit_path,
                "log_format": {"json_format": dict(fields)},
            },
        }
        if types:
            entry["filter"] = {"log_type_filter": {"types": types}}
        return [entry]
