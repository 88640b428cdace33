"""Two organisations and one service: asked for, approved, used, revoked and expired, the same on both sides."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scenario.bed import BIN, Bed, Program, echo, eventually, tcp_service

PUBLISHER, SUBSCRIBER, STRANGER = "quarry", "mill", "ferry"
ORGANIZATIONS = {PUBLISHER: "basalt", SUBSCRIBER: "grain", STRANGER: "river"}
PUBLICATION: dict[str, Any] = {
    "apiVersion": "datumapis.com/v1alpha",
    "kind": "DRTPPublication",
    "metadata": {"name": "ledger"},
    "spec": {"serviceRef": {"name": "ledger"}, "title": "The ledger", "visibility": "Everyone"},
}


@dataclass
class Side:
    """One project's editor."""

    bed: Bed
    project: str
    context: Path

    def datumctl(self, *argv: str, exit_status: int = 0, stdin: str | None = None) -> str:
        """Standard output; of a failure, standard error."""
        argv = (str(BIN / "datumctl"), "--context", str(self.context), *argv)
        done = subprocess.run(
            argv, capture_output=True, text=True, env=self.bed.env, input=stdin or "", timeout=60, check=False
        )
        assert done.returncode == exit_status, f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}"
        return done.stderr if exit_status else done.stdout

    def catalog(self, *argv: str) -> Any:
        return json.loads(self.datumctl("catalog", *argv, "--output", "json"))

    def apply(self, document: dict[str, Any]) -> None:
        self.datumctl("apply", "-f", "-", stdin=json.dumps(document))

    def events(self) -> list[str]:
        listed = json.loads(self.datumctl("get", "events", "-o", "json"))["items"]
        return [one["reason"] for one in listed]


@pytest.fixture(scope="module")
def sides(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Side]]:
    """Three projects of three organisations; the first serves and offers `ledger`."""
    folder = tmp_path_factory.mktemp("catalogue")
    operator = ("--context", bed.ready["kubeconfig"], "create")
    made: dict[str, Side] = {}
    for project, organization in ORGANIZATIONS.items():
        context = folder / f"{project}.json"
        bed.datumctl(*operator, "project", project, "--organization", organization)
        bed.datumctl(*operator, "user", f"{project}-user", "--project", project, "--context-file", str(context))
        made[project] = Side(bed, project, context)
    with tcp_service(echo) as port:
        context = ("--context", str(made[PUBLISHER].context))
        served = ("serve", f"tcp://localhost:{port}", "--name", "ledger", "--output", "json")
        program = Program([BIN / "datumctl", *context, *served], bed.env)
        program.event("ready", 30)
        made[PUBLISHER].apply(PUBLICATION)
        yield made
        program.stop()
    bed.kubectl("delete", "namespace", *ORGANIZATIONS)


def test_from_request_to_revocation_both_sides_see_the_same(bed: Bed, sides: dict[str, Side]) -> None:
    publisher, subscriber = sides[PUBLISHER], sides[SUBSCRIBER]
    (found,) = eventually(lambda: subscriber.catalog("list"), 10)
    assert (found["publication"], found["organization"], found["state"]) == ("quarry/ledger", "basalt", "Available")
    asked = subscriber.catalog("subscribe", "quarry/ledger", "--purpose", "monthly reports")
    assert (asked["subscription"], asked["state"], asked["connect"]) == ("ledger", "Pending", "")
    (request,) = publisher.catalog("requests")
    assert (request["project"], request["organization"], request["purpose"], request["state"]) == (
        SUBSCRIBER,
        "grain",
        "monthly reports",
        "Pending",
    )
    approved = publisher.catalog("approve", f"{PUBLISHER}/ledger", SUBSCRIBER, "--reason", "as agreed")
    assert approved["state"] == "Approved"
    mine = subscriber.catalog("show", "quarry/ledger")
    assert (mine["state"], mine["ready"], mine["connect"]) == ("Approved", True, "quarry/ledger")
    (theirs,) = publisher.catalog("show", "quarry/ledger")["subscribers"]
    assert (theirs["state"], theirs["since"], theirs["why"]) == (mine["state"], mine["since"], mine["why"])
    assert "as agreed" in mine["why"]
    revoked = publisher.catalog("revoke", "ledger", SUBSCRIBER, "--reason", "contract ended")
    (mine,) = subscriber.catalog("list")
    assert (mine["state"], mine["since"], mine["why"], mine["connect"]) == (
        "Revoked",
        revoked["since"],
        revoked["why"],
        "",
    )
    assert {"Approved", "ApprovedRevoked"} <= set(subscriber.events())
    assert {"Subscribed", "Approved", "ApprovedRevoked"} <= set(publisher.events())
    said = subscriber.datumctl("catalog", "subscribe", "quarry/ledger", exit_status=77)
    assert "DRTP-7103" in said
    assert "contract ended" in said
    _check_audit(bed)
    subscriber.datumctl("catalog", "unsubscribe", "ledger")


def _check_audit(bed: Bed) -> None:
    """Each step is there for both organisations, and who did it for their own."""
    (log,) = bed.data.glob("**/audit.log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for organization in (ORGANIZATIONS[PUBLISHER], ORGANIZATIONS[SUBSCRIBER]):
        steps = [one["event"] for one in lines if one["fields"].get("organization") == organization]
        wanted = iter(("subscription requested", "subscription approved", "subscription revoked"))
        step = next(wanted)
        for event in steps:
            step = next(wanted, "") if event == step else step
        assert step == "", steps
    acts = {
        (one["event"], one["fields"]["by"], one["fields"].get("said", ""))
        for one in lines
        if one["event"] in {"subscription created", "subscription decided on"}
    }
    assert acts >= {
        ("subscription created", f"{SUBSCRIBER}-user", ""),
        ("subscription decided on", f"{PUBLISHER}-user", "Approved"),
        ("subscription decided on", f"{PUBLISHER}-user", "Revoked"),
    }


def test_what_cannot_be_done_is_said_with_its_code_and_exit_status(sides: dict[str, Side]) -> None:
    publisher, subscriber = sides[PUBLISHER], sides[SUBSCRIBER]
    for side, words, exit_status, code in (
        (subscriber, ("show", "ledger"), 64, "DRTP-7002"),
        (subscriber, ("show", "nowhere/ledger"), 1, "DRTP-7100"),
        (subscriber, ("subscribe", "quarry/ledger", "--expires", "soon"), 64, "DRTP-7105"),
        (subscriber, ("subscribe", "quarry/ledger", "--expires", "2030-01-01"), 64, "DRTP-7105"),
        (subscriber, ("unsubscribe", "nothing"), 1, "DRTP-1001"),
        (subscriber, ("requests", "-n", PUBLISHER), 77, "DRTP-1012"),
        (publisher, ("approve", "ledger", "nobody"), 1, "DRTP-7101"),
        (publisher, ("reject", "nothing", SUBSCRIBER), 1, "DRTP-7101"),
    ):
        said = side.datumctl("catalog", *words, exit_status=exit_status)
        assert f"see: {code}," in said, said
    for name in ("one", "two"):
        subscriber.catalog("subscribe", "quarry/ledger", "--name", name)
    said = publisher.datumctl("catalog", "approve", "ledger", SUBSCRIBER, exit_status=64)
    assert "DRTP-7102" in said
    assert f"{SUBSCRIBER}/one, {SUBSCRIBER}/two" in said
    publisher.catalog("reject", "ledger", f"{SUBSCRIBER}/one", "--reason", "one is enough")
    assert publisher.catalog("approve", "ledger", SUBSCRIBER)["subscription"] == "two"
    waited = subscriber.datumctl("catalog", "subscribe", "quarry/ledger", "--name", "one", exit_status=77)
    assert "one is enough" in waited
    for name in ("one", "two"):
        subscriber.datumctl("catalog", "unsubscribe", name)
    publisher.datumctl("delete", "drtpapprovals", *(one["approval"] for one in publisher.catalog("requests")))


def test_a_date_ends_an_approval_by_itself(sides: dict[str, Side]) -> None:
    publisher, subscriber = sides[PUBLISHER], sides[SUBSCRIBER]
    subscriber.catalog("subscribe", "quarry/ledger", "--name", "short", "--expires", "5s")
    publisher.catalog("approve", "ledger", f"{SUBSCRIBER}/short")

    def state() -> str:
        return next(one["state"] for one in publisher.catalog("requests", "ledger") if one["subscription"] == "short")

    assert state() in {"Approved", "Expired"}
    assert eventually(lambda: state() == "Expired", 10)
    told = subscriber.datumctl("get", "drtpsubscription", "short", "-o", "json")
    assert json.loads(told)["status"]["state"] == "Expired"


def test_a_hidden_publication_is_an_unknown_one_to_who_may_not_see_it(sides: dict[str, Side]) -> None:
    publisher, stranger = sides[PUBLISHER], sides[STRANGER]
    hidden = {**PUBLICATION, "metadata": {"name": "vault"}}
    hidden["spec"] = {**hidden["spec"], "visibility": "Subscribers"}
    publisher.apply(hidden)
    for words in (("show",), ("subscribe",)):
        there = stranger.datumctl("catalog", *words, "quarry/vault", exit_status=1)
        absent = stranger.datumctl("catalog", *words, "quarry/absent", exit_status=1)
        assert "DRTP-7100" in there
        assert there.replace("vault", "absent") == absent
    for name in ("vault", "absent"):
        body = {"apiVersion": PUBLICATION["apiVersion"], "kind": "DRTPSubscription", "metadata": {"name": name}}
        stranger.apply({**body, "spec": {"publicationRef": {"namespace": PUBLISHER, "name": name}}})

    def told(name: str) -> dict[str, Any]:
        status = json.loads(stranger.datumctl("get", "drtpsubscription", name, "-o", "json")).get("status", {})
        return {"state": status.get("state"), "conditions": [one["message"] for one in status.get("conditions", ())]}

    assert eventually(lambda: told("vault")["state"] == "NotFound", 10)
    assert eventually(lambda: told("vault") == told("absent"), 10)
    for kind in ("drtpapprovals", "events"):
        assert STRANGER not in publisher.datumctl("get", kind, "-o", "yaml")
    assert [one["publication"] for one in stranger.catalog("list")] == [
        "quarry/ledger",
        "quarry/absent",
        "quarry/vault",
    ]
    # Once listed, it is there, with its address and without a request.
    hidden["spec"] = {**hidden["spec"], "access": {"mode": "AllowList", "allowed": [{"organization": "river"}]}}
    publisher.apply(hidden)
    found = eventually(lambda: (one := stranger.catalog("show", "quarry/vault"))["connect"] and one, 10)
    assert (found["state"], found["connect"]) == ("Approved", "quarry/ledger")


def test_a_subscriber_publishes_under_a_name_of_its_own_what_is_offered_for_that(
    bed: Bed, sides: dict[str, Side]
) -> None:
    publisher, subscriber = sides[PUBLISHER], sides[SUBSCRIBER]
    host = "books.prism.localhost"
    backend = {"group": "datumapis.com", "kind": "DRTPService", "namespace": PUBLISHER, "name": "books"}
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "books"},
        "spec": {
            "parentRefs": [{"name": "global", "namespace": "datum-system"}],
            "hostnames": [host],
            "rules": [{"backendRefs": [backend]}],
        },
    }

    def page(visitor: socket.socket, _peer: object) -> None:
        visitor.recv(65536)
        visitor.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nledger")

    def seen() -> str:
        return bed.curl(f"http://{host}:{bed.http[1]}/", "--write-out", " %{http_code}").stdout.decode()

    with tcp_service(page) as port:
        served = ("serve", f"localhost:{port}", "--name", "books", "--output", "json", "--no-inspector")
        program = Program([BIN / "datumctl", "--context", str(publisher.context), *served], bed.env)
        program.event("ready", 30)
        offer = PUBLICATION["spec"] | {"serviceRef": {"name": "books"}}
        publisher.apply(PUBLICATION | {"metadata": {"name": "books"}, "spec": offer})
        subscriber.apply(route)
        subscriber.catalog("subscribe", "quarry/books")
        publisher.catalog("approve", "books", SUBSCRIBER)
        assert eventually(lambda: seen().endswith(" 500"), 10), "what is offered for connect alone is not published"
        publisher.apply(PUBLICATION | {"metadata": {"name": "books"}, "spec": offer | {"scope": "Public"}})
        assert eventually(lambda: seen() == "ledger 200", 10)
        publisher.catalog("revoke", "books", SUBSCRIBER)
        assert eventually(lambda: seen().endswith(" 500"), 10)
        program.stop()
    subscriber.datumctl("catalog", "unsubscribe", "books")
