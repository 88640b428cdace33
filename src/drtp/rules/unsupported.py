"""What the API takes and gateways do not carry out: it is said by condition, never left out in silence.

Gateway API's own files define the objects, so everything upstream allows can be stored. A test holds every field of
those files against the models and this module.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from drtp.api.drtp import DRTPService, Protocol
from drtp.api.gatewayapi import (
    Gateway,
    GatewayClass,
    HTTPRoute,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRule,
    Listener,
    Route,
)
from drtp.api.reasons import Aspect, Reason
from drtp.rules.conditions import Conclusion, no, yes

_RE2_LACKS = re.compile(r"\(\?(?:[=!>]|<[=!])|\\[1-9]")
"""Look-around, atomic groups and back-references: Envoy's regular expressions are RE2's."""


# ---- routes --------------------------------------------------------------------------------------------------------


def carried_out(one: HTTPRouteFilter) -> bool:
    """Whether gateways do what this filter of a rule says."""
    match one.type:
        case "RequestHeaderModifier":
            return one.request_header_modifier is not None
        case "ResponseHeaderModifier":
            return one.response_header_modifier is not None
        case "RequestRedirect":
            return one.request_redirect is not None
        case "URLRewrite":
            return one.url_rewrite is not None
        case _:
            return False


def rules(route: Route) -> tuple[str, ...]:
    """Every rule of which nothing can be carried out as it is meant, with what it asks for."""
    if not isinstance(route, HTTPRoute):
        return ()
    found = ((index, _in_rule(rule)) for index, rule in enumerate(route.spec.rules))
    return tuple(f"spec.rules[{index}] {what}" for index, what in found if what is not None)


def matches(route: Route) -> tuple[str, ...]:
    """Every match that cannot be made, of rules that have others: the rule stands without it."""
    if not isinstance(route, HTTPRoute):
        return ()
    return tuple(
        f"spec.rules[{position}].matches[{index}] {what}"
        for position, rule in enumerate(route.spec.rules)
        if _in_rule(rule) is None
        for index, what in enumerate(map(match, rule.matches))
        if what is not None
    )


def _in_rule(rule: HTTPRouteRule) -> str | None:
    for one in rule.filters:
        if not carried_out(one):
            return f"has the filter {one.type}"
    if any(ref.filters for ref in rule.backend_refs):
        return "has a filter of a backendRef"
    refused = [match(one) for one in rule.matches]
    return refused[0] if refused and all(refused) else None


def match(one: HTTPRouteMatch) -> str | None:
    """What of a match gateways cannot look for."""
    if one.method == "CONNECT":
        return "matches the method CONNECT"
    path = [one.path.value or ""] if one.path and one.path.type == "RegularExpression" else []
    values = [part.value for part in (*one.headers, *one.query_params) if part.type == "RegularExpression"]
    beyond = next((text for text in (*path, *values) if _RE2_LACKS.search(text)), None)
    return None if beyond is None else f"has the expression {beyond[:64]}, beyond RE2"


# ---- gateways ------------------------------------------------------------------------------------------------------


def gateway_class(found: GatewayClass) -> Conclusion | None:
    """Parameters mean something to another controller."""
    if found.spec.parameters_ref is None:
        return None
    return no(Aspect.ACCEPTED, Reason.INVALID_PARAMETERS, "spec.parametersRef is not read; take it away.")


def gateway(found: Gateway) -> Conclusion | None:
    """What a Gateway asks for as a whole; none of its listeners stands then, since it may be there for safety."""
    kinds = [one.type for one in found.spec.addresses if (one.type or "IPAddress") != "IPAddress"]
    if kinds:
        what = f"Addresses of type {kinds[0]} are not bound; use IPAddress, or leave them out."
        return no(Aspect.ACCEPTED, Reason.UNSUPPORTED_ADDRESS, what)
    if found.spec.infrastructure and found.spec.infrastructure.parameters_ref:
        what = "spec.infrastructure.parametersRef is not read; take it away."
        return no(Aspect.ACCEPTED, Reason.INVALID_PARAMETERS, what)
    if found.spec.tls:
        what = f"spec.tls.{min(found.spec.tls)} asks for client certificates, which are not checked or shown here."
        return no(Aspect.ACCEPTED, Reason.UNSUPPORTED_VALUE, what)
    return None


def listener(found: Listener, spoken: Container[str]) -> Conclusion | None:
    """A protocol that is not `spoken` here, a TLS mode, or options."""
    protocol = found.protocol
    if protocol not in spoken:
        return no(Aspect.ACCEPTED, Reason.UNSUPPORTED_PROTOCOL, f"{protocol} listeners are not served (DRTP-6008).")
    mode = found.tls.mode if found.tls else None
    if protocol == "TLS" and mode != "Passthrough":
        what = "TLS listeners are served in mode Passthrough only."
        return no(Aspect.ACCEPTED, Reason.UNSUPPORTED_PROTOCOL, what)
    if protocol == "HTTPS" and mode == "Passthrough":
        what = "HTTPS listeners terminate TLS; for Passthrough use protocol TLS."
        return no(Aspect.ACCEPTED, Reason.UNSUPPORTED_PROTOCOL, what)
    if found.tls and found.tls.options:
        what = f"The TLS option {min(found.tls.options)} means nothing to this gateway; take it away."
        return no(Aspect.ACCEPTED, Reason.UNSUPPORTED_VALUE, what)
    return None


# ---- services ------------------------------------------------------------------------------------------------------

_NAMED = frozenset({Protocol.HTTP, Protocol.HTTPS, Protocol.TLS})
_HTTP = frozenset({Protocol.HTTP, Protocol.HTTPS})
_BY_PORT = frozenset({Protocol.TCP, Protocol.UDP})


def expose(service: DRTPService) -> Conclusion | None:
    """The parts of `spec.expose` that mean nothing for the service's protocol, by name."""
    idle = tuple(_idle(service))
    if not idle:
        return None
    what = f"{', '.join(idle)} means nothing for a service of protocol {service.spec.protocol.value}, and is left out."
    return yes(Aspect.PARTIALLY_INVALID, Reason.UNSUPPORTED_VALUE, what)


def _idle(service: DRTPService) -> Iterator[str]:
    asked, protocol = service.spec.expose, service.spec.protocol
    if asked is None:
        return
    if asked.hostname and protocol not in _NAMED:
        yield "spec.expose.hostname"
    if asked.port and protocol not in _BY_PORT:
        yield "spec.expose.port"
    if asked.address and protocol not in _BY_PORT:
        yield "spec.expose.address"
    if asked.host_header and protocol not in _HTTP:
        yield "spec.expose.hostHeader"
