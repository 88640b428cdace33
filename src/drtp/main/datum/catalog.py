"""`datumctl catalog`: services of other organisations, and what becomes of a subscription, on either side."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from drtp.api.catalogue import Decision
from drtp.kit.observe import printable
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum import catalogue_calls as calls
from drtp.main.datum.access import api_of, namespace_option
from drtp.main.datum.catalogue_calls import EntryLine, RequestLine, SubscriptionLine, Which, Word
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.naming import in_project
from drtp.main.datum.tables import table, wrapped
from drtp.main.shell import Exit, Misused, run_async

_reason_option = click.option("--reason", help="Why: the other side reads it.")
_ENTRY_TITLES = ("publication", "title", "organization", "protocol", "access", "state", "ready", "connect")
_REQUEST_TITLES = ("publication", "organization", "project", "subscription", "state", "since", "purpose")


@click.group(short_help="Find and share services across organisations.")
def catalog() -> None:
    """Find services of other organisations, subscribe, and decide who may use yours."""


# ---- both sides ------------------------------------------------------------------------------------------------------


@catalog.command("list")
@context_option
@namespace_option
@output_option
def list_command(namespace: str | None, output: OutputForm) -> int:
    """Show what the project may see, and where it stands with each."""
    return run_async(_list(Invocation.current(), namespace, output))


@catalog.command(short_help="Show a publication, and its subscribers.")
@click.argument("publication")
@context_option
@namespace_option
@output_option
def show(publication: str, namespace: str | None, output: OutputForm) -> int:
    """Show PUBLICATION, as PROJECT/NAME, and of one's own its subscribers."""
    return run_async(_show(Invocation.current(), _named(publication), namespace, output))


# ---- the subscriber's side -------------------------------------------------------------------------------------------


@catalog.command()
@click.argument("publication")
@context_option
@namespace_option
@click.option("--name", help="Of the subscription; else the publication's name.")
@click.option("--purpose", help="What for: the publisher reads it, and decides.")
@click.option("--expires", help="When it is needed no more: 12h, 30d, or a date with its zone.")
@click.option("--local-port", type=click.IntRange(1, 65535), help="Where `connect` presents it by default.")
@click.option("--wait", type=click.IntRange(0, 86400), default=0, help="Seconds to wait for a decision.")
@output_option
def subscribe(publication: str, namespace: str | None, output: OutputForm, **options: Any) -> int:
    """Ask for PUBLICATION, as PROJECT/NAME. Exit 77 if it is refused."""
    return run_async(_subscribe(Invocation.current(), _named(publication), namespace, output, options))


@catalog.command()
@click.argument("subscription")
@context_option
@namespace_option
def unsubscribe(subscription: str, namespace: str | None) -> int:
    """End SUBSCRIPTION, one of the project's own."""
    return run_async(_unsubscribe(Invocation.current(), subscription, namespace))


# ---- the publisher's side --------------------------------------------------------------------------------------------


@catalog.command(short_help="Show who has subscribed.")
@click.argument("publication", required=False)
@context_option
@namespace_option
@output_option
def requests(publication: str | None, namespace: str | None, output: OutputForm) -> int:
    """Show who has subscribed to PUBLICATION, or to any of the project's."""
    return run_async(_requests(Invocation.current(), publication, namespace, output))


@catalog.command(short_help="Let a subscriber use a publication.")
@click.argument("publication")
@click.argument("subscriber")
@context_option
@namespace_option
@_reason_option
@click.option("--expires", help="When the approval ends by itself: 12h, 30d, or a date with its zone.")
@output_option
def approve(publication: str, subscriber: str, *, expires: str | None, **options: Any) -> int:
    """Let SUBSCRIBER, a PROJECT or PROJECT/SUBSCRIPTION, use PUBLICATION, of the context's project or PROJECT/NAME."""
    return _decide(Decision.APPROVED, publication, subscriber, expires, options)


@catalog.command(short_help="Refuse a subscriber.")
@click.argument("publication")
@click.argument("subscriber")
@context_option
@namespace_option
@_reason_option
@output_option
def reject(publication: str, subscriber: str, **options: Any) -> int:
    """Refuse SUBSCRIBER, a PROJECT or PROJECT/SUBSCRIPTION."""
    return _decide(Decision.REJECTED, publication, subscriber, None, options)


@catalog.command(short_help="Take back what a subscriber was given.")
@click.argument("publication")
@click.argument("subscriber")
@context_option
@namespace_option
@_reason_option
@output_option
def revoke(publication: str, subscriber: str, **options: Any) -> int:
    """Take back what SUBSCRIBER, a PROJECT or PROJECT/SUBSCRIPTION, was given: live connections are cut."""
    return _decide(Decision.REVOKED, publication, subscriber, None, options)


def _decide(decision: Decision, publication: str, subscriber: str, expires: str | None, options: dict[str, Any]) -> int:
    project, _, name = subscriber.partition("/")
    which = Which(publication, project, name)
    return run_async(_decided(Invocation.current(), which, Word(decision, options["reason"], expires), options))


# ---- work ------------------------------------------------------------------------------------------------------------


def _named(publication: str) -> tuple[str, str]:
    namespace, slash, name = publication.partition("/")
    if not (namespace and slash and name):
        raise Misused("DRTP-7002", f"{publication} names no publication.", "Give PROJECT/NAME, such as joe/postgres.")
    return namespace, name


async def _list(invocation: Invocation, namespace: str | None, output: OutputForm) -> int:
    async with api_of(invocation) as api:
        lines = await calls.entries(api, namespace or api.namespace)
    if output is OutputForm.JSON:
        _json(lines)
    elif not lines:
        click.echo("The catalogue has nothing for this project.", err=True)
    else:
        click.echo(table(_ENTRY_TITLES, [_entry_row(one) for one in lines]))
    return Exit.CLEAN


def _entry_row(one: EntryLine) -> tuple[str, ...]:
    ready = "-" if one.ready is None else "yes" if one.ready else "no"
    told = (one.publication, one.title, one.organization, one.protocol, one.access, one.state, ready, one.connect)
    return tuple(word or "-" for word in told)


async def _show(invocation: Invocation, which: tuple[str, str], namespace: str | None, output: OutputForm) -> int:
    async with api_of(invocation) as api:
        project = namespace or api.namespace
        line = await calls.entry(api, project, *which)
        own = which[0] == project
        subscribers = await calls.requests(api, project, which[1]) if own else []
    if output is OutputForm.JSON:
        _json(msgspec.to_builtins(line) | ({"subscribers": msgspec.to_builtins(subscribers)} if own else {}))
    else:
        _print_entry(line)
        if subscribers:
            click.echo("\n" + table(_REQUEST_TITLES, [_request_row(one) for one in subscribers]))
    return Exit.CLEAN


def _print_entry(line: EntryLine) -> None:
    told = (
        ("publication", line.publication),
        ("title", line.title),
        ("summary", line.summary),
        ("tags", ", ".join(line.tags)),
        ("organization", line.organization),
        ("protocol", line.protocol),
        ("scope", line.scope),
        ("access", line.access),
        ("state", line.state),
        ("since", line.since),
        ("expires", line.expires),
        ("why", line.why),
        ("subscription", line.subscription),
        ("connect", f"datumctl connect {line.connect}" if line.connect else ""),
        ("addresses", ", ".join(line.addresses)),
        ("ready", "" if line.ready is None else "yes" if line.ready else "no"),
    )
    for name, value in told:
        if value:
            click.echo(wrapped(f"{name + ':':<14}{printable(value)}"))


async def _subscribe(
    invocation: Invocation, which: tuple[str, str], namespace: str | None, output: OutputForm, options: dict[str, Any]
) -> int:
    expires = calls.moment(options["expires"]) if options["expires"] else None
    spec: dict[str, Any] = {"publicationRef": {"namespace": which[0], "name": which[1]}}
    spec |= {"purpose": options["purpose"]} if options["purpose"] else {}
    spec |= {"expires": expires} if expires else {}
    spec |= {"local": {"port": options["local_port"]}} if options["local_port"] else {}
    async with api_of(invocation) as api:
        project = namespace or api.namespace
        await calls.entry(api, project, *which)
        made = await calls.subscribe(api, project, options["name"] or "", spec)
        line = await calls.concluded(api, project, made, options["wait"])
    if output is OutputForm.JSON:
        _json(line)
    else:
        _print_subscription(line)
    calls.check(line)
    return Exit.CLEAN


def _print_subscription(line: SubscriptionLine) -> None:
    click.echo(wrapped(f"{line.subscription}: {line.state}. {line.why}"), err=True)
    if line.connect:
        click.echo(f"datumctl connect {line.connect}")
    for address in line.addresses:
        click.echo(address)


async def _unsubscribe(invocation: Invocation, subscription: str, namespace: str | None) -> int:
    async with api_of(invocation) as api:
        await calls.unsubscribe(api, namespace or api.namespace, subscription)
    click.echo(f"{printable(subscription)} ended", err=True)
    return Exit.CLEAN


async def _requests(invocation: Invocation, publication: str | None, namespace: str | None, output: OutputForm) -> int:
    async with api_of(invocation) as api:
        lines = await calls.requests(api, namespace or api.namespace, publication)
    if output is OutputForm.JSON:
        _json(lines)
    elif not lines:
        click.echo("Nobody has subscribed.", err=True)
    else:
        click.echo(table(_REQUEST_TITLES, [_request_row(one) for one in lines]))
    return Exit.CLEAN


def _request_row(one: RequestLine) -> tuple[str, ...]:
    told = (one.publication, one.organization, one.project, one.subscription, one.state, one.since, one.purpose)
    return tuple(word or "-" for word in told)


async def _decided(invocation: Invocation, which: Which, word: Word, options: dict[str, Any]) -> int:
    if word.expires is not None:
        word = word._replace(expires=calls.moment(word.expires))
    async with api_of(invocation) as api:
        own, publication = in_project(which.publication, options["namespace"], api.namespace)
        found = await calls.find(api, own, which._replace(publication=publication), word.decision)
        line = await calls.decide(api, found, word)
    if options["output"] is OutputForm.JSON:
        _json(line)
    else:
        told = f"{line.publication} for {line.project}/{line.subscription}: {line.state}. {line.why}"
        click.echo(wrapped(told), err=True)
    return Exit.CLEAN


def _json(value: object) -> None:
    click.echo(msgspec.json.encode(value).decode())
