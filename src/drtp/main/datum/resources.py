"""`datumctl get, describe, apply, delete`: Kubernetes resources without kubectl."""

from __future__ import annotations

from typing import Any

import click
import msgspec
import yaml

from drtp.client.api import ApiClient, resource_path
from drtp.kit.errors import NotFound
from drtp.kit.observe import printable
from drtp.main.datum.access import api_of, namespace_option
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.kinds import Resource, discover, find_kind
from drtp.main.datum.manifests import apply_patch, read_manifests, with_last_applied
from drtp.main.datum.tables import table
from drtp.main.shell import Misused, run_async

_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

_file_option = click.option("-f", "--filename", required=False, help="Manifest file; - for stdin.")


@click.command()
@click.argument("kind", required=False)
@click.argument("name", required=False)
@context_option
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="Of every project.")
@click.option("-l", "--selector", help="Labels.")
@click.option("-o", "--output", type=click.Choice(["table", "wide", "yaml", "json", "name"]), default="table")
@click.option("--kinds", is_flag=True, help="List what there is.")
def get(kind: str | None, name: str | None, *, kinds: bool, **options: Any) -> int:
    """Show resources: `datumctl get drtpservices`."""
    if kinds:
        return run_async(_list_kinds(Invocation.current()))
    if kind is None:
        raise Misused("DRTP-7002", "Which kind?", "Such as `datumctl get drtpservices`; --kinds lists them.")
    if "/" in kind and name is None:
        kind, _, name = kind.partition("/")
    return run_async(_get(Invocation.current(), kind, name, options))


@click.command()
@click.argument("kind")
@click.argument("name")
@context_option
@namespace_option
def describe(kind: str, name: str, namespace: str | None) -> int:
    """Show one resource with its events."""
    return run_async(_describe(Invocation.current(), kind, name, namespace))


@click.command()
@context_option
@namespace_option
@click.option("-f", "--filename", required=True, help="Manifest file; - for stdin.")
def apply(filename: str, namespace: str | None) -> int:
    """Create or change what a file describes."""
    return run_async(_apply(Invocation.current(), filename, namespace))


@click.command(short_help="Delete resources, and cut their visitors.")
@click.argument("kind", required=False)
@click.argument("names", nargs=-1)
@context_option
@namespace_option
@_file_option
@click.option("--ignore-not-found", is_flag=True, help="Succeed if there is nothing to delete.")
def delete(
    kind: str | None, names: tuple[str, ...], namespace: str | None, filename: str | None, *, ignore_not_found: bool
) -> int:
    """Delete resources: visitors of a deleted service are cut, its name is quarantined."""
    if filename is None and (kind is None or not names):
        raise Misused("DRTP-7002", "What is to be deleted?", "Give a kind and names, or -f FILE.")
    return run_async(
        _delete(
            Invocation.current(),
            kind,
            names,
            namespace=namespace,
            filename=filename,
            ignore_not_found=ignore_not_found,
        )
    )


async def _list_kinds(invocation: Invocation) -> int:
    async with api_of(invocation) as api:
        rows = [
            (one.plural, ",".join(one.short_names), one.api_version, str(one.namespaced).lower(), one.kind)
            for one in await discover(api)
        ]
    click.echo(table(("name", "shortnames", "apiversion", "namespaced", "kind"), rows))
    return 0


async def _get(invocation: Invocation, kind: str, name: str | None, options: dict[str, Any]) -> int:
    output: str = options["output"]
    async with api_of(invocation) as api:
        resource = await find_kind(api, kind)
        namespace = _namespace(api, resource, options["namespace"], everywhere=options["all_namespaces"])
        path = resource_path(resource.api_version, resource.plural, namespace, name or "")
        params = {"labelSelector": options["selector"]} if options["selector"] else None
        accept = _TABLE if output in ("table", "wide") else "application/json"
        answer = await api.request("GET", path, params=params, accept=accept)
    match output:
        case "yaml":
            click.echo(yaml.safe_dump(answer, sort_keys=False), nl=False)
        case "json":
            click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
        case "name":
            for one in answer.get("items", [answer]):
                click.echo(f"{resource.singular}/{one['metadata']['name']}")
        case _:
            _print_table(
                answer, wide=output == "wide", with_namespace=options["all_namespaces"] and resource.namespaced
            )
    return 0


def _print_table(answer: dict[str, Any], *, wide: bool, with_namespace: bool) -> None:
    columns: list[dict[str, Any]] = answer.get("columnDefinitions", [])
    shown = [number for number, column in enumerate(columns) if wide or not column.get("priority")]
    titles = [columns[number]["name"] for number in shown]
    rows = [[_cell(row["cells"][number]) for number in shown] for row in answer.get("rows", [])]
    if with_namespace:
        titles.insert(0, "Namespace")
        for cells, row in zip(rows, answer["rows"], strict=True):
            cells.insert(0, str(row["object"]["metadata"].get("namespace", "")))
    if rows:
        click.echo(table(titles, rows))
    else:
        click.echo("No resources found.", err=True)


def _cell(value: object) -> str:
    return "" if value is None else str(value)


async def _describe(invocation: Invocation, kind: str, name: str, namespace: str | None) -> int:
    async with api_of(invocation) as api:
        resource = await find_kind(api, kind)
        where = _namespace(api, resource, namespace)
        one = await api.get(resource.api_version, resource.plural, name, namespace=where)
        selector = f"involvedObject.name={name},involvedObject.kind={resource.kind}"
        events = await api.list("v1", "events", namespace=where, params={"fieldSelector": selector})
    told: dict[str, Any] = one.get("status", {})
    conditions: list[dict[str, Any]] = told.get("conditions", [])
    happened: list[dict[str, Any]] = events.get("items", [])
    one["metadata"].pop("managedFields", None)
    body = {member: one[member] for member in ("metadata", "spec", "status") if member in one}
    click.echo(yaml.safe_dump({"kind": one.get("kind"), **body}, sort_keys=False), nl=False)
    if conditions:
        rows = [(c["type"], c["status"], c.get("reason", ""), c.get("message", "")) for c in conditions]
        click.echo("\n" + table(("condition", "status", "reason", "message"), rows))
    rows = [
        (e.get("lastTimestamp") or "", e.get("type", ""), e.get("reason", ""), e.get("message", "")) for e in happened
    ]
    click.echo("\n" + (table(("last seen", "type", "reason", "message"), rows) if rows else "No events."))
    return 0


_STRICT = {"fieldValidation": "Strict"}
"""A misspelt field is an error, as it is with kubectl: dropped, it would read as if it had been done."""


async def _apply(invocation: Invocation, filename: str, namespace: str | None) -> int:
    objects = read_manifests(filename)
    async with api_of(invocation) as api:
        resources = await discover(api)
        for wanted in objects:
            resource = _resource_of(resources, wanted)
            where = _namespace(api, resource, wanted["metadata"].get("namespace") or namespace)
            done = await _apply_one(api, resource, wanted, where)
            click.echo(f"{resource.singular}/{printable(wanted['metadata'].get('name') or '')} {done}")
    return 0


async def _apply_one(api: ApiClient, resource: Resource, wanted: dict[str, Any], where: str | None) -> str:
    name: str = wanted["metadata"].get("name") or ""
    try:
        present = await api.get(resource.api_version, resource.plural, name, namespace=where) if name else None
    except NotFound:
        present = None
    if present is None:
        await api.create(with_last_applied(wanted), resource.plural, namespace=where, params=_STRICT)
        return "created"
    patch = apply_patch(present, wanted)
    if not patch:
        return "unchanged"
    await api.patch(resource.api_version, resource.plural, name, patch, namespace=where, params=_STRICT)
    return "configured"


async def _delete(
    invocation: Invocation,
    kind: str | None,
    names: tuple[str, ...],
    *,
    namespace: str | None,
    filename: str | None,
    ignore_not_found: bool,
) -> int:
    async with api_of(invocation) as api:
        resources = await discover(api)
        chosen = [
            (_resource_of(resources, one), one["metadata"]["name"], one["metadata"].get("namespace") or namespace)
            for one in (read_manifests(filename) if filename else ())
        ]
        if kind is not None:
            resource = await find_kind(api, kind)
            chosen += [(resource, name, namespace) for name in names]
        for resource, name, where in chosen:
            try:
                await api.delete(
                    resource.api_version, resource.plural, name, namespace=_namespace(api, resource, where)
                )
            except NotFound:
                if not ignore_not_found:
                    raise
            else:
                click.echo(f"{resource.singular}/{name} deleted")
    return 0


def _resource_of(resources: list[Resource], wanted: dict[str, Any]) -> Resource:
    for resource in resources:
        if (resource.api_version, resource.kind) == (wanted["apiVersion"], wanted["kind"]):
            return resource
    raise NotFound("DRTP-7014", f"The control plane serves no {wanted['kind']} of {wanted['apiVersion']}.")


def _namespace(api: ApiClient, resource: Resource, asked: str | None, *, everywhere: bool = False) -> str | None:
    if not resource.namespaced or everywhere:
        return None
    return asked or api.namespace
