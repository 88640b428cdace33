"""HTTP routes: one virtual host for each public name, each rule of Gateway API as one Envoy route per match."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from drtp.api.snapshots import (
    Backend,
    HeaderChange,
    HttpHost,
    HttpMatch,
    HttpRule,
    PathMatch,
    Redirect,
    Rewrite,
    SignInEntry,
)
from drtp.gateway import visitors
from drtp.gateway.admission import EVERYONE, Admitted, admitted, rbac_config
from drtp.gateway.clusters import Carries, front_name
from drtp.gateway.http import RBAC_FILTER
from drtp.gateway.visitors import Place
from drtp.rules import asking

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
_TOKEN = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
_HOSTNAME = re.compile(r"^(\*|(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?)$")
_REDIRECTS = {301: "MOVED_PERMANENTLY", 302: "FOUND", 303: "SEE_OTHER", 307: "TEMPORARY_REDIRECT",
              308: "PERMANENT_REDIRECT"}  # fmt: skip

Backends = Callable[[str], Backend | None]
"""A backend by service uid; None if it does not resolve."""


def route_table(name: str) -> Json:
    """The listener's route configuration without its hosts; what is not hosted here answers 404."""
    return {
        "name": name,
        "ignore_port_in_host_matching": True,
        "request_headers_to_remove": ["x-envoy-external-address", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms"],
    }


def nothing_here() -> Json:
    """The virtual host of every unknown name."""
    return {"name": "*", "domains": ["*"], "routes": [_answer(404)]}


def _answer(status: int) -> Json:
    return {"match": {"prefix": "/"}, "direct_response": {"status": status}, **_rbac(EVERYONE)}


def out_of_service(host: HttpHost) -> Json:
    """Stands in for a host that Envoy refused: its visitors get a page, never another host's answer."""
    return {"name": host.hostname.lower(), "domains": [host.hostname.lower()], "routes": [_answer(503)]}


def virtual_host(
    host: HttpHost,
    backends: Backends,
    sign_in: SignInEntry | None = None,
    *,
    secure: bool = True,
    trust_domain: str = "",
) -> Json:
    """Routes in the order given. `secure`: behind TLS, where visitors may sign in, once there is a place for it.

    `trust_domain`: of the certificates that visitors may show there; "" for none.

    Raises: ValueError naming what Envoy would refuse for the whole listener.
    """
    name = host.hostname.lower()
    if not _HOSTNAME.match(name):
        raise ValueError(f"hostname {host.hostname!r} is not one")
    routes: list[Json] = []
    place = Place(name, host.memberships, secure=secure, trust_domain=trust_domain)
    for rule in host.rules:
        guarded = _guard(rule, place if sign_in is not None else None)
        routes += [_route(match, rule, guarded, backends) for match in rule.matches or (HttpMatch(),)]
    if sign_in is not None and secure and any(asking.asks_who(rule.access) for rule in host.rules):
        routes = [*visitors.own_routes(place, sign_in), *routes]
    return {"name": name, "domains": [name], "routes": [*routes, _answer(404)]}


def _guard(rule: HttpRule, place: Place | None) -> Json:
    """The filters' configuration on a rule's routes. `place` None: nobody can sign in, so who asks for that denies."""
    if not asking.asks_who(rule.access):
        return _rbac(admitted(rule.access))
    if place is None:
        return _rbac(Admitted(networks=()))
    return {"typed_per_filter_config": visitors.on_route(rule.access, place)}


def policy_fault(host: HttpHost) -> str:
    """What could not be read of the host's policies; these rules admit nobody."""
    plain = (rule.access for rule in host.rules if not asking.asks_who(rule.access))
    return next((who.fault for who in map(admitted, plain) if who.fault), "")


def _route(match: HttpMatch, rule: HttpRule, guarded: Json, backends: Backends) -> Json:
    route: Json = {"match": _match(match), **guarded}
    if rule.request_headers is not None:
        route |= _headers(rule.request_headers, "request")
    if rule.response_headers is not None:
        route |= _headers(rule.response_headers, "response")
    if rule.redirect is not None:
        return route | {"redirect": _redirect(match, rule.redirect)}
    if not any(target.weight > 0 for target in rule.backends):
        return route | {"direct_response": {"status": 500}}
    return route | {"route": _forward(match, rule, backends)}


def _rbac(who: Admitted) -> Json:
    per_route = {"@type": f"{_TYPE}envoy.extensions.filters.http.rbac.v3.RBACPerRoute", "rbac": rbac_config(who)}
    return {"typed_per_filter_config": {RBAC_FILTER: per_route}}


# ---- matches -------------------------------------------------------------------------------------------------------


def _match(match: HttpMatch) -> Json:
    found = _path_match(match)
    headers = [_value_match(header.name, header.value, header.regex) for header in match.headers]
    if match.method is not None:
        headers.append({"name": ":method", "string_match": {"exact": _token(match.method)}})
    if headers:
        found["headers"] = headers
    if match.query:
        found["query_parameters"] = [
            {"name": query.name, "string_match": _string_match(query.value, query.regex)} for query in match.query
        ]
    return found


def _path_match(match: HttpMatch) -> Json:
    if not match.path.startswith("/") and match.path_type is not PathMatch.REGEX:
        raise ValueError(f"path {match.path!r} does not start with /")
    match match.path_type:
        case PathMatch.EXACT:
            return {"path": match.path}
        case PathMatch.REGEX:
            return {"safe_regex": {"regex": match.path}}
        case PathMatch.PREFIX:
            prefix = match.path.rstrip("/")
            return {"path_separated_prefix": prefix} if prefix else {"prefix": "/"}


def _value_match(name: str, value: str, regex: bool) -> Json:
    return {"name": _token(name), "string_match": _string_match(value, regex)}


def _string_match(value: str, regex: bool) -> Json:
    return {"safe_regex": {"regex": value}} if regex else {"exact": value}


# ---- forwarding ----------------------------------------------------------------------------------------------------


def _forward(match: HttpMatch, rule: HttpRule, backends: Backends) -> Json:
    action: Json = {
        "timeout": f"{rule.request_timeout_s or 0:g}s",
        "idle_timeout": "0s",
        "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR",
        "retry_policy": _RETRY,
    }
    if rule.rewrite is not None:
        action |= _rewrite_path(match, rule.rewrite)
    renamed = rule.rewrite.hostname if rule.rewrite is not None else None
    targets = [target for target in rule.backends if target.weight > 0]
    hosts = [renamed or _host_header(backends, target.service) for target in targets]
    if len(targets) == 1:
        action["cluster"] = _cluster(targets[0].service)
        return action | ({"host_rewrite_literal": hosts[0], "append_x_forwarded_host": True} if hosts[0] else {})
    weighted = [
        {"name": _cluster(target.service), "weight": target.weight} | ({"host_rewrite_literal": host} if host else {})
        for target, host in zip(targets, hosts, strict=True)
    ]
    return action | {"weighted_clusters": {"clusters": weighted}, "append_x_forwarded_host": any(hosts)}


def _cluster(service: str) -> str:
    return front_name(service or "unresolved", Carries.HTTP)


def _host_header(backends: Backends, service: str) -> str | None:
    backend = backends(service)
    return backend.host_header if backend is not None else None


_RETRY: Json = {
    "retry_on": "connect-failure,reset-before-request",  # nothing has reached the service yet
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": f"{_TYPE}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": 3,
    "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.2s"},
}


def _rewrite_path(match: HttpMatch, rewrite: Rewrite) -> Json:
    if rewrite.replace_full_path is not None:
        return {"regex_rewrite": _whole_path(rewrite.replace_full_path)}
    if rewrite.replace_prefix_match is None:
        return {}
    replacement = rewrite.replace_prefix_match.rstrip("/")
    if replacement:
        return {"prefix_rewrite": replacement if match.path.rstrip("/") else f"{replacement}/"}
    return {"regex_rewrite": _without_prefix(match.path)}


def _whole_path(path: str) -> Json:
    return {"pattern": {"regex": "^/.*$"}, "substitution": path.replace("\\", "\\\\")}


def _without_prefix(path: str) -> Json:
    """`/a/b` → `/b` and `/a` → `/`: a plain prefix rewrite would leave two slashes."""
    return {"pattern": {"regex": f"^{re.escape(path.rstrip('/'))}/*"}, "substitution": "/"}


def _redirect(match: HttpMatch, redirect: Redirect) -> Json:
    if redirect.status not in _REDIRECTS:
        raise ValueError(f"redirect status {redirect.status} ({HTTPStatus(302).value} is usual)")
    found: Json = {"response_code": _REDIRECTS[redirect.status]}
    if redirect.scheme:
        found["scheme_redirect"] = redirect.scheme
    if redirect.hostname:
        found["host_redirect"] = redirect.hostname
    if redirect.port:
        found["port_redirect"] = redirect.port
    elif redirect.scheme:
        found["port_redirect"] = 443 if redirect.scheme == "https" else 80
    if redirect.replace_full_path is not None:
        found["path_redirect"] = redirect.replace_full_path
    elif redirect.replace_prefix_match is not None:
        found |= _rewrite_path(match, Rewrite(replace_prefix_match=redirect.replace_prefix_match))
    return found


# ---- headers -------------------------------------------------------------------------------------------------------


def _headers(change: HeaderChange, direction: str) -> Json:
    added = [_header(name, value, "OVERWRITE_IF_EXISTS_OR_ADD") for name, value in change.set.items()]
    added += [_header(name, value, "APPEND_IF_EXISTS_OR_ADD") for name, value in change.add.items()]
    found: Json = {}
    if added:
        found[f"{direction}_headers_to_add"] = added
    if change.remove:
        found[f"{direction}_headers_to_remove"] = [_header_name(name) for name in change.remove]
    return found


def _header(name: str, value: str, action: str) -> Json:
    if any(ord(character) < 32 and character != "\t" for character in value):
        raise ValueError(f"value of header {name} has control characters")
    return {"header": {"key": _header_name(name), "value": value.replace("%", "%%")}, "append_action": action}


def _header_name(name: str) -> str:
    if name.lower() == "host":
        raise ValueError("Host is changed by a URLRewrite filter, not as a header")
    return _token(name)


def _token(text: str) -> str:
    if not _TOKEN.match(text):
        raise ValueError(f"{text!r} is not a name that HTTP knows")
    return text


def by_service(backends: Mapping[str, Backend]) -> Backends:
    """Look-up in a mapping."""
    return backends.get
