"""`datumctl create token`, `datumctl tokens`: tokens of one's own, that allow less and end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from drtp.client.api import ApiClient, resource_path
from drtp.client.context import Context, save_context
from drtp.kit.secret import Secret
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access
from drtp.main.datum.auth import IDENTITY
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.tables import table
from drtp.main.shell import Misused, run_async, until

ACCOUNT_DAYS_MAX = 90
"""What the API gives a program at most."""


@click.command("token", short_help="Make a token of your own, for a program.")
@context_option
@click.option("--project", "projects", multiple=True, help="Good in this project alone; repeat it.  [default: in all]")
@click.option("--days", type=click.IntRange(1, 365), default=30, show_default=True, help="How long it is good.")
@click.option("--read-only", is_flag=True, help="It changes nothing, whatever you may.")
@click.option(
    "--service-account",
    "account",
    metavar="[NAMESPACE/]NAME",
    help="Make a token of this account instead, for a program.",
)
@click.option("--description", default="", help="What it is for; shown in the list.")
@click.option(
    "--context-file",
    "theirs",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a context with it, instead of printing it.",
)
@output_option
def create_token(  # noqa: PLR0917 - click calls by name
    projects: tuple[str, ...],
    days: int,
    read_only: bool,
    account: str | None,
    description: str,
    theirs: Path | None,
    output: OutputForm,
) -> int:
    """Make a token of your own, for a program: printed once, on stdout alone, and kept nowhere.

    A token of a service account is that program's instead: it may what the account's roles say, for 90 days at most,
    and ends with the account.
    """
    if account is not None:
        if projects or read_only or description:
            named = "--project, --read-only and --description are for tokens of your own."
            raise Misused("DRTP-7002", named, "The account's roles say what its token may.")
        if days > ACCOUNT_DAYS_MAX:
            raise Misused("DRTP-7002", f"A token of a service account is good for {ACCOUNT_DAYS_MAX} days at most.")
        return run_async(_create_for(Invocation.current(), account, days, theirs, output))
    spec = {
        "namespaces": projects,
        "lifetimeSeconds": days * 24 * 3600,
        "readOnly": read_only,
        "description": description,
    }
    return run_async(_create(Invocation.current(), spec, theirs, output))


@click.group()
def tokens() -> None:
    """Tokens of your own: list and delete them. `create token` makes one."""


@tokens.command("list")
@context_option
@output_option
def list_tokens(output: OutputForm) -> int:
    """List your tokens, those that end first ahead."""
    return run_async(_list(Invocation.current(), output))


@tokens.command()
@click.argument("token_id", metavar="ID")
@context_option
def delete(token_id: str) -> int:
    """Delete one: from now on it proves nobody."""
    return run_async(_delete(Invocation.current(), token_id))


async def _create(invocation: Invocation, spec: dict[str, Any], theirs: Path | None, output: OutputForm) -> int:
    context = access(invocation)
    status = await _post(context, "SelfToken", "selftokens", spec)
    if theirs is not None:
        token = Secret(str(status.pop("token")))
        namespace = spec["namespaces"][0] if spec["namespaces"] else context.namespace
        save_context(theirs, Context(api=context.api, ca_pem=context.ca_pem, namespace=namespace, token=token))
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(status).decode())
        return 0
    if theirs is None:
        click.echo(status["token"])
    click.echo(f"token {status['id']}, good until {until(status['expires'])}", err=True)
    return 0


async def _create_for(invocation: Invocation, account: str, days: int, theirs: Path | None, output: OutputForm) -> int:
    context = access(invocation)
    namespace, _, name = account.rpartition("/")
    namespace = namespace or context.namespace
    if not name or "/" in namespace:
        raise Misused("DRTP-7002", f"{account} is not [NAMESPACE/]NAME.", "Such as foundry/reports.")
    ask = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"} | {
        "spec": {"expirationSeconds": days * 24 * 3600}
    }
    path = resource_path("v1", "serviceaccounts", namespace, name)
    async with ApiClient(context) as api:
        status: dict[str, Any] = (await api.request("POST", f"{path}/token", body=ask))["status"]
    token, told = Secret(str(status["token"])), {"serviceAccount": f"{namespace}/{name}"}
    told["expires"] = status["expirationTimestamp"]
    if theirs is not None:
        save_context(theirs, Context(api=context.api, ca_pem=context.ca_pem, namespace=namespace, token=token))
    elif output is OutputForm.JSON:
        told["token"] = token.reveal()
    else:
        click.echo(token.reveal())
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(told).decode())
    else:
        click.echo(f"token of {namespace}/{name}, good until {until(told['expires'])}", err=True)
    return 0


async def _list(invocation: Invocation, output: OutputForm) -> int:
    status = await _post(access(invocation), "SelfTokenReview", "selftokenreviews", {})
    found: list[dict[str, Any]] = status["tokens"]
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(found).decode())
        return 0
    rows = [
        (
            one["id"],
            one["expires"] or "never",
            ",".join(one["namespaces"]) or "all",
            "yes" if one["readOnly"] else "no",
            one["description"],
        )
        for one in found
    ]
    click.echo(table(("id", "expires", "projects", "read only", "description"), rows))
    return 0


async def _delete(invocation: Invocation, token_id: str) -> int:
    await _post(access(invocation), "SelfTokenRevocation", "selftokenrevocations", {"id": token_id})
    click.echo(f"token {token_id} deleted", err=True)
    return 0


async def _post(context: Context, kind: str, plural: str, spec: dict[str, Any]) -> dict[str, Any]:
    async with ApiClient(context) as api:
        return (await api.create({"apiVersion": IDENTITY, "kind": kind, "spec": spec}, plural))["status"]
