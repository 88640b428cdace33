"""What Envoy writes down about visitors: to the host over its Unix socket, and to its own file in case no host runs."""

from __future__ import annotations

from typing import Any

import msgspec

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
ALS_CLUSTER = "drtp_als"


class AccessLogs(msgspec.Struct, frozen=True):
    """Where entries go. `audit_path` empty: no file."""

    audit_path: str = ""

    def tcp(self, listener: str) -> list[Json]:
        """Of a TCP proxy: connected, periodic and end to the host; ends to the file."""
        return [self._grpc("tcp_grpc", "TcpGrpcAccessLogConfig", listener), *self._file(["TcpConnectionEnd"])]

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

    def _grpc(self, logger: str, config: str, listener: str) -> Json:
        return {
            "name": f"envoy.access_loggers.{logger}",
            "typed_config": {
                "@type": f"{_TYPE}envoy.extensions.access_loggers.grpc.v3.{config}",
                "common_config": {
                    "log_name": listener,
                    "transport_api_version": "V3",
                    "grpc_service": {"envoy_grpc": {"cluster_name": ALS_CLUSTER}},
                    "buffer_flush_interval": "0.1s",
                },
            },
        }

    def _file(self, types: list[str]) -> list[Json]:
        if not self.audit_path:
            return []
        entry: Json = {
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": f"{_TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": self.audit_path,
                "log_format": {"json_format": dict(_AUDIT_FIELDS)},
            },
        }
        if types:
            entry["filter"] = {"log_type_filter": {"types": types}}
        return [entry]


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
