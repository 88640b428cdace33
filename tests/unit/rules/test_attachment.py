"""How listeners and routes meet: conflicts, namespaces, sections, grants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from drtp.api.gatewayapi import Gateway, HTTPRoute, LabelSelector, ListenerSet, ReferenceGrant
from drtp.rules import attachment
from drtp.rules.attachment import ParentVerdict, Slot

LABELS: dict[str, Mapping[str, str]] = {"blue": {"team": "blue"}, "red": {"team": "red"}}


def labels_of(name: str) -> Mapping[str, str]:
    return LABELS.get(name, {})


def gateway(*listeners: dict[str, Any], **spec: Any) -> Gateway:
    return msgspec.convert(
        {
            "metadata": {"name": "gw", "namespace": "blue"},
            "spec": {"gatewayClassName": "datum", "listeners": list(listeners), **spec},
        },
        Gateway,
    )


def http(name: str, port: int = 80, **more: Any) -> dict[str, Any]:
    return {"name": name, "port": port, "protocol": "HTTP", **more}


def judged(*listeners: dict[str, Any]) -> tuple[Slot, ...]:
    return attachment.arbitrate(attachment.gateway_slots(gateway(*listeners), frozenset()))


def attach(slots: tuple[Slot, ...], namespace: str = "blue", hosts: tuple[str, ...] = (), **ref: Any) -> ParentVerdict:
    route = msgspec.convert(
        {
            "metadata": {"name": "r", "namespace": namespace},
            "spec": {"hostnames": list(hosts), "parentRefs": [{"name": "gw", "namespace": "blue", **ref}]},
        },
        HTTPRoute,
    )
    return attachment.attach(route, route.spec.parent_refs[0], slots, labels_of, lambda kind, value: None)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (http("b", hostname="a.example.com"), "HostnameConflict"),
        ({"name": "b", "port": 80, "protocol": "TCP"}, "ProtocolConflict"),
        (http("b", hostname="b.example.com"), None),
        (http("b", 81, hostname="a.example.com"), None),
    ],
)
def test_the_later_of_two_conflicting_listeners_is_refused(second: dict[str, Any], reason: str | None) -> None:
    ports = {80, second["port"]}
    slots = attachment.gateway_slots(gateway(http("a", hostname="a.example.com"), second), frozenset())
    found = [
        slot for port in sorted(ports) for slot in attachment.arbitrate(s for s in slots if s.listener.port == port)
    ]
    assert found[0].refusal is None
    assert (found[1].refusal.reason if found[1].refusal else None) == reason


def test_a_conflict_does_not_name_another_tenants_listener() -> None:
    owner = gateway(allowedListeners={"namespaces": {"from": "All"}})
    sets = [
        msgspec.convert(
            {
                "metadata": {"name": "secret-plan", "namespace": namespace},
                "spec": {
                    "parentRef": {"name": "gw", "namespace": "blue"},
                    "listeners": [{"name": "l", "port": 15432, "protocol": "TCP"}],
                },
            },
            ListenerSet,
        )
        for namespace in ("blue", "green")
    ]
    slots = [
        slot
        for one in sets
        for slot in attachment.listener_set_slots(one, owner, frozenset(), labels_of, lambda k, v: None)
    ]
    judged_slots = attachment.arbitrate(slot._replace(refusal=None) for slot in slots)
    refused = [slot.refusal.message for slot in judged_slots if slot.refusal]
    assert len(refused) == 1
    assert "secret-plan" not in refused[0]


def test_a_gateway_takes_no_listener_sets_unless_it_says_so() -> None:
    one = msgspec.convert(
        {"metadata": {"name": "s", "namespace": "red"}, "spec": {"parentRef": {"name": "gw", "namespace": "blue"}}},
        ListenerSet,
    )
    assert attachment.set_allowed(one, gateway(), labels_of) is not None
    same = gateway(allowedListeners={"namespaces": {"from": "Same"}})
    assert attachment.set_allowed(one, same, labels_of) is not None
    red = {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "red"}}}}
    assert attachment.set_allowed(one, gateway(allowedListeners=red), labels_of) is None


def test_routes_of_other_namespaces_are_refused_by_default() -> None:
    slots = judged(http("a"))
    assert attach(slots).accepted.reason == "Accepted"
    assert attach(slots, "red").accepted.reason == "NotAllowedByListeners"


@pytest.mark.parametrize(
    ("ref", "reason"), [({"sectionName": "zz"}, "NoMatchingParent"), ({"port": 81}, "NoMatchingParent")]
)
def test_a_section_or_port_that_is_not_there_is_no_parent(ref: dict[str, Any], reason: str) -> None:
    assert attach(judged(http("a")), **ref).accepted.reason == reason


def test_no_common_hostname_is_said() -> None:
    found = attach(judged(http("a", hostname="*.example.com")), hosts=("other.org",))
    assert found.accepted.reason == "NoMatchingListenerHostname"


def test_a_tcp_listener_takes_no_http_route() -> None:
    assert attach(judged({"name": "a", "port": 80, "protocol": "TCP"})).accepted.reason == "NotAllowedByListeners"


@pytest.mark.parametrize(
    ("listener", "kinds", "every"),
    [
        (http("a"), ["HTTPRoute"], True),
        (http("a", allowedRoutes={"kinds": [{"kind": "TCPRoute"}]}), [], False),
        (http("a", allowedRoutes={"kinds": [{"kind": "HTTPRoute"}, {"kind": "GRPCRoute"}]}), ["HTTPRoute"], False),
        ({"name": "a", "port": 53, "protocol": "UDP"}, ["UDPRoute"], True),
    ],
)
def test_supported_kinds_are_what_both_sides_know(listener: dict[str, Any], kinds: list[str], every: bool) -> None:
    (slot,) = attachment.gateway_slots(gateway(listener), frozenset())
    found, complete = attachment.supported_kinds(slot.listener)
    assert ([one.kind for one in found], complete) == (kinds, every)


@pytest.mark.parametrize(
    ("selector", "good"),
    [
        ({}, True),
        ({"matchLabels": {"team": "red"}}, True),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["blue"]}]}, False),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["blue"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "team", "operator": "Resembles"}]}, False),
    ],
)
def test_a_selector_selects(selector: dict[str, Any], good: bool) -> None:
    assert attachment.selects(msgspec.convert(selector, LabelSelector), LABELS["red"]) is good


@pytest.mark.parametrize(
    ("to", "good"),
    [
        ({"group": "datumapis.com", "kind": "DRTPService"}, True),
        ({"group": "datumapis.com", "kind": "DRTPService", "name": "web"}, True),
        ({"group": "datumapis.com", "kind": "DRTPService", "name": "db"}, False),
        ({"group": "", "kind": "Secret"}, False),
    ],
)
def test_a_grant_permits_what_it_names(to: dict[str, str], good: bool) -> None:
    origin = ("gateway.networking.k8s.io", "HTTPRoute", "red")
    grant = msgspec.convert(
        {
            "metadata": {"name": "g", "namespace": "blue"},
            "spec": {"from": [{"group": origin[0], "kind": origin[1], "namespace": origin[2]}], "to": [to]},
        },
        ReferenceGrant,
    )
    target = ("datumapis.com", "DRTPService", "blue", "web")
    assert attachment.granted(origin, target, lambda namespace: [grant] if namespace == "blue" else []) is good
    assert not attachment.granted((origin[0], origin[1], "green"), target, lambda _: [grant])
