"""Each route, verb, role and tenant is allowed or refused as the guide's table says, and nothing is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from drtp.api.people import AUTHENTICATED, User
from drtp.apiserver import discovery
from drtp.main.roles import set_projects
from drtp.store.protocol import AlreadyExists
from unit.apiserver.serving import ADMIN, Served

PAGE = Path(__file__).parents[3] / "docs" / "guide" / "access.md"
LINE = re.compile(r"^\| `([a-z0-9./]+)` \| ([a-z, -]+) \| ([a-z, -]+) \| ([a-z, -]+) \| ([a-z, -]+) \|$", re.MULTILINE)
VERBS = {
    "read": {"get", "list", "watch"},
    "write": {"create", "update", "patch", "apply", "delete", "deletecollection"},
    "create": {"create"},
    "-": set[str](),
}
OWN, OTHER, EVERYWHERE = "joe", "eve", ""
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Route(NamedTuple):
    """One resource or subresource as discovery has it."""

    name: str
    root: str
    plural: str
    kind: str
    subresource: str
    namespaced: bool
    kept: bool


class Ask(NamedTuple):
    """One request. `place`: the project that it is about; "" for all or for the cluster."""

    route: Route
    verb: str
    place: str
    method: str
    path: str
    content_type: str = ""


def table() -> dict[str, dict[str, set[str]]]:
    """Resource to column to verbs, as the guide's page has them."""
    columns = ("view", "edit", "admin", "everybody")
    return {
        name: {
            column: set[str]().union(*(VERBS[word.strip()] for word in cell.split(",")))
            for column, cell in zip(columns, cells, strict=True)
        }
        for name, *cells in LINE.findall(PAGE.read_text())
    }


async def routes(api: Served) -> list[Route]:
    """What aggregated discovery tells of, subresources too."""
    found: list[Route] = []
    for top in ("/api", "/apis"):
        _, listed = await api.call("GET", top, Accept=discovery.AGGREGATED)
        for group in listed["items"]:
            name = group["metadata"].get("name", "")
            for version in group["versions"]:
                root = f"{top}/{name}/{version['version']}" if name else f"{top}/{version['version']}"
                for one in version["resources"]:
                    plural, kind = one["resource"], one["responseKind"]["kind"]
                    said = f"{plural}.{name}" if name else plural
                    scope, kept = one["scope"] == "Namespaced", "get" in one["verbs"]
                    found.append(Route(said, root, plural, kind, "", scope, kept))
                    for sub in one.get("subresources", ()):
                        part = sub["subresource"]
                        found.append(Route(f"{said}/{part}", root, plural, kind, part, scope, "get" in sub["verbs"]))
    return found


def asks(route: Route) -> Iterator[Ask]:
    """Every verb in every place where the route can be addressed."""
    if not route.kept:
        for place in (OWN, OTHER) if route.namespaced else ():
            part = f"/gone/{route.subresource}" if route.subresource else ""
            yield Ask(route, "create", place, "POST", f"{route.root}/namespaces/{place}/{route.plural}{part}")
        if route.subresource:
            return
        yield Ask(route, "create", EVERYWHERE, "POST", f"{route.root}/{route.plural}")
        return
    itself = route.plural == "namespaces"
    for place in (OWN, OTHER, EVERYWHERE) if route.namespaced or itself else (EVERYWHERE,):
        inside = f"{route.root}/namespaces/{place}" if place and not itself else route.root
        collection = f"{inside}/{route.plural}"
        named = not (route.namespaced or itself) or place
        one = f"{collection}/{place if itself else 'gone'}" + (f"/{route.subresource}" if route.subresource else "")
        if named:
            yield Ask(route, "get", place, "GET", one)
            yield Ask(route, "update", place, "PUT", one)
            yield Ask(route, "patch", place, "PATCH", one, MERGE)
            yield Ask(route, "apply", place, "PATCH", f"{one}?fieldManager=t&dryRun=All", APPLY)
        if route.subresource:
            continue
        if named:
            yield Ask(route, "delete", place, "DELETE", f"{one}?dryRun=All")
        if itself and place:
            yield Ask(route, "watch", place, "GET", f"{one}?watch=1")
            continue
        yield Ask(route, "list", place, "GET", collection)
        yield Ask(route, "watch", place, "GET", f"{collection}?watch=1")
        yield Ask(route, "create", place, "POST", f"{collection}?dryRun=All")
        yield Ask(route, "deletecollection", place, "DELETE", f"{collection}?labelSelector=no%3Dwhere&dryRun=All")


async def answer(api: Served, ask: Ask, token: str, path: str = "") -> tuple[int, str]:
    """Status, and the message of a refusal; a watch is left as soon as its status is known."""
    sent = {"Authorization": f"Bearer {token}"} if token else {}
    body = None if ask.method in {"GET", "DELETE"} else b"{}"
    if body:
        sent["Content-Type"] = ask.content_type or "application/json"
    async with api.session.request(ask.method, api.url + (path or ask.path), data=body, headers=sent) as response:
        if response.status == 200 and ask.verb == "watch":
            return 200, ""
        said: Any = await response.json(content_type=None)
        return response.status, str(said.get("message", ""))


def _expected(wanted: dict[str, dict[str, set[str]]], ask: Ask, column: str, places: set[str]) -> bool:
    verbs = wanted[ask.route.name]
    return ask.verb in (verbs[column] if ask.place in places else verbs["everybody"])


@pytest.fixture
async def people(api: Served) -> Served:
    """A user for each role in joe's project, one with a role elsewhere only, one with none."""
    for role in ("view", "edit", "admin"):
        api.tokens.users[role] = User(f"the-{role}", f"u-{role}", (AUTHENTICATED,))
        await set_projects(api.store, f"u-{role}", f"the-{role}", [OWN], role)
    await api.store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "away"}})
    api.tokens.users["away"] = User("the-away", "u-away", (AUTHENTICATED,))
    await set_projects(api.store, "u-away", "the-away", ["away"], "admin")
    api.tokens.users["nobody"] = User("the-nobody", "u-nobody", (AUTHENTICATED,))
    await api.rbac.reached(api.store.revision)
    return api


async def test_the_table_has_a_line_for_each_route_and_no_other(api: Served) -> None:
    served = {route.name for route in await routes(api)}
    assert sorted(table()) == sorted(served)


async def test_the_openapi_documents_have_each_route_and_verb(api: Served) -> None:
    _, index = await api.call("GET", "/openapi/v3")
    documented: set[tuple[str, str]] = set()
    for one in index["paths"].values():
        _, document = await api.call("GET", one["serverRelativeURL"])
        documented |= {(verb.upper(), path) for path, item in document["paths"].items() for verb in item}
    for route in await routes(api):
        within = f"{route.root}/namespaces/{{namespace}}" if route.namespaced else route.root
        named = f"{within}/{route.plural}" + ("/{name}" if route.kept or route.subresource else "")
        path = f"{named}/{route.subresource}" if route.subresource else named
        assert ("GET" if route.kept else "POST", path) in documented


@pytest.mark.parametrize(
    ("token", "column", "places"),
    [
        ("view", "view", {OWN}),
        ("edit", "edit", {OWN}),
        ("admin", "admin", {OWN}),
        ("away", "admin", set[str]()),
        ("nobody", "everybody", set[str]()),
    ],
)
async def test_each_route_and_verb_is_as_the_table_says(
    people: Served, token: str, column: str, places: set[str]
) -> None:
    wanted, wrong, count = table(), list[str](), 0
    for route in await routes(people):
        for ask in asks(route):
            status, message = await answer(people, ask, token)
            refused = status == 403 and "DRTP-1012" in message
            count += 1
            if refused is _expected(wanted, ask, column, places) or status in {401, 500}:
                wrong.append(f"{ask.verb} {ask.path}: {status} {message}")
    assert wrong == []
    assert count > 400


async def test_the_operator_is_refused_nothing(people: Served) -> None:
    for route in await routes(people):
        for ask in asks(route):
            status, message = await answer(people, ask, ADMIN)
            assert status not in {401, 403, 500}, f"{ask.verb} {ask.path}: {status} {message}"


async def test_whoever_is_not_signed_in_gets_the_same_401_everywhere(people: Served) -> None:
    said = {
        await answer(people, ask, token) for route in await routes(people) for ask in asks(route) for token in ("", "x")
    }
    assert said == {(401, "Unauthorized (DRTP-1011)")}


@pytest.mark.parametrize("token", ["view", "admin", "away", "nobody"])
async def test_refusals_are_the_same_whether_the_object_is_there_or_not(people: Served, token: str) -> None:
    wanted, count = table(), 0
    places = {OWN} if token in {"view", "admin"} else set[str]()
    for route in await routes(people):
        if not route.kept or route.subresource or route.plural == "namespaces":
            continue
        group = route.root.removeprefix("/apis/") if route.root.startswith("/apis/") else "v1"
        for place in (OWN, OTHER) if route.namespaced else ("",):
            metadata = {"name": "held"} | ({"namespace": place} if place else {})
            with suppress(AlreadyExists):  # a kind in several versions is one object
                await people.store.create({"apiVersion": group, "kind": route.kind, "metadata": metadata})
    for route in await routes(people):
        for ask in asks(route) if route.kept and route.plural != "namespaces" else ():
            if "/gone" not in ask.path or _expected(wanted, ask, token if places else "everybody", places):
                continue
            absent = await answer(people, ask, token)
            there = await answer(people, ask, token, ask.path.replace("/gone", "/held"))
            assert there == (absent[0], absent[1].replace('"gone"', '"held"')), ask.path
            count += 1
    assert count > 100
