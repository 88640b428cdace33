"""The written definitions follow the models, and every rule in any definition can be run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cel
import pytest

from drtp.api import cel_rules, crds, drtp
from drtp.api.kinds import kind_key
from drtp.api.registry import REGISTRY

ROOT = Path(__file__).parents[3]


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for member in schema.values():
            yield from nodes(member)
    elif isinstance(schema, list):
        for item in schema:
            yield from nodes(item)


def rules() -> set[str]:
    return {
        rule["rule"]
        for info in REGISTRY
        for node in nodes(info.schema)
        if isinstance(node.get("x-kubernetes-validations"), list)
        for rule in node["x-kubernetes-validations"]
    }


def test_written_definitions_are_current() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "deploy/crds").glob("*.yaml")}
    assert written == crds.rendered(), "run: python -m drtp.api.crds"


def test_every_rule_of_every_kind_compiles_with_functions_that_exist() -> None:
    core = {"size", "double", "contains", "matches", "startsWith", "endsWith", "duration", "int", "string"}
    for rule in rules():
        called = {name for name in cel.compile(rule).functions() if name[0].isalpha()}
        assert called <= core | cel_rules.FUNCTIONS.keys(), rule


def test_upstream_rules_are_all_found() -> None:
    assert len(rules()) > 80


@pytest.mark.parametrize("info", [info for info in REGISTRY if info.group == drtp.GROUP], ids=lambda info: info.kind)
def test_our_schemas_are_structural(info: Any) -> None:
    """Every node has a type, every list says how it merges, map keys are required or have a default."""
    for node in nodes(info.schema["properties"]["spec"]):
        if node.get("type") == "array":
            assert node["x-kubernetes-list-type"] in {"atomic", "set", "map"}
            items = node["items"]
            assert "type" in items
            for key in node.get("x-kubernetes-list-map-keys", ()):
                assert key in items["required"]
        for member in node.get("properties", {}).values():
            assert "type" in member or member.get("x-kubernetes-int-or-string")


@pytest.mark.parametrize("info", [info for info in REGISTRY if info.group == drtp.GROUP], ids=lambda info: info.kind)
def test_what_rules_look_at_is_bounded(info: Any) -> None:
    """Kubernetes refuses definitions whose rules could cost too much."""
    for node in nodes(info.schema):
        if isinstance(node.get("x-kubernetes-validations"), list):
            if node.get("type") == "string" and "enum" not in node:
                assert "maxLength" in node
            if node.get("type") == "array":
                assert "maxItems" in node


def test_kinds_are_found_by_key_model_and_resource() -> None:
    service = REGISTRY["DRTPService.datumapis.com"]
    assert REGISTRY.of(drtp.DRTPService) is service
    assert REGISTRY.resource("datumapis.com", "drtpservices") is service
    assert REGISTRY["Secret"].api_version == "v1"
    assert kind_key("v1", "Secret") == "Secret"
    assert kind_key("datumapis.com/v1alpha", "DRTPService") == service.key


def test_gateway_kinds_are_stored_in_their_best_version() -> None:
    for kind in ("Gateway", "HTTPRoute", "TCPRoute", "TLSRoute", "UDPRoute", "ListenerSet", "ReferenceGrant"):
        assert REGISTRY[f"{kind}.gateway.networking.k8s.io"].version == "v1"
