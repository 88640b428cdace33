"""What `datumctl catalog` asks the API, and the lines that it says: entries, subscriptions, requests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from drtp.api.catalogue import CATALOG_GROUP, Decision, SubscriptionState
from drtp.api.drtp import API_VERSION
from drtp.api.meta import Model
from drtp.client.api import ApiClient
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Conflict, NotFound, Refused, Retryable
from drtp.main.datum.target import host_port
from drtp.main.shell import Misused

CATALOG_VERSION = f"{CATALOG_GROUP}/v1alpha"
APPROVED, PENDING = SubscriptionState.APPROVED.value, SubscriptionState.PENDING.value
CONCLUDED_WITHIN_S = 10.0
"""Controllers conclude within milliseconds; a control plane that is busy may take a moment."""

_DURATION = re.compile(r"(\d{1,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
Object = Mapping[str, Any]


class EntryLine(Model, frozen=True, omit_defaults=False):
    """One publication as the project sees it. What is not known, or not for it to know, is empty."""

    publication: str
    state: str
    title: str = ""
    summary: str = ""
    tags: tuple[str, ...] = ()
    organization: str = ""
    protocol: str = ""
    scope: str = ""
    access: str = ""
    ready: bool | None = None
    since: str = ""
    expires: str = ""
    why: str = ""
    subscription: str = ""
    connect: str = ""
    addresses: tuple[str, ...] = ()


class SubscriptionLine(Model, frozen=True, omit_defaults=False):
    """One subscription of the project's own."""

    subscription: str
    publication: str
    state: str
    since: str = ""
    expires: str = ""
    why: str = ""
    ready: bool = False
    connect: str = ""
    addresses: tuple[str, ...] = ()


class RequestLine(Model, frozen=True, omit_defaults=False):
    """One subscription of somebody to a publication of the project's own."""

    publication: str
    project: str
    subscription: str
    decision: str
    state: str
    organization: str = ""
    purpose: str = ""
    requested: str = ""
    since: str = ""
    expires: str = ""
    why: str = ""
    ready: bool = False
    approval: str = ""


class Which(NamedTuple):
    """Whose subscription to which publication; `name` "" where the project has but one that can be meant."""

    publication: str
    project: str
    name: str


def moment(said: str) -> str:
    """A duration from now, or a date with its zone, as RFC 3339. Raises: Misused DRTP-7105."""
    if found := _DURATION.fullmatch(said):
        then = SystemClock().now() + timedelta(**{_UNITS[found[2]]: int(found[1])})
    else:
        try:
            then = datetime.fromisoformat(said)
        except ValueError:
            raise Misused("DRTP-7105", f"{said!r} is neither a duration nor a date.") from None
    if then.tzinfo is None:
        raise Misused("DRTP-7105", f"{said!r} has no time zone.")
    return then.replace(microsecond=0).isoformat()


# ---- the subscriber's side -------------------------------------------------------------------------------------------


async def entries(api: ApiClient, project: str) -> list[EntryLine]:
    """All that the project sees, then subscriptions to what it sees no more."""
    listed = (await api.list(CATALOG_VERSION, "catalogentries", namespace=project))["items"]
    mine = (await api.list(API_VERSION, "drtpsubscriptions", namespace=project))["items"]
    named = {one["metadata"]["name"]: one for one in mine}
    lines = [_entry_line(one, named.get(_status(one).get("subscription", ""))) for one in listed]
    seen = {line.publication for line in lines}
    return lines + [_lost_line(one) for one in mine if _publication(one) not in seen]


async def entry(api: ApiClient, project: str, namespace: str, name: str) -> EntryLine:
    """One publication. Raises: NotFound DRTP-7100, the same for one that is not there and one that is not shown."""
    wanted = f"{namespace}/{name}"
    try:
        found = await api.get(CATALOG_VERSION, "catalogentries", f"{namespace}.{name}", namespace=project)
    except NotFound:
        found = None
    mine = (await api.list(API_VERSION, "drtpsubscriptions", namespace=project))["items"]
    if found is not None:
        subscription = _status(found).get("subscription", "")
        return _entry_line(found, next((one for one in mine if one["metadata"]["name"] == subscription), None))
    lost = next((one for one in mine if _publication(one) == wanted), None)
    if lost is None or _status(lost).get("state") in {None, SubscriptionState.NOT_FOUND.value}:
        raise NotFound("DRTP-7100", f"The catalogue has no {wanted} for project {project}.")
    return _lost_line(lost)


async def subscribe(api: ApiClient, project: str, name: str, spec: dict[str, Any]) -> Object:
    """The subscription as it was made, or as it is there already. Raises: Conflict for a name of another."""
    reference = spec["publicationRef"]
    names = [name] if name else [reference["name"], f"{reference['namespace']}-{reference['name']}"]
    for last, one in ((one == names[-1], one) for one in names):
        body = {"apiVersion": API_VERSION, "kind": "DRTPSubscription", "metadata": {"name": one}, "spec": spec}
        try:
            return await api.create(body, "drtpsubscriptions", namespace=project)
        except Conflict as fault:
            if fault.code != "DRTP-1002":
                raise
            held = await api.get(API_VERSION, "drtpsubscriptions", one, namespace=project)
            if held["spec"]["publicationRef"] == reference:
                return held
            if last:
                raise
    raise AssertionError("one name at least is tried")


async def concluded(api: ApiClient, project: str, made: Object, wait_s: int) -> SubscriptionLine:
    """The subscription once something is concluded of it, or decided where `wait_s` is given.

    Raises: Retryable DRTP-7104 where that takes too long.
    """
    name = made["metadata"]["name"]
    too_soon = {None, PENDING} if wait_s else {None}
    held = await api.get(API_VERSION, "drtpsubscriptions", name, namespace=project)
    try:
        async with asyncio.timeout(wait_s or CONCLUDED_WITHIN_S):
            return _subscription_line(
                await _until(api, "drtpsubscriptions", held, lambda one: _status(one).get("state") not in too_soon)
            )
    except TimeoutError:
        raise Retryable("DRTP-7104", f"Nothing is decided yet of subscription {name}; the request stands.") from None


async def _until(api: ApiClient, plural: str, held: Object, enough: Callable[[Object], bool]) -> Object:
    """The object as soon as `enough` is true of it, or as it was when it went."""
    name, project = held["metadata"]["name"], held["metadata"]["namespace"]
    while not enough(held):
        since = held["metadata"]["resourceVersion"]
        async for event in api.watch(API_VERSION, plural, namespace=project, name=name, since=since):
            if event.type != "BOOKMARK":
                held = event.object
            if event.type == "DELETED" or enough(held):
                return held
    return held


def check(line: SubscriptionLine) -> None:
    """Raises: Refused DRTP-7103 where the publisher does not let it in."""
    if line.state not in {APPROVED, PENDING}:
        raise Refused("DRTP-7103", f"Subscription {line.subscription} is {line.state}: {line.why}")


async def unsubscribe(api: ApiClient, project: str, name: str) -> None:
    """End it. Raises: NotFound."""
    await api.delete(API_VERSION, "drtpsubscriptions", name, namespace=project)


# ---- the publisher's side --------------------------------------------------------------------------------------------


async def requests(api: ApiClient, project: str, publication: str | None) -> list[RequestLine]:
    """Who has subscribed, those who wait first."""
    found = [_request_line(one) for one in await _approvals(api, project, publication)]
    return sorted(found, key=lambda one: (one.state != PENDING, one.publication, one.project, one.subscription))


async def find(api: ApiClient, project: str, which: Which, decision: Decision) -> Object:
    """The approval that is meant. Raises: NotFound DRTP-7101, Misused DRTP-7102."""
    found = [
        one
        for one in await _approvals(api, project, which.publication)
        if one["spec"]["subscriber"]["namespace"] == which.project
        and which.name in {"", one["spec"]["subscriber"]["name"]}
    ]
    if len(found) > 1:
        # Of several the ones that the word can change something about.
        fitting = PENDING if decision is not Decision.REVOKED else APPROVED
        found = [one for one in found if _status(one).get("state") == fitting] or found
    if not found:
        whom = f"{which.project}/{which.name}" if which.name else which.project
        raise NotFound("DRTP-7101", f"{whom} has no subscription to {which.publication}.")
    if len(found) > 1:
        names = ", ".join(sorted(f"{which.project}/{one['spec']['subscriber']['name']}" for one in found))
        raise Misused("DRTP-7102", f"{which.project} has several subscriptions to {which.publication}: {names}.")
    return found[0]


class Word(NamedTuple):
    """A decision, why, and until when (RFC 3339)."""

    decision: Decision
    reason: str | None = None
    expires: str | None = None


async def decide(api: ApiClient, approval: Object, word: Word) -> RequestLine:
    """Write the decision, and give what is concluded from it. Raises: Retryable DRTP-7104."""
    name, project = approval["metadata"]["name"], approval["metadata"]["namespace"]
    spec: dict[str, Any] = {"decision": word.decision.value, "reason": word.reason or None}
    if word.decision is Decision.APPROVED:
        spec["expires"] = word.expires
    held = await api.patch(API_VERSION, "drtpapprovals", name, {"spec": spec}, namespace=project)
    written = held["metadata"]["generation"]
    try:
        async with asyncio.timeout(CONCLUDED_WITHIN_S):
            return _request_line(
                await _until(
                    api, "drtpapprovals", held, lambda one: _status(one).get("observedGeneration", 0) >= written
                )
            )
    except TimeoutError:
        raise Retryable("DRTP-7104", f"{word.decision.value} is written, and not in force yet.") from None


async def _approvals(api: ApiClient, project: str, publication: str | None) -> list[dict[str, Any]]:
    params = {"fieldSelector": f"spec.publicationRef.name={publication}"} if publication else None
    return (await api.list(API_VERSION, "drtpapprovals", namespace=project, params=params))["items"]


# ---- lines -----------------------------------------------------------------------------------------------------------


def _status(obj: Object) -> dict[str, Any]:
    return obj.get("status") or {}


def _condition(obj: Object, kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = _status(obj).get("conditions") or []
    return next((one for one in found if one["type"] == kind), dict[str, Any]())


def _publication(subscription: Object) -> str:
    reference = subscription["spec"]["publicationRef"]
    return f"{reference['namespace']}/{reference['name']}"


def _addresses(status: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_written(one) for one in status.get("addresses", ()))


def _written(address: Mapping[str, Any]) -> str:
    host = address.get("hostname") or address.get("ip") or ""
    port = address.get("port")
    return address.get("url") or (host_port(host, port) if port else host)


def _entry_line(found: Object, subscription: Object | None) -> EntryLine:
    spec, status = found["spec"], _status(found)
    reference = spec["publicationRef"]
    return EntryLine(
        publication=f"{reference['namespace']}/{reference['name']}",
        title=spec["title"],
        summary=spec.get("summary", ""),
        tags=tuple(spec.get("tags", ())),
        organization=spec.get("organization", ""),
        protocol=spec.get("protocol", ""),
        scope=spec["scope"],
        access=spec["access"],
        state=status["state"],
        ready=status.get("ready", False) if "connect" in status else None,
        since=status.get("since", ""),
        expires=status.get("expires", ""),
        why=_condition(subscription, "Approved").get("message", "") if subscription is not None else "",
        subscription=status.get("subscription", ""),
        connect=status.get("connect", ""),
        addresses=_addresses(status),
    )


def _lost_line(subscription: Object) -> EntryLine:
    """Of a publication that is not shown, what the subscription itself tells."""
    line = _subscription_line(subscription)
    return EntryLine(
        publication=line.publication,
        state=line.state,
        since=line.since,
        why=line.why,
        subscription=line.subscription,
    )


def _subscription_line(subscription: Object) -> SubscriptionLine:
    status = _status(subscription)
    return SubscriptionLine(
        subscription=subscription["metadata"]["name"],
        publication=_publication(subscription),
        state=status.get("state", ""),
        since=status.get("since", ""),
        expires=status.get("expires", ""),
        why=_condition(subscription, "Approved").get("message", ""),
        ready=_condition(subscription, "Ready").get("status") == "True",
        connect=status.get("connect", ""),
        addresses=_addresses(status),
    )


def _request_line(approval: Object) -> RequestLine:
    spec, status = approval["spec"], _status(approval)
    return RequestLine(
        publication=spec["publicationRef"]["name"],
        project=spec["subscriber"]["namespace"],
        subscription=spec["subscriber"]["name"],
        decision=spec.get("decision", ""),
        state=status.get("state", ""),
        organization=status.get("organization", ""),
        purpose=status.get("purpose", ""),
        requested=status.get("requested", ""),
        since=status.get("since", ""),
        expires=status.get("expires", ""),
        why=_condition(approval, "Approved").get("message", ""),
        ready=_condition(approval, "Ready").get("status") == "True",
        approval=approval["metadata"]["name"],
    )
