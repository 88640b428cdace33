"""HTTPRoute rules as gateways take them: one rule for each match, ranked by Gateway API's precedence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from drtp.api.gatewayapi import (
    BackendRef,
    HeaderFilter,
    HTTPRoute,
    HTTPRouteMatch,
    HTTPRouteRule,
    HTTPRouteTimeouts,
    NamedValue,
    RedirectFilter,
    RewriteFilter,
)
from drtp.api.snapshots import (
    Access,
    HeaderChange,
    HttpMatch,
    HttpRule,
    PathMatch,
    Redirect,
    Rewrite,
    ValueMatch,
    WeightedBackend,
)
from drtp.rules import unsupported
from drtp.rules.precedence import Rank, rank

Resolve = Callable[[Iterable[BackendRef]], tuple[tuple[WeightedBackend, ...], Access]]

UNRESOLVED = (WeightedBackend(service=""),)
"""Answered with 500: a rule without backends that redirects nowhere, or with a filter that is not supported."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Ranked(NamedTuple):
    """A rule and where it stands among all of its host."""

    rank: Rank
    rule: HttpRule


def ranked(route: HTTPRoute, resolve: Resolve) -> list[Ranked]:
    """Every match of a route as a rule of its own."""
    found: list[Ranked] = []
    for position, rule in enumerate(route.spec.rules or (HTTPRouteRule(),)):
        backends, access = resolve(rule.backend_refs)
        actions = _actions(rule)
        for index, match in enumerate(rule.matches or (HTTPRouteMatch(),)):
            if unsupported.match(match) is not None:
                continue
            translated = _match(match)
            built = HttpRule(
                matches=(translated,),
                access=access,
                backends=() if actions.redirect else (backends if backends and actions.supported else UNRESOLVED),
                request_headers=actions.request,
                response_headers=actions.response,
                redirect=actions.redirect,
                rewrite=actions.rewrite,
                request_timeout_s=_timeout_s(rule.timeouts) if rule.timeouts else None,
            )
            found.append(Ranked(rank(translated, route, position, index), built))
    return found


class _Actions(NamedTuple):
    request: HeaderChange | None
    response: HeaderChange | None
    redirect: Redirect | None
    rewrite: Rewrite | None
    supported: bool


def _actions(rule: HTTPRouteRule) -> _Actions:
    made = _Actions(None, None, None, None, supported=True)
    for one in rule.filters:
        if one.type == "RequestHeaderModifier" and one.request_header_modifier:
            made = made._replace(request=_headers(one.request_header_modifier))
        elif one.type == "ResponseHeaderModifier" and one.response_header_modifier:
            made = made._replace(response=_headers(one.response_header_modifier))
        elif one.type == "RequestRedirect" and one.request_redirect:
            made = made._replace(redirect=_redirect(one.request_redirect))
        elif one.type == "URLRewrite" and one.url_rewrite:
            made = made._replace(rewrite=_rewrite(one.url_rewrite))
        else:
            made = made._replace(supported=False)
    return made


def _match(match: HTTPRouteMatch) -> HttpMatch:
    path = match.path
    return HttpMatch(
        path_type=PathMatch((path.type if path else None) or "PathPrefix"),
        path=(path.value if path else None) or "/",
        method=match.method,
        headers=tuple(_value(one) for one in match.headers),
        query=tuple(_value(one) for one in match.query_params),
    )


def _value(one: NamedValue) -> ValueMatch:
    return ValueMatch(name=one.name, value=one.value, regex=one.type == "RegularExpression")


def _headers(one: HeaderFilter) -> HeaderChange:
    return HeaderChange(
        set={header.name: header.value for header in one.set},
        add={header.name: header.value for header in one.add},
        remove=one.remove,
    )


def _redirect(one: RedirectFilter) -> Redirect:
    return Redirect(
        scheme=one.scheme,
        hostname=one.hostname,
        port=one.port,
        status=one.status_code or 302,
        replace_full_path=one.path.replace_full_path if one.path else None,
        replace_prefix_match=one.path.replace_prefix_match if one.path else None,
    )


def _rewrite(one: RewriteFilter) -> Rewrite:
    return Rewrite(
        hostname=one.hostname,
        replace_full_path=one.path.replace_full_path if one.path else None,
        replace_prefix_match=one.path.replace_prefix_match if one.path else None,
    )


def _timeout_s(said: HTTPRouteTimeouts) -> float | None:
    """The shorter one: a request is tried again only before the service has seen anything of it. Zero means none."""
    found = (duration_s(said.request), duration_s(said.backend_request))
    return min((one for one in found if one), default=None)


def duration_s(text: str | None) -> float | None:
    """Seconds of a GEP-2257 duration such as `1m30s`; None where there is none, or none that can be read."""
    if not text or not re.fullmatch(r"(\d+(?:\.\d+)?(?:ms|h|m|s))+", text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))
