"""The small pure parts: patches, paths of printer columns, durations, protobuf, request paths."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtp.apiserver import jsonpath, patches, protobuf
from drtp.apiserver.failures import Failure
from drtp.apiserver.paths import Target, target_of
from drtp.apiserver.tables import short_duration

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (599, "9m59s"), (600, "10m"), (10799, "179m")),
        *((10800, "3h"), (11400, "3h10m"), (28800, "8h"), (172800, "2d"), (180000, "2d2h"), (86400 * 8, "8d")),
        *((86400 * 730, "2y"), (86400 * 800, "2y70d"), (86400 * 4000, "10y"), (-1, "0s"), (-5, "<invalid>")),
    ],
)
def test_ages_read_as_kubectl_writes_them(seconds: int, said: str) -> None:
    assert short_duration(seconds) == said


OBJECT = {
    "spec": {"servers": [{"role": "Primary", "ref": {"name": "a"}}, {"role": "Secondary", "ref": {"name": "b"}}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        ('.spec.servers[?(@.role=="Secondary")].ref.name', ["b"]),
        (".spec.servers[*].ref.name", ["a", "b"]),
        (".spec.servers[0].role", ["Primary"]),
        (".spec.servers[9].role", []),
        (".spec['servers'][1].role", ["Secondary"]),
        (".no.such", []),
    ],
)
def test_printer_paths_find_what_they_name(path: str, found: list[Any]) -> None:
    assert jsonpath.find(OBJECT, path) == found


def test_paths_that_columns_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="not a path"):
        jsonpath.find({}, "..a")


@given(JSON, JSON)
def test_merge_patch_is_idempotent(target: Any, patch: Any) -> None:
    once = patches.merge_patch(target, patch)
    assert patches.merge_patch(once, patch) == once


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ({"op": "add", "path": "/a/1", "value": 9}, {"a": [1, 9, 2]}),
        ({"op": "add", "path": "/a/-", "value": 9}, {"a": [1, 2, 9]}),
        ({"op": "remove", "path": "/a/0"}, {"a": [2]}),
        ({"op": "replace", "path": "/b", "value": 9}, {"a": [1, 2], "b": 9}),
        ({"op": "move", "from": "/a", "path": "/c"}, {"c": [1, 2]}),
        ({"op": "copy", "from": "/a/0", "path": "/d~1e"}, {"a": [1, 2], "d/e": 1}),
        ({"op": "test", "path": "/a/0", "value": 1}, {"a": [1, 2]}),
    ],
)
def test_json_patch_operates(operation: dict[str, Any], result: dict[str, Any]) -> None:
    assert patches.json_patch({"a": [1, 2]}, [operation]) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/no"},
        {"op": "add", "path": "/a/7", "value": 1},
        {"op": "add", "path": "a", "value": 1},
        {"op": "test", "path": "/a", "value": 1},
        {"op": "remove", "path": ""},
        {"op": "no", "path": "/a"},
        {"path": 1},
    ],
)
def test_json_patch_refuses_what_it_cannot_do(operation: dict[str, Any]) -> None:
    with pytest.raises(Failure):
        patches.json_patch({"a": [1, 2]}, [operation])


@given(JSON, st.lists(st.fixed_dictionaries({"op": st.sampled_from(["add", "remove"]), "path": st.text(max_size=6)})))
def test_json_patch_fails_only_by_saying_so(target: Any, operations: Any) -> None:
    with suppress(Failure):
        patches.json_patch(target, operations)


def test_strategic_merge_directives() -> None:
    target = {
        "metadata": {"finalizers": ["a", "b"], "labels": {"x": "1"}},
        "conditions": [{"type": "R", "status": "F"}],
    }
    patch = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "labels": {"x": None}},
        "conditions": [{"type": "R", "status": "T"}, {"type": "S"}],
        "$setElementOrder/conditions": [],
    }
    assert patches.strategic_merge(target, patch) == {
        "metadata": {"finalizers": ["b", "c"], "labels": {}},
        "conditions": [{"type": "R", "status": "T"}, {"type": "S"}],
    }


@given(JSON, JSON)
def test_strategic_merge_fails_only_by_saying_so(target: Any, patch: Any) -> None:
    with suppress(Failure):
        patches.strategic_merge(target, patch)


@given(st.binary(max_size=200))
def test_protobuf_decoder_fails_only_by_saying_so(body: bytes) -> None:
    for table in protobuf.TABLES.values():
        with suppress(ValueError):
            protobuf.read_message(body, table)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/namespaces", Target("", "v1", "namespaces", "", "", "")),
        ("/api/v1/namespaces/joe", Target("", "v1", "namespaces", "", "joe", "")),
        ("/api/v1/namespaces/joe/status", Target("", "v1", "namespaces", "", "joe", "status")),
        ("/api/v1/namespaces/joe/secrets/s", Target("", "v1", "secrets", "joe", "s", "")),
        ("/apis/g/v1/things/x/status", Target("g", "v1", "things", "", "x", "status")),
        ("/apis/g/v1/namespaces/joe/things", Target("g", "v1", "things", "joe", "", "")),
        ("/apis/g/v1", None),
        ("/apis", None),
        ("/api/v1/namespaces/joe/a/b/c/d", None),
        ("/api/v1/namespaces/a%2Fb/secrets/c%2Fd", None),
    ],
)
def test_paths_say_what_is_asked_for(path: str, target: Target | None) -> None:
    assert target_of(path) == target
