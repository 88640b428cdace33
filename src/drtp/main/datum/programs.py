"""`datumctl create service-account`: a program's identity in a project, and a context with a token of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from drtp.client.api import ApiClient
from drtp.client.context import Context, save_context
from drtp.kit.errors import Conflict
from drtp.kit.secret import Secret
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access, namespace_option
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.naming import in_project
from drtp.main.shell import run_async, until


@click.command("service-account", short_help="Make a program's account in a project.")
@click.argument("name")
@context_option
@namespace_option
@click.option(
    "--context-file",
    "theirs",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Context to write, with a token of it; else it is made without one.",
)
@click.option("--days", type=click.IntRange(1, 90), default=30, show_default=True, help="How long the token is good.")
@output_option
def service_account(name: str, *, namespace: str | None, theirs: Path | None, days: int, output: OutputForm) -> int:
    """Make the service account NAME, or PROJECT/NAME, or give one that there is a new token.

    It may do what bindings give it: `kubectl create rolebinding … --serviceaccount=PROJECT:NAME`.
    """
    return run_async(_service_account(Invocation.current(), (name, namespace), theirs, days, output))


async def _service_account(
    invocation: Invocation, written: tuple[str, str | None], theirs: Path | None, days: int, output: OutputForm
) -> int:
    context = access(invocation)
    where, name = in_project(*written, context.namespace)
    told: dict[str, Any] = {"serviceAccount": f"{where}/{name}"}
    async with ApiClient(context) as api:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        try:
            await api.create(account, "serviceaccounts", namespace=where)
        except Conflict as fault:
            if fault.code != "DRTP-1002":
                raise
        if theirs is not None:
            made = await token_of(api, where, name, days * 24 * 3600)
            told["expires"] = made["expirationTimestamp"]
            own = Context(api=context.api, ca_pem=context.ca_pem, namespace=where, token=Secret(made["token"]))
            save_context(theirs, own)
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(told).decode())
    else:
        good = f", with {theirs} until {until(told['expires'])}" if theirs is not None else ""
        click.echo(f"{told['serviceAccount']} is there{good}", err=True)
    return 0


async def token_of(api: ApiClient, namespace: str, name: str, lifetime_s: int) -> dict[str, Any]:
    """A token of a service account: `token`, `expirationTimestamp`. Raises: NotFound, Refused DRTP-1030."""
    ask = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": lifetime_s}}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    return (await api.request("POST", path, body=ask))["status"]
