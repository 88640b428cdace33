"""The catalogue over the API: what each project finds, and that a hidden publication is answered as an unknown one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drtp.api.core import ORGANIZATION_LABEL
from drtp.api.people import AUTHENTICATED, User
from drtp.main.roles import set_projects
from drtp.rules import catalogue_grants
from unit.apiserver.serving import ADMIN, JOE, USERS, Served

ENTRIES = "/apis/catalog.datumapis.com/v1alpha/namespaces/{}/catalogentries"
DATUM = "/apis/datumapis.com/v1alpha/namespaces/{}/{}"
ORGANIZATIONS = {"joe": "harbour", "quay": "harbour", "eve": "lantern", "lamp": "lantern", "alone": ""}
"""Project to organisation: the publisher's, a neighbour of it, two of another organisation, one of none."""

READERS = tuple(ORGANIZATIONS)
MODES: dict[str, dict[str, Any]] = {
    "open": {"mode": "Open"},
    "approval": {"mode": "Approval"},
    "listed": {"mode": "AllowList", "allowed": [{"organization": "lantern", "project": "eve"}]},
}
SEEN = {
    ("Everyone", "open"): set(READERS),
    ("Everyone", "approval"): set(READERS),
    ("Everyone", "listed"): set(READERS),
    ("Organization", "open"): {"joe", "quay"},
    ("Organization", "approval"): {"joe", "quay"},
    ("Organization", "listed"): {"joe", "quay", "eve"},
    ("Subscribers", "open"): {"joe"},
    ("Subscribers", "approval"): {"joe"},
    ("Subscribers", "listed"): {"joe", "eve"},
}


def publication(name: str = "pg", **spec: Any) -> dict[str, Any]:
    said = {"serviceRef": {"name": "pg"}, "title": "Orders", "visibility": "Everyone", **spec}
    return _object("DRTPPublication", "joe", name, said)


def subscription(project: str, name: str = "pg", to: str = "pg", **spec: Any) -> dict[str, Any]:
    return _object("DRTPSubscription", project, name, {"publicationRef": {"namespace": "joe", "name": to}, **spec})


def _object(kind: str, namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "datumapis.com/v1alpha", "kind": kind, "metadata": metadata, "spec": spec}


@pytest.fixture
async def people(api: Served) -> Served:
    """A project and its editor for each reader; joe has the service."""
    for project, organization in ORGANIZATIONS.items():
        labels = {ORGANIZATION_LABEL: organization} if organization else {}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": project, "labels": labels}}
        held = (await api.call("GET", f"/api/v1/namespaces/{project}"))[0] == 200
        await (api.store.update if held else api.store.create)(body)
        api.tokens.users[f"{project}-token"] = User(project, f"u-{project}", (AUTHENTICATED,))
        await set_projects(api.store, f"u-{project}", project, [project])
    spec = {"protocol": "TCP", "local": {"host": "db.corp.example", "port": 5432}, "applicationType": "postgresql"}
    await api.store.create(_object("DRTPService", "joe", "pg", spec))
    await api.rbac.reached(api.store.revision)
    return api


async def post(api: Served, body: dict[str, Any], token: str = JOE) -> tuple[int, Any]:
    plural = f"{body['kind'].lower()}s"
    answer = await api.call("POST", DATUM.format(body["metadata"]["namespace"], plural), body, token=token)
    await api.rbac.reached(api.store.revision)
    return answer


async def approval(api: Served, made: tuple[int, Any], **spec: Any) -> str:
    """The record that the controller would make, or the publisher by hand; its name."""
    assert made[0] == 201
    metadata, to = made[1]["metadata"], made[1]["spec"]["publicationRef"]["name"]
    subscriber = {name: metadata[name] for name in ("namespace", "name", "uid")}
    body = _object("DRTPApproval", "joe", f"{to}-1", {"publicationRef": {"name": to}, "subscriber": subscriber, **spec})
    assert (await post(api, body))[0] == 201
    return f"{to}-1"


async def listed(api: Served, project: str) -> list[str]:
    status, said = await api.call("GET", ENTRIES.format(project), token=f"{project}-token")
    assert status == 200
    return [one["metadata"]["name"] for one in said["items"]]


async def got(api: Served, project: str, name: str) -> tuple[int, Any]:
    return await api.call("GET", f"{ENTRIES.format(project)}/{name}", token=f"{project}-token")


@pytest.mark.parametrize(("visibility", "mode"), SEEN)
async def test_each_project_lists_and_reads_what_it_may_see_and_nothing_else(
    people: Served, visibility: str, mode: str
) -> None:
    await post(people, publication(visibility=visibility, access=MODES[mode]))
    for project in READERS:
        seen = project in SEEN[visibility, mode]
        assert await listed(people, project) == (["joe.pg"] if seen else []), project
        status, said = await got(people, project, "joe.pg")
        assert status == (200 if seen else 404), project
        if not seen:
            unknown = await got(people, project, "joe.no-such")
            elsewhere = await got(people, project, "nowhere.pg")
            for other, name in ((unknown, "joe.no-such"), (elsewhere, "nowhere.pg")):
                assert (status, said["message"].replace("joe.pg", name)) == (other[0], other[1]["message"])


async def test_the_catalogue_of_another_project_is_refused_as_everything_of_it(people: Served) -> None:
    await post(people, publication())
    there = await people.call("GET", f"{ENTRIES.format('eve')}/joe.pg", token="quay-token")
    absent = await people.call("GET", f"{ENTRIES.format('eve')}/joe.no-such", token="quay-token")
    assert (there[0], absent[0]) == (403, 403)
    assert there[1]["message"] == absent[1]["message"].replace("joe.no-such", "joe.pg")
    for plural in ("drtppublications", "drtpsubscriptions", "drtpapprovals"):
        assert (await people.call("GET", DATUM.format("joe", plural), token="eve-token"))[0] == 403


async def test_an_entry_says_what_it_is_and_nothing_of_where_it_runs(people: Served) -> None:
    await post(people, publication(summary="All orders", tags=["sql"], access=MODES["listed"]))
    _, entry = await got(people, "quay", "joe.pg")
    assert entry["spec"] == {
        "publicationRef": {"namespace": "joe", "name": "pg"},
        "title": "Orders",
        "summary": "All orders",
        "tags": ["sql"],
        "organization": "harbour",
        "protocol": "TCP",
        "applicationType": "postgresql",
        "scope": "Private",
        "access": "AllowList",
    }
    assert entry["status"] == {"state": "Available"}
    assert "corp" not in str(entry)
    assert "lantern" not in str(entry)


async def test_on_the_list_it_appears_with_its_address_without_a_request(people: Served) -> None:
    await post(people, publication(visibility="Subscribers", access=MODES["listed"]))
    _, entry = await got(people, "eve", "joe.pg")
    assert entry["status"] == {"state": "Approved", "ready": False, "connect": "joe/pg"}
    assert await listed(people, "lamp") == []


async def test_only_what_is_approved_tells_its_addresses(people: Served) -> None:
    await post(people, publication(scope="Public"))
    stored = (await people.call("GET", DATUM.format("joe", "drtpservices") + "/pg", token=JOE))[1]
    address = {"hostname": "pg.example", "port": 5432}
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "observedGeneration": 1}
    ready["lastTransitionTime"] = "2030-01-01T00:00:00Z"
    await people.store.update_status(stored | {"status": {"addresses": [address], "conditions": [ready]}})
    await approval(people, await post(people, subscription("eve"), "eve-token"))
    _, entry = await got(people, "eve", "joe.pg")
    assert entry["status"] == {"state": "Pending", "subscription": "pg"}
    await post(people, publication("open", scope="Public", access=MODES["open"]))
    await approval(people, await post(people, subscription("eve", "open", "open"), "eve-token"))
    _, entry = await got(people, "eve", "joe.open")
    assert entry["status"]["addresses"] == [address]
    told = (entry["status"]["address"], entry["status"]["subscription"], entry["status"]["ready"])
    assert told == ("pg.example:5432", "open", True)


async def test_a_publication_without_its_service_is_for_its_owner_alone(people: Served) -> None:
    await post(people, publication(serviceRef={"name": "later"}))
    assert [await listed(people, project) for project in ("joe", "quay", "eve")] == [["joe.pg"], [], []]


async def test_kubectl_gets_a_table_selects_and_cannot_write_or_watch(people: Served) -> None:
    await post(people, publication())
    await post(people, publication("other"))
    path = ENTRIES.format("eve")
    table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    _, said = await people.call("GET", path, token="eve-token", Accept=table)
    titles = [column["name"] for column in said["columnDefinitions"]]
    assert dict(zip(titles, said["rows"][1]["cells"], strict=True)) | {"Age": ""} == {
        "Name": "joe.pg",
        "Title": "Orders",
        "Organization": "harbour",
        "Protocol": "TCP",
        "Access": "Approval",
        "State": "Available",
        "Ready": None,
        "Connect": None,
        "Age": "",
        "Address": None,
        "Scope": "Private",
    }
    _, said = await people.call("GET", f"{path}?fieldSelector=metadata.name%3Djoe.other", token="eve-token")
    assert [one["metadata"]["name"] for one in said["items"]] == ["joe.other"]
    assert (await people.call("GET", f"{path}?watch=1", token="eve-token"))[0] == 405
    assert (await people.call("POST", path, {}, token="eve-token"))[0] == 403
    assert (await people.call("POST", path, {}))[0] == 405
    assert (await people.call("GET", path.replace("/namespaces/eve", "")))[0] == 405


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (publication(title=""), "spec.title"),
        (publication(title="a\x1b[2Jb"), "spec.title"),
        (publication(title="two\nlines"), "spec.title"),
        (publication(summary="\x9b"), "spec.summary"),
        (publication(visibility="Nobody"), "spec.visibility"),
        (publication(scope="Secret"), "spec.scope"),
        (publication(tags=["One"]), "spec.tags"),
        (publication(tags=["a", "a"]), "spec.tags"),
        (publication(tags=[f"t{n}" for n in range(17)]), "spec.tags"),
        (publication(access={"mode": "AllowList"}), "AllowList needs the list"),
        (publication(access={"mode": "Open", "allowed": [{"organization": "x"}]}), "a list means nothing"),
        (publication(access={"allowed": [{"project": "eve"}]}), "organization"),
        (publication(access={"allowed": [{"organization": "-"}]}), "organization"),
        (subscription("joe", purpose="a\rb"), "spec.purpose"),
        (subscription("joe", expires="tomorrow"), "spec.expires"),
        (subscription("joe", local={"port": 0}), "spec.local.port"),
        (_object("DRTPSubscription", "joe", "x", {"publicationRef": {"name": "pg"}}), "namespace"),
        (_object("DRTPApproval", "joe", "x", {"publicationRef": {"name": "pg"}}), "spec.subscriber"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_field(people: Served, body: dict[str, Any], told: str) -> None:
    status, said = await post(people, body)
    assert (status, told in said["message"]) == (422, True), said["message"]


async def test_defaults_are_private_and_by_approval(people: Served) -> None:
    said = {"serviceRef": {"name": "pg"}, "title": "Orders"}
    _, made = await post(people, _object("DRTPPublication", "joe", "plain", said))
    told = (made["spec"]["visibility"], made["spec"]["scope"], made["spec"]["access"])
    assert told == ("Subscribers", "Private", {"mode": "Approval"})


@pytest.mark.parametrize(
    ("body", "change", "told"),
    [
        (publication(), {"serviceRef": {"name": "other"}}, "serviceRef is immutable"),
        (subscription("joe"), {"publicationRef": {"name": "other"}}, "publicationRef is immutable"),
        (subscription("joe", purpose="a"), {"purpose": "b"}, "purpose is immutable"),
        (subscription("joe"), {"purpose": "b"}, "purpose is immutable"),
        (subscription("joe", expires="2030-01-01T00:00:00Z"), {"expires": None}, "expires is immutable"),
        (subscription("joe", expires="2030-01-01T00:00:00Z"), {"expires": "2031-01-01T00:00:00Z"}, "expires is"),
        (subscription("joe"), {"local": {"port": 5432}}, ""),
        (publication(), {"title": "Another"}, ""),
    ],
)
async def test_what_was_agreed_on_does_not_change_afterwards(
    people: Served, body: dict[str, Any], change: dict[str, Any], told: str
) -> None:
    assert (await post(people, body))[0] == 201
    path = f"{DATUM.format('joe', body['kind'].lower() + 's')}/{body['metadata']['name']}"
    status, said = await people.call(
        "PATCH", path, {"spec": change}, token=JOE, Content_Type="application/merge-patch+json"
    )
    assert (status == 200) is (not told), said
    assert told in str(said.get("message", ""))


async def test_nobody_writes_the_status_of_their_own_subscription(people: Served) -> None:
    await post(people, publication())
    _, made = await post(people, subscription("eve") | {"status": {"state": "Approved"}}, "eve-token")
    assert "status" not in made
    path = f"{DATUM.format('eve', 'drtpsubscriptions')}/pg/status"
    said = await people.call("PUT", path, made | {"status": {"state": "Approved"}}, token="eve-token")
    assert said[0] == 403


async def test_who_was_approved_goes_on_seeing_what_is_hidden_until_it_is_taken_back(people: Served) -> None:
    await post(people, publication(visibility="Subscribers"))
    assert await listed(people, "eve") == []
    name = await approval(people, await post(people, subscription("eve"), "eve-token"), decision="Approved")
    assert [await listed(people, project) for project in ("eve", "lamp")] == [["joe.pg"], []]
    path = f"{DATUM.format('joe', 'drtpapprovals')}/{name}"
    change = {"spec": {"decision": "Revoked"}}
    await people.call("PATCH", path, change, token=JOE, Content_Type="application/merge-patch+json")
    await people.rbac.reached(people.store.revision)
    assert await listed(people, "eve") == []


async def test_nobody_approves_for_another_publisher(people: Served) -> None:
    await post(people, publication())
    made = await post(people, subscription("eve"), "eve-token")
    subscriber = {name: made[1]["metadata"][name] for name in ("namespace", "name", "uid")}
    spec = {"publicationRef": {"name": "pg"}, "subscriber": subscriber, "decision": "Approved"}
    assert (await post(people, _object("DRTPApproval", "joe", "forged", spec), "eve-token"))[0] == 403
    # In one's own project it is of a publication of one's own, which is not the one subscribed to.
    assert (await post(people, _object("DRTPApproval", "eve", "forged", spec), "eve-token"))[0] == 201
    _, entry = await got(people, "eve", "joe.pg")
    assert entry["status"] == {"state": "Available"}


async def test_who_may_use_subscriptions_of_a_project_may_connect_by_what_it_was_given(people: Served) -> None:
    """The seam: what `connect` asks for one user, with the roles as they are."""
    for role in ("view", "admin"):
        await set_projects(people.store, f"u-{role}", f"the-{role}", ["eve"], role)
    await post(people, publication(visibility="Subscribers", access=MODES["listed"]))
    view = people.rbac._view

    def through(user: str, *within: str) -> str:
        return of(User(user, groups=(AUTHENTICATED,), within=frozenset(within)))

    def of(caller: User) -> str:
        let_in = catalogue_grants.projects(view, "joe", "pg")
        return next(catalogue_grants.projects_of(let_in, people.rbac, caller), "")

    await people.rbac.reached(people.store.revision)
    users = ("eve", "the-admin", "the-view", "lamp", "quay", "nobody")
    assert [through(user) for user in users] == ["eve", "eve", "", "", "", ""]
    assert [through("eve", "eve"), through("eve", "lamp")] == ["eve", ""]
    assert of(USERS[ADMIN]) == ""
    name = await approval(people, await post(people, subscription("lamp"), "lamp-token"), decision="Approved")
    assert through("lamp") == "lamp"
    change = {"spec": {"decision": "Revoked"}}
    path = f"{DATUM.format('joe', 'drtpapprovals')}/{name}"
    await people.call("PATCH", path, change, token=JOE, Content_Type="application/merge-patch+json")
    await people.rbac.reached(people.store.revision)
    assert [through("lamp"), through("eve")] == ["", "eve"]


async def test_who_asked_and_who_decided_is_in_the_log_of_their_own_side(people: Served) -> None:
    await post(people, publication())
    name = await approval(people, await post(people, subscription("eve"), "eve-token"))
    change = {"spec": {"decision": "Rejected", "reason": "not now"}}
    path = f"{DATUM.format('joe', 'drtpapprovals')}/{name}"
    await people.call("PATCH", path, change, token=JOE, Content_Type="application/merge-patch+json")
    lines = [json.loads(line) for line in people.audit_path.read_text().splitlines()]
    told = [(one["event"], one["fields"]["project"], one["fields"]["by"]) for one in lines if "by" in one["fields"]]
    assert told[-4:] == [
        ("publication created", "joe", "joe"),
        ("subscription created", "eve", "eve"),
        ("approval created", "joe", "joe"),
        ("subscription decided on", "joe", "joe"),
    ]
    last = lines[-1]["fields"]
    assert (last["said"], last["reason"], last["subscription"]) == ("Rejected", "not now", "eve/pg")
