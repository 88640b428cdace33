"""HTTP precedence as Gateway API orders it, on translated routes."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from drtp.api.gatewayapi import HTTPRoute
from drtp.api.snapshots import Access, WeightedBackend
from drtp.projections.httprules import duration_s, ranked


def made(name: str, created: int, *matches: dict[str, object], **rule: object) -> HTTPRoute:
    stamp = datetime(2030, 1, created, tzinfo=UTC).isoformat()
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "joe", "creationTimestamp": stamp},
            "spec": {"rules": [{"matches": list(matches), "backendRefs": [{"name": name}], **rule}]},
        },
        HTTPRoute,
        strict=False,
    )


def order(*routes: HTTPRoute) -> list[str]:
    found = [
        (one.rank, one.rule.backends[0].service)
        for route in routes
        for one in ranked(route, lambda refs: (tuple(WeightedBackend(service=ref.name) for ref in refs), Access()))
    ]
    return [name for _, name in sorted(found)]


def path(kind: str, value: str, **more: object) -> dict[str, object]:
    return {"path": {"type": kind, "value": value}, **more}


def test_exact_before_longer_prefix_before_shorter() -> None:
    routes = (
        made("short", 1, path("PathPrefix", "/a")),
        made("long", 1, path("PathPrefix", "/a/b")),
        made("exact", 1, path("Exact", "/a")),
        made("any", 1),
    )
    assert order(*routes) == ["exact", "long", "short", "any"]


def test_method_then_headers_then_parameters() -> None:
    header: dict[str, object] = {"headers": [{"name": "x", "value": "1"}]}
    query: dict[str, object] = {"queryParams": [{"name": "x", "value": "1"}]}
    method: dict[str, object] = {"method": "POST"}
    routes = (made("plain", 1), made("query", 1, query), made("header", 1, header), made("method", 1, method))
    assert order(*routes) == ["method", "header", "query", "plain"]


def test_the_older_route_wins_a_tie_then_the_name() -> None:
    assert order(made("new", 2), made("old", 1)) == ["old", "new"]
    assert order(made("b", 1), made("a", 1)) == ["a", "b"]


def test_a_filter_that_is_not_supported_answers_500_instead_of_passing() -> None:
    route = made("mirror", 1, filters=[{"type": "RequestMirror"}])
    (one,) = ranked(route, lambda _: ((WeightedBackend(service="s"),), Access()))
    assert [backend.service for backend in one.rule.backends] == [""]


@pytest.mark.parametrize(
    ("text", "seconds"), [("1m30s", 90.0), ("500ms", 0.5), ("1h", 3600.0), ("0s", 0.0), ("soon", None), ("", None)]
)
def test_durations_are_read(text: str, seconds: float | None) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("timeouts", "seconds"),
    [
        ({"request": "10s"}, 10.0),
        ({"request": "10s", "backendRequest": "2s"}, 2.0),
        ({"backendRequest": "2s"}, 2.0),
        ({"request": "0s", "backendRequest": "2s"}, 2.0),
        ({"request": "0s"}, None),
    ],
)
def test_the_shorter_timeout_holds_and_zero_is_none(timeouts: dict[str, str], seconds: float | None) -> None:
    route = made("a", 1, timeouts=timeouts)
    (found,) = ranked(route, lambda refs: ((WeightedBackend(service="a"),), Access()))
    assert found.rule.request_timeout_s == seconds


def test_a_match_that_cannot_be_made_is_left_out_and_the_others_stand() -> None:
    route = made("a", 1, path("RegularExpression", "^/(?!b)"), path("Exact", "/c"))
    found = ranked(route, lambda refs: ((WeightedBackend(service="a"),), Access()))
    assert [one.rule.matches[0].path for one in found] == ["/c"]
