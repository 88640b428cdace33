"""A policy edit among 100 policies and 1,000 subscriptions: from the request to every enforcement point.

100 services of one agent, each on the gateway and both POPs, each with a policy and a publication; 20 projects of other
organisations subscribe to 50 of them each. A connector has some of them open. One policy after the other is edited, and
counts as arrived when its condition `Enforced` says so of the new generation: then the gateway, both POPs and the agent
have reported it as in force. So the way back is in the figure too. As soon as it is said, a visitor meets the new rule.

The decision itself is the native core's, at 1,000 rules.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import yaml

from bench.figures import Missed, percentile, table
from bench.tunnel.load import NATIVE
from scenario.bed import Bed, eventually
from scenario.fleet import Api
from scenario.load import local_service

SERVICES, PROJECTS, SUBSCRIPTIONS = 100, 20, 1_000
EDITS_MIN = 50
CONNECTED = 10
"""Services that a connector has open."""
REACHED_MAX_S, DECISION_MAX_US = 0.5, 2.0
OURS = "/apis/datumapis.com/v1alpha/namespaces/{}/{}"
LABEL = "datumapis.com/organization"


def run(bed: Bed, count: int) -> str:
    """`count` edits, at least 50. Raises: Missed where p95 or the decision is over its limit."""
    return measured(bed, max(EDITS_MIN, count), services=SERVICES, subscriptions=SUBSCRIPTIONS)


def measured(bed: Bed, edits: int, *, services: int, subscriptions: int) -> str:
    """The same at another size. Raises: Missed."""
    api = Api(bed)
    names = [f"ruled-{number:03}" for number in range(services)]
    caller = f"user:{json.loads(bed.datumctl('whoami', '--output', 'json').stdout)['username']}"
    began = time.monotonic()
    with _served(bed, names) as places:
        for name in names:
            api.call("POST", OURS.format("default", "drtpaccesspolicies"), _policy(name, caller))
            api.call("POST", OURS.format("default", "drtppublications"), _publication(name))
        _subscribed(api, names, subscriptions)
        told = Enforcement(bed)
        eventually(lambda: told.all_of(names), 120, 0.2)
        connector = bed.run("connect", *(f"default/{name}" for name in names[:CONNECTED]), "--output", "json")
        connector.event("ready", 60)
        ready = time.monotonic() - began
        edit = Edit(api, told, caller, places)
        seconds = [edit.once(names[turn % services], turn) for turn in range(edits)]
        connector.stop()
    decisions = _decisions()
    title = (
        f"a policy edit to every enforcement point: {services} policies, {subscriptions} subscriptions "
        f"({os.cpu_count()} cores; made in {ready:.0f} s)"
    )
    p95, slowest = percentile(seconds, 0.95), max(decisions.values())
    held = {
        f"p95 {p95 * 1e3:.0f} ms; {REACHED_MAX_S * 1e3:.0f} ms": p95 <= REACHED_MAX_S,
        f"a decision at 1,000 rules {slowest:.2f} us; {DECISION_MAX_US:.0f} us": slowest <= DECISION_MAX_US,
    }
    words = [table(title, {"edit to enforced": seconds}, "seconds")]
    words += [f"{name}: {cost:.2f} us a decision" for name, cost in decisions.items()]
    words += [f"{what} is {'held' if good else 'missed'}." for what, good in held.items()]
    if not all(held.values()):
        raise Missed("\n".join(words))
    return "\n".join((*words, ""))


# ---- what is there ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _served(bed: Bed, names: list[str]) -> Generator[dict[str, tuple[str, int]]]:
    """One agent with all services; where visitors reach each."""
    with local_service() as port:
        file = bed.directory / "ruled.yaml"
        file.write_text(yaml.safe_dump([{"target": f"tcp://localhost:{port}", "name": name} for name in names]))
        agent = bed.run("serve", "--file", str(file), "--no-inspector", "--output", "json")
        yield eventually(lambda: _places(bed, names), 180, 0.5)
        agent.stop()


def _places(bed: Bed, names: list[str]) -> dict[str, tuple[str, int]]:
    """Of all of them, or nothing yet."""
    found: dict[str, tuple[str, int]] = {}
    for one in bed.objects("drtpservices"):
        status = one.get("status", {})
        ready = any(part["type"] == "Ready" and part["status"] == "True" for part in status.get("conditions", []))
        if one["metadata"]["name"] in names and ready:
            address = status["addresses"][0]
            found[one["metadata"]["name"]] = (address["ip"], address["port"])
    return found if len(found) == len(names) else {}


def _policy(name: str, caller: str) -> dict[str, Any]:
    target = {"group": "datumapis.com", "kind": "DRTPService", "name": name}
    return _object("DRTPAccessPolicy", name) | {
        "spec": {"targetRefs": [target], "rules": _rules(caller, 0, Verdict.ALLOW)}
    }


def _rules(caller: str, turn: int, action: str) -> list[dict[str, Any]]:
    """Ten: the connector's user passes, networks elsewhere do not, and of this machine's visitors `action` says."""
    nets = [f"198.51.{(turn + number) % 256}.0/24" for number in range(8)]
    return [
        {"name": "people", "action": Verdict.ALLOW, "principals": [caller]},
        *({"name": f"far-{number}", "action": Verdict.DENY, "clientCIDRs": [net]} for number, net in enumerate(nets)),
        {"name": "near", "action": action, "clientCIDRs": ["127.0.0.0/8"]},
    ]


class Verdict:
    """What the edited rule says of visitors from this machine."""

    ALLOW, DENY = "Allow", "Deny"


def _object(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "datumapis.com/v1alpha", "kind": kind, "metadata": {"name": name}}


def _publication(name: str) -> dict[str, Any]:
    offer = {"serviceRef": {"name": name}, "title": name, "visibility": "Everyone", "access": {"mode": "Open"}}
    return _object("DRTPPublication", name) | {"spec": offer}


def _subscribed(api: Api, names: list[str], count: int) -> None:
    """Projects of other organisations, and their subscriptions, in turn."""
    projects = [f"reader-{number:02}" for number in range(PROJECTS)]
    for project in projects:
        labels = {LABEL: f"of-{project}"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": project, "labels": labels}}
        api.call("POST", "/api/v1/namespaces", namespace)
    for number in range(count):
        project, name = projects[number % PROJECTS], names[(number // PROJECTS) % len(names)]
        asked = {"publicationRef": {"namespace": "default", "name": name}, "purpose": "to read"}
        body = _object("DRTPSubscription", f"{name}-{number}") | {"spec": asked}
        api.call("POST", OURS.format(project, "drtpsubscriptions"), body)


# ---- an edit ---------------------------------------------------------------------------------------------------------


class Enforcement:
    """What is said of the policies of `default`, as a watch hears it."""

    def __init__(self, bed: Bed) -> None:
        self._news: queue.Queue[tuple[str, int, float]] = queue.Queue()
        self._enforced: dict[str, int] = {}
        answer = Api(bed).lines(f"{OURS.format('default', 'drtpaccesspolicies')}?watch=1")
        threading.Thread(target=self._follow, args=(answer,), daemon=True).start()

    def _follow(self, answer: Any) -> None:
        for line in answer:
            now = time.monotonic()
            told = json.loads(line)["object"]
            for ancestor in told.get("status", {}).get("ancestors", []):
                for one in ancestor["conditions"]:
                    if one["type"] == "Enforced" and one["status"] == "True":
                        self._enforced[told["metadata"]["name"]] = one["observedGeneration"]
                        self._news.put((told["metadata"]["name"], one["observedGeneration"], now))

    def all_of(self, names: list[str]) -> bool:
        """Whether every one of them is in force."""
        return set(names) <= self._enforced.keys()

    def when(self, name: str, generation: int) -> float:
        """The moment at which a generation is said to be in force. Raises: queue.Empty."""
        while True:
            told, of, at = self._news.get(timeout=30)
            if told == name and of >= generation:
                return at


@dataclass(frozen=True)
class Edit:
    """Whoever edits policies and holds what is said of them against what a visitor finds."""

    api: Api
    told: Enforcement
    caller: str
    places: dict[str, tuple[str, int]]

    def once(self, name: str, turn: int) -> float:
        """Seconds from the request until the new rule holds everywhere. Raises: Missed where a visitor knows better."""
        action = Verdict.DENY if (turn // SERVICES + turn) % 2 == 0 else Verdict.ALLOW
        rules = _rules(self.caller, turn, action)
        path = f"{OURS.format('default', 'drtpaccesspolicies')}/{name}"
        began = time.monotonic()
        edited = self.api.call("PATCH", path, {"spec": {"rules": rules}}, "merge-patch+json")
        at = self.told.when(name, edited["metadata"]["generation"])
        if _lets_in(self.places[name]) != (action == Verdict.ALLOW):
            raise Missed(f"{name} is said to be enforced, and a visitor finds otherwise")
        return at - began


def _lets_in(place: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(place, timeout=5) as visitor:
            visitor.sendall(b"are you there")
            return visitor.recv(13) == b"are you there"
    except OSError:
        return False


# ---- a decision ------------------------------------------------------------------------------------------------------


def _decisions() -> dict[str, float]:
    """Shape of the lists -> microseconds, by the native core's own example."""
    argv = ["cargo", "run", "--profile", "measure", "--quiet", "--locked", "-p", "drtp-core", "--example", "access"]
    target = os.environ.get("CARGO_TARGET_DIR", str(NATIVE / "target"))
    said = subprocess.run(
        argv, cwd=NATIVE, env=os.environ | {"CARGO_TARGET_DIR": target}, capture_output=True, text=True, check=True
    )
    lines = (line.partition(": ") for line in said.stdout.splitlines())
    return {name: float(cost.split()[0]) for name, _, cost in lines}
