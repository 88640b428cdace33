"""One HTTP connection manager for each listener: what outsiders may not say is removed, and what refuses says so.

Requests stream through: no buffering, no idle time-out that would cut a WebSocket or an event stream. Everything that
speaks of the visitor or the trace is dropped at the door and written anew.
"""

from __future__ import annotations

import html
from typing import Any

from drtp.gateway import visitors
from drtp.gateway.accesslogs import AccessLogs
from drtp.gateway.clusters import ADS, VISITOR_STATE, name_connection, said_or_nothing
from drtp.gateway.script import SCRIPT
from drtp.kit.codes import CODES

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
_FILTERS = f"{_TYPE}envoy.extensions.filters."

RBAC_FILTER = visitors.RBAC_FILTER
LUA_FILTER = visitors.LUA_FILTER

FORGEABLE = (
    "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-client-cert",
    "x-forwarded-scheme", "x-forwarded-server", "forwarded", "x-real-ip", "true-client-ip", "x-client-ip",
    "cf-connecting-ip", "x-cluster-client-ip", "x-original-forwarded-for", "x-request-id", "traceparent", "tracestate",
    "baggage", "b3", "x-ot-span-context", "x-cloud-trace-context", "grpc-trace-bin", "uber-trace-id",
)  # fmt: skip
"""Headers that claim who the visitor is or which trace this is: only the gateway may."""

IDLE_S = 75
"""A connection without a request in it, the first one too."""

FORGEABLE_PREFIXES = ("x-envoy-", "x-b3-", "x-drtp-", "x-datum-", "x-datadog-", "x-amzn-trace-id")


def connection_filters(listener: str, routes: str, logs: AccessLogs, *, asks: bool = False) -> list[Json]:
    """What an HTTP chain consists of: the connection gets an id, then HTTP is spoken. `asks`: for certificates."""
    return [name_connection(), connection_manager(listener, routes, logs, asks=asks)]


def connection_manager(listener: str, routes: str, logs: AccessLogs, *, asks: bool = False) -> Json:
    """The network filter that speaks HTTP/1.1 and HTTP/2 and takes its routes by RDS name `routes`.

    `asks`: visitors are asked for a certificate.
    """
    return {
        "name": "http",
        "typed_config": {
            "@type": f"{_FILTERS}network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "codec_type": "AUTO",
            "rds": {"route_config_name": routes, "config_source": ADS},
            "http_filters": _http_filters(asks=asks),
            "access_log": logs.http(listener),
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "local_reply_config": _local_replies(),
            **_visitor_identity(),
            **_protocol_limits(),
        },
    }


_THE_VISITOR: Json = {
    "append": {
        "header": {"key": "x-forwarded-for", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
}


def _visitor_identity() -> Json:
    mutations: list[Json] = [_removed(name) for name in FORGEABLE]
    mutations += [_removed(f"{prefix}.*") for prefix in FORGEABLE_PREFIXES]
    mutations.append(_THE_VISITOR)
    return {
        "use_remote_address": True,
        "skip_xff_append": True,  # it would happen before the mutations, and be stripped with the forgeries
        # Nobody is internal: an empty list would mean the private ranges, whose x-envoy-* headers are obeyed.
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "early_header_mutation_extensions": [
            {
                "name": "strip",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                    "mutations": mutations,
                },
            }
        ],
        "generate_request_id": True,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "strip_trailing_host_dot": True,
    }


def _removed(header: str) -> Json:
    """Many services read `_` as `-`: to them either spelling speaks of the visitor."""
    return {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": header.replace("-", "[-_]")}}}}


def _protocol_limits() -> Json:
    return {
        "stream_idle_timeout": "0s",  # an idle WebSocket is not a fault
        "request_timeout": "0s",
        "request_headers_timeout": "10s",  # a slow header is
        "max_request_headers_kb": 64,
        "common_http_protocol_options": {"idle_timeout": f"{IDLE_S}s", "max_headers_count": 200},
        "http_protocol_options": {"accept_http_10": True},
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 262_144,
            "initial_connection_window_size": 1_048_576,
            "allow_connect": True,
            # A visitor that vanished is noticed however quiet its streams are.
            "connection_keepalive": {"interval": "60s", "timeout": "10s", "interval_jitter": {"value": 15}},
        },
        # How long a connection that is over stays open, so that its visitor can read the last answer. One that was cut
        # at the POP waits for it too: 1 s is as long as a revocation may take.
        "delayed_close_timeout": "0.5s",
        "drain_timeout": "1s",
    }


def _http_filters(*, asks: bool) -> list[Json]:
    """Who it is, whether they may, what they and the service are told of it, and on to the POP."""
    deny_all: Json = {"@type": f"{_FILTERS}http.rbac.v3.RBAC", "rules": {"action": "ALLOW", "policies": {}}}
    lua = {
        "@type": f"{_FILTERS}http.lua.v3.Lua",
        "default_source_code": {"inline_string": SCRIPT},
    }
    visitor: Json = {
        "object_key": VISITOR_STATE,
        "factory_key": "envoy.hashable_string",
        "format_string": said_or_nothing("%DYNAMIC_METADATA(drtp:visitor)%"),
        "skip_if_empty": True,
        "shared_with_upstream": "TRANSITIVE",
    }
    state = {"@type": f"{_FILTERS}http.set_filter_state.v3.Config", "on_request_headers": [visitor]}
    return [
        visitors.discovered(visitors.TOKENS_FILTER, ADS),
        visitors.discovered(visitors.PEOPLE_FILTER, ADS),
        *(visitors.discovered(name, ADS) for name in (visitors.OF_CERTIFICATES if asks else ())),
        {"name": RBAC_FILTER, "typed_config": deny_all},
        {"name": LUA_FILTER, "typed_config": lua},
        {"name": "drtp.visitor", "typed_config": state},
        {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{_FILTERS}http.router.v3.Router", "suppress_envoy_headers": True},
        },
    ]


# ---- what the gateway itself answers -------------------------------------------------------------------------------

_REPLIES = {404: "DRTP-5001", 503: "DRTP-5002", 403: "DRTP-5003", 500: "DRTP-5004", 504: "DRTP-5005"}
_OTHERWISE = "DRTP-5006"
_UNKNOWN = "DRTP-5007"
_NOT_COMPLETED = "DRTP-2038"
_OF_VISITORS = {visitors.NEEDS_TLS: "DRTP-5008", visitors.NOT_THIS_PERSON: "DRTP-5009"}


def _local_replies() -> Json:
    """A browser of somebody unknown who might be let in is sent to sign in; a program is told so."""
    unknown = _refused_as(visitors.SIGN_IN)
    mappers: list[Json] = [
        _mapper([unknown, _ACCEPTS_HTML], _html(_UNKNOWN))
        | {"status_code": 302, "headers_to_add": [_LOCATION, _UNKEPT]},
        _mapper([unknown], _text(_UNKNOWN)) | {"status_code": 401, "headers_to_add": [_UNKEPT]},
        _mapper([_status_is("EQ", 401)], _text(_UNKNOWN)),
    ]
    in_the_clear = [_refused_as(visitors.NEEDS_TLS), _ACCEPTS_HTML, _ON_THE_USUAL_PORT]
    mappers.append(
        _mapper(in_the_clear, _html(_OF_VISITORS[visitors.NEEDS_TLS]))
        | {"status_code": 302, "headers_to_add": [_BY_TLS, _UNKEPT]}
    )
    of_visitors = [(_refused_as(name), code) for name, code in _OF_VISITORS.items()]
    for refused, code in (*of_visitors, (_refused_with("lua_response"), _NOT_COMPLETED)):
        mappers.append(_mapper([refused, _ACCEPTS_HTML], _html(code)))
        mappers.append(_mapper([refused], _text(code)))
    for status, code in _REPLIES.items():
        mappers.append(_mapper([_status_is("EQ", status), _ACCEPTS_HTML], _html(code)))
        mappers.append(_mapper([_status_is("EQ", status)], _text(code)))
    mappers.append(_mapper([_status_is("GE", 400), _ACCEPTS_HTML], _html(_OTHERWISE)))
    mappers.append(_mapper([_status_is("GE", 400)], _text(_OTHERWISE)))
    return {"mappers": mappers}


_LOCATION = visitors.header("location", f"{visitors.SIGN_IN_PATH}?to=%REQ(:PATH)%")
_BY_TLS = visitors.header("location", "https://%REQ(:AUTHORITY)%%REQ(:PATH)%")
_ON_THE_USUAL_PORT: Json = {
    "header_filter": {"header": {"name": ":authority", "string_match": {"contains": ":"}, "invert_match": True}}
}
"""So that the usual port of https is where the same site is."""
_UNKEPT = visitors.header("cache-control", "no-store")


def _refused_as(name: str) -> Json:
    """The route's rules refused it under this name."""
    return _refused_with(f"rbac_access_denied_matched_policy[{name}]")


def _refused_with(details: str) -> Json:
    expression = f"response.code_details == '{details}'"
    kind = f"{_TYPE}envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    named = {"extension_filter": {"name": "cel", "typed_config": {"@type": kind, "expression": expression}}}
    return {"and_filter": {"filters": [_status_is("EQ", 403), named]}}


def _mapper(conditions: list[Json], body: Json) -> Json:
    chosen = conditions[0] if len(conditions) == 1 else {"and_filter": {"filters": conditions}}
    return {"filter": chosen, "body_format_override": body}


def _status_is(operator: str, status: int) -> Json:
    value = {"default_value": status, "runtime_key": "drtp.unset"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


_ACCEPTS_HTML: Json = {"header_filter": {"header": {"name": "accept", "string_match": {"contains": "text/html"}}}}


def _text(code: str) -> Json:
    entry = CODES[code]
    line = f"{code}: {entry.what} {entry.remedy} Trace: %STREAM_ID%\n"
    return {"text_format_source": {"inline_string": line}, "content_type": "text/plain; charset=utf-8"}


def _html(code: str) -> Json:
    entry = CODES[code]
    page = _PAGE.format(code=code, **{name: html.escape(text) for name, text in entry._asdict().items()})
    return {"text_format_source": {"inline_string": page}, "content_type": "text/html; charset=utf-8"}


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{code} {title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:12vh auto;padding:0 1.5rem;color:#222}}
h1{{font-size:1.4rem}}code{{color:#666}}@media(prefers-color-scheme:dark){{body{{background:#111;color:#ddd}}}}</style>
</head><body><h1>{title}</h1><p>{what}</p><p>{remedy}</p><p><code>{code} &middot; %STREAM_ID%</code></p></body></html>
"""
