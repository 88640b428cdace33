"""Envoy's bootstrap: its Unix sockets to the host, its limits, and the one internal listener that never changes."""

from __future__ import annotations

from typing import Any, NamedTuple

from drtp.gateway.accesslogs import ALS_CLUSTER
from drtp.gateway.clusters import CONNECT_RETRIES, INTERNAL_LISTENER, METADATA
from drtp.gateway.settings import Paths

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
_NETWORK = f"{_TYPE}envoy.extensions.filters.network."
ADS_CLUSTER = "drtp_ads"

_STATS = (  # without a list, 1,000 services make 25 MB of metrics
    {"prefix": "server."},
    {"prefix": "listener.public."},
    {"prefix": "http.http."},
    {"prefix": "tcp."},
    {"prefix": "control_plane."},
    {"prefix": "listener_manager."},
    {"prefix": "cluster_manager."},
    {"prefix": "overload."},
)


class Budget(NamedTuple):
    """What Envoy may take of this machine: visitors at a time, and bytes of memory."""

    connections: int
    heap_bytes: int


def bootstrap(node: str, paths: Paths, budget: Budget) -> Json:
    """The whole file, in proto3 JSON."""
    return {
        "node": {"id": node, "cluster": "drtp"},
        "admin": {"address": {"pipe": {"path": str(paths.admin_socket), "mode": 0o600}}},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
                    "buffer_size_kb": 256,
                },
            }
        ],
        "dynamic_resources": _dynamic(),
        "static_resources": {
            "clusters": [_local(ADS_CLUSTER, paths), _local(ALS_CLUSTER, paths)],
            "listeners": [_hop_listener()],
        },
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": list(_STATS)}}},
        "layered_runtime": {"layers": [{"name": "edge", "static_layer": dict(_RUNTIME)}]},
        "overload_manager": _overload(budget),
        # What a crowd has left behind goes back to the system.
        "memory_allocator_manager": {"bytes_to_release": 16 << 20, "memory_release_interval": "2s"},
    }


EARLY_RESETS_MAX = 500
"""Streams of one connection that were reset within a second of their start: beyond it the connection is closed."""

_RUNTIME = {
    # Or a POP that dies while Envoy writes to it looks like one that has ended in good order.
    "envoy.reloadable_features.ssl_socket_report_connection_reset": True,
    "http.max_requests_per_io_cycle": 10,  # one visitor's burst of streams lets others have their turn
    "overload.premature_reset_total_stream_count": EARLY_RESETS_MAX,
    "overload.premature_reset_min_stream_lifetime_seconds": 1,
}


def _overload(budget: Budget) -> Json:
    """Connections have a cap. Memory is defended in steps: the idle go, then the greedy, then nobody new comes."""
    monitors = f"{_TYPE}envoy.extensions.resource_monitors."
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{monitors}downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": budget.connections,
                },
            },
            {
                "name": _HEAP,
                "typed_config": {
                    "@type": f"{monitors}fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": budget.heap_bytes,
                },
            },
        ],
        "actions": [
            {
                **_action("reduce_timeouts", {"scaled": {"scaling_threshold": 0.80, "saturation_threshold": 0.95}}),
                "typed_config": {
                    "@type": f"{_TYPE}envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
                    "timer_scale_factors": [
                        {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "2s"},
                        {"timer": "TRANSPORT_SOCKET_CONNECT", "min_timeout": "1s"},
                    ],
                },
            },
            _action("reset_high_memory_stream", {"scaled": {"scaling_threshold": 0.85, "saturation_threshold": 0.95}}),
            _action("shrink_heap", {"threshold": {"value": 0.90}}),
            _action("disable_http_keepalive", {"threshold": {"value": 0.92}}),
            _action("stop_accepting_connections", {"threshold": {"value": 0.95}}),
            _action("stop_accepting_requests", {"threshold": {"value": 0.98}}),
        ],
        # Streams that hold 1 MiB and more are counted, and reset first.
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
    }


_HEAP = "envoy.resource_monitors.fixed_heap"


def _action(name: str, trigger: Json) -> Json:
    return {"name": f"envoy.overload_actions.{name}", "triggers": [{"name": _HEAP, **trigger}]}


def _dynamic() -> Json:
    ads: Json = {"ads": {}, "resource_api_version": "V3"}
    back_off = {"base_interval": "0.2s", "max_interval": "2s"}
    return {
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [
                {"envoy_grpc": {"cluster_name": ADS_CLUSTER, "retry_policy": {"retry_back_off": back_off}}}
            ],
        },
        "cds_config": ads,
        "lds_config": ads,
    }


def _local(name: str, paths: Paths) -> Json:
    options = f"{_TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    pipe = {"address": {"pipe": {"path": str(paths.ads_socket)}}}
    return {
        "name": name,
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": pipe}]}]},
    }


def _hop_listener() -> Json:
    """Carries what front clusters write into mutual TLS; each connection brings the name of its hop cluster."""
    chosen = f"%DYNAMIC_METADATA({METADATA}:hop)%"
    return {
        "name": INTERNAL_LISTENER,
        "stat_prefix": "hop",
        "internal_listener": {},
        "ignore_global_conn_limit": True,
        "per_connection_buffer_limit_bytes": 262_144,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.set_filter_state",
                        "typed_config": {
                            "@type": f"{_NETWORK}set_filter_state.v3.Config",
                            "on_new_connection": [
                                {
                                    "object_key": "envoy.tcp_proxy.cluster",
                                    "format_string": {"text_format_source": {"inline_string": chosen}},
                                }
                            ],
                        },
                    },
                    {
                        "name": "envoy.filters.network.tcp_proxy",
                        "typed_config": {
                            "@type": f"{_NETWORK}tcp_proxy.v3.TcpProxy",
                            "stat_prefix": "hop",
                            "cluster": "unresolved",
                            **CONNECT_RETRIES,
                            "idle_timeout": "0s",
                        },
                    },
                ]
            }
        ],
    }
