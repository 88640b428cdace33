"""What is not carried out is said: every field of the upstream definitions is read, refused, or harmless by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from drtp.api import gatewayapi
from drtp.api.drtp import DRTPService
from drtp.api.gatewayapi import Gateway, GatewayClass, HTTPRoute, Listener
from drtp.api.meta import Model
from drtp.api.registry import REGISTRY
from drtp.rules import unsupported
from drtp.rules.attachment import SUPPORTED_KINDS

BACKEND = {"group": "datumapis.com", "kind": "DRTPService", "name": "web"}
META = {"name": "it", "namespace": "joe"}


def refusals(**rule: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    body = {"metadata": META, "spec": {"rules": [{"backendRefs": [BACKEND], **rule}]}}
    route = msgspec.convert(body, HTTPRoute)
    return unsupported.rules(route), unsupported.matches(route)


def matching(**match: Any) -> dict[str, Any]:
    return {"matches": [match]}


def filtering(kind: str, **said: Any) -> dict[str, Any]:
    return {"filters": [{"type": kind, **said}]}


HEADERS = {"set": [{"name": "a", "value": "b"}]}
REGEX = {"type": "RegularExpression", "value": "^/a.*$"}
LOOKS_AHEAD = {"type": "RegularExpression", "value": "^/(?!b)"}
MIRROR = {"requestMirror": {"backendRef": {"name": "web"}}}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (filtering("RequestHeaderModifier", requestHeaderModifier=HEADERS), None),
        (filtering("ResponseHeaderModifier", responseHeaderModifier=HEADERS), None),
        (filtering("RequestRedirect", requestRedirect={"scheme": "https"}), None),
        (filtering("URLRewrite", urlRewrite={"hostname": "b.example"}), None),
        (filtering("RequestMirror", **MIRROR), "has the filter RequestMirror"),
        (filtering("CORS", cors={"allowOrigins": ["https://a.example"]}), "has the filter CORS"),
        (filtering("ExtensionRef", extensionRef={"group": "g", "kind": "K", "name": "n"}), "the filter ExtensionRef"),
        (filtering("FromTheFuture"), "has the filter FromTheFuture"),
        ({"backendRefs": [{**BACKEND, **filtering("RequestMirror", **MIRROR)}]}, "has a filter of a backendRef"),
        ({"backendRefs": [{**BACKEND, "weight": 0}]}, None),
        ({"timeouts": {"request": "1s", "backendRequest": "500ms"}}, None),
        ({"name": "named"}, None),
        (matching(path={"type": "Exact", "value": "/a"}), None),
        (matching(path=REGEX), None),
        (matching(method="GET"), None),
        (matching(headers=[{"name": "a", **REGEX}], queryParams=[{"name": "b", **REGEX}]), None),
        (matching(method="CONNECT"), "matches the method CONNECT"),
        (matching(path=LOOKS_AHEAD), "has the expression ^/(?!b), beyond RE2"),
        (matching(headers=[{"name": "a", **LOOKS_AHEAD}]), "beyond RE2"),
        (matching(queryParams=[{"name": "a", **LOOKS_AHEAD}]), "beyond RE2"),
        (matching(path={"type": "Exact", "value": "/(?!b)"}), None),
    ],
    ids=str,
)
def test_a_rule_is_carried_out_or_named(rule: dict[str, Any], said: str | None) -> None:
    rules, matches = refusals(**rule)
    assert matches == ()
    if said is None:
        assert rules == ()
    else:
        assert rules[0].startswith("spec.rules[0] ")
        assert said in rules[0]


def test_a_rule_with_another_match_stands_without_the_one_that_cannot_be_made() -> None:
    rules, matches = refusals(matches=[{"method": "GET"}, {"method": "CONNECT"}])
    assert (rules, matches) == ((), ("spec.rules[0].matches[1] matches the method CONNECT",))


@pytest.mark.parametrize(
    ("protocol", "tls", "reason"),
    [
        ("HTTP", None, None),
        ("TCP", None, None),
        ("HTTPS", {"mode": "Terminate", "certificateRefs": [{"name": "c"}]}, None),
        ("TLS", {"mode": "Passthrough"}, None),
        ("UDP", None, None),
        ("example.com/QUIC", None, "UnsupportedProtocol"),
        ("TLS", {"mode": "Terminate"}, "UnsupportedProtocol"),
        ("TLS", None, "UnsupportedProtocol"),
        ("HTTPS", {"mode": "Passthrough"}, "UnsupportedProtocol"),
        ("HTTPS", {"mode": "Terminate", "options": {"example.com/min-version": "1.3"}}, "UnsupportedValue"),
    ],
)
def test_a_listener_is_spoken_or_refused(protocol: str, tls: dict[str, Any] | None, reason: str | None) -> None:
    body = {"name": "it", "port": 443, "protocol": protocol, **({"tls": tls} if tls else {})}
    found = unsupported.listener(msgspec.convert(body, Listener), SUPPORTED_KINDS)
    assert (found.reason if found else None) == reason


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({}, None),
        ({"addresses": [{"value": "127.0.0.1"}, {"type": "IPAddress", "value": "::1"}]}, None),
        ({"infrastructure": {"labels": {"a": "b"}}}, None),
        ({"addresses": [{"type": "Hostname", "value": "a.example"}]}, "UnsupportedAddress"),
        ({"infrastructure": {"parametersRef": {"group": "g", "kind": "K", "name": "n"}}}, "InvalidParameters"),
        ({"tls": {"frontend": {"default": {"validation": {"caCertificateRefs": []}}}}}, "UnsupportedValue"),
        ({"tls": {"backend": {"clientCertificateRef": {"name": "c"}}}}, "UnsupportedValue"),
    ],
)
def test_a_gateway_is_taken_or_refused(spec: dict[str, Any], reason: str | None) -> None:
    body = {"metadata": META, "spec": {"gatewayClassName": "c", **spec}}
    found = unsupported.gateway(msgspec.convert(body, Gateway))
    assert (found.reason if found else None) == reason


def test_parameters_of_a_class_are_refused() -> None:
    spec = {"controllerName": "datumapis.com/drtp-gateway", "parametersRef": {"group": "g", "kind": "K", "name": "n"}}
    found = unsupported.gateway_class(msgspec.convert({"metadata": {"name": "c"}, "spec": spec}, GatewayClass))
    assert found is not None
    assert found.reason == "InvalidParameters"


@pytest.mark.parametrize(
    ("protocol", "expose", "said"),
    [
        ("HTTP", {"hostname": "a.example", "hostHeader": "b"}, None),
        ("TLS", {"hostname": "a.example"}, None),
        ("TCP", {"port": 15432, "address": "192.0.2.1"}, None),
        ("HTTP", {"port": 15432}, "spec.expose.port means nothing for a service of protocol HTTP"),
        ("HTTPS", {"address": "192.0.2.1", "port": 1}, "spec.expose.port, spec.expose.address"),
        ("TLS", {"hostHeader": "b"}, "spec.expose.hostHeader"),
        ("TCP", {"hostname": "a.example", "hostHeader": "b"}, "spec.expose.hostname, spec.expose.hostHeader"),
    ],
)
def test_a_part_of_expose_that_means_nothing_is_named(protocol: str, expose: dict[str, Any], said: str | None) -> None:
    spec = {"protocol": protocol, "local": {"host": "localhost", "port": 1}, "expose": expose}
    found = unsupported.expose(msgspec.convert({"metadata": META, "spec": spec}, DRTPService))
    assert (found is None) is (said is None)
    assert found is None or (said or "") in found.message


# ---- drift ---------------------------------------------------------------------------------------------------------

HARMLESS = {
    "GatewayClass.spec.description",
    "Gateway.spec.infrastructure.annotations",
    "Gateway.spec.infrastructure.labels",
    *(f"{kind}.spec.rules.name" for kind in ("HTTPRoute", "TCPRoute", "TLSRoute", "UDPRoute", "GRPCRoute")),
}
"""Words for people, and labels for objects that are not made here."""

REFUSED = {
    # Values of `type` without a member: `carried_out` knows none of them.
    *(f"HTTPRoute.spec.rules.filters.{name}" for name in ("cors", "extensionRef", "requestMirror")),
    # No listener takes a GRPCRoute at all.
    *(f"GRPCRoute.spec.rules.{name}" for name in ("matches", "filters")),
}

KINDS = ("GatewayClass", "Gateway", "ListenerSet", "HTTPRoute", "TCPRoute", "TLSRoute", "UDPRoute", "GRPCRoute")


def _models(kind: Any) -> list[type[Model]]:
    """The models inside an annotation such as `tuple[X, ...]` or `X | None`."""
    if isinstance(kind, type) and issubclass(kind, Model):
        return [kind]
    return [found for part in getattr(kind, "__args__", ()) for found in _models(part)]


def _unread(schema: Mapping[str, Any], model: type[Model], path: str) -> Iterator[str]:
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(model)}
    for name, node in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        if name not in fields:
            yield where
            continue
        inner = node.get("items", node)
        for below in _models(fields[name]):
            yield from _unread(inner, below, where)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_the_upstream_definition_is_read_refused_or_harmless(kind: str) -> None:
    schema = REGISTRY[f"{kind}.{gatewayapi.GROUP}"].schema["properties"]["spec"]
    model: type[Model] = getattr(gatewayapi, kind)
    (spec,) = _models(next(field.type for field in msgspec.structs.fields(model) if field.name == "spec"))
    assert set(_unread(schema, spec, f"{kind}.spec")) - HARMLESS - REFUSED == set()
