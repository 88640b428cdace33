"""`datumctl create project, user`: an operator gives a project to people, and each person a context that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from drtp.api.core import ORGANIZATION_LABEL
from drtp.api.rbac import API_VERSION as RBAC
from drtp.api.rbac import GROUP
from drtp.client.api import ApiClient
from drtp.client.context import Context, save_context, save_kubeconfig
from drtp.kit.errors import Conflict
from drtp.kit.secret import Secret
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access
from drtp.main.datum.auth import IDENTITY
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.passwords import read_password, set_password
from drtp.main.datum.tokens import create_token
from drtp.main.shell import Misused, run_async

ROLES = {"admin": "admin", "editor": "edit", "viewer": "view"}
"""What people are called, to the cluster role that they get."""

_file = click.Path(dir_okay=False, path_type=Path)


@click.group()
def create() -> None:
    """Make projects and users: for operators."""


@create.command()
@click.argument("name")
@context_option
@click.option("--organization", help="Whose project it is.")
def project(name: str, organization: str | None) -> int:
    """Make the project NAME, which is a namespace."""
    return run_async(_project(Invocation.current(), name, organization))


create.add_command(create_token)


@create.command()
@click.argument("name")
@context_option
@click.option("--project", help="Where the user works.")
@click.option("--role", type=click.Choice([*ROLES]), default="editor", show_default=True, help="What the user may do.")
@click.option("--context-file", "theirs", type=_file, help="Context to write, with a token.")
@click.option("--password-stdin", is_flag=True, help="Read a password from stdin, to sign in with: `datumctl login`.")
@click.option("--kubeconfig", type=_file, help="The same for kubectl.")
@click.option("--reinstate", is_flag=True, help="Make a user who was revoked a user again.")
@click.option("--days", type=click.IntRange(1, 90), default=30, show_default=True, help="How long the token is good.")
@output_option
def user(name: str, *, project: str | None, role: str, output: OutputForm, **options: Any) -> int:
    """Make the user NAME with a role in a project, or give one that there is a further role, token or password."""
    if options["theirs"] is None and not options["password_stdin"]:
        raise Misused("DRTP-7002", "A user needs something to show.", "Give --context-file, --password-stdin, or both.")
    options["password"] = read_password() if options["password_stdin"] else None
    return run_async(_user(Invocation.current(), name, project, role, output=output, options=options))


async def _project(invocation: Invocation, name: str, organization: str | None) -> int:
    labels = {ORGANIZATION_LABEL: organization} if organization else {}
    async with ApiClient(access(invocation)) as api:
        metadata = {"name": name, "labels": labels}
        await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, "namespaces")
    click.echo(f"project {name} made", err=True)
    return 0


async def _user(
    invocation: Invocation, name: str, project: str | None, role: str, *, output: OutputForm, options: dict[str, Any]
) -> int:
    operator = access(invocation)
    told: dict[str, str] = {"user": name} | ({"project": project, "role": role} if project else {})
    async with ApiClient(operator) as api:
        if project:
            await _bind(api, name, project, ROLES[role])
        if options["password"] is not None:
            told["uid"] = await set_password(api, name, options["password"])
        if options["theirs"] is not None:
            told |= await _context(api, operator, name, project, options)
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(told).decode())
        return 0
    works = f"{name} is {role} in {project}" if project else f"{name} is in no project yet"
    shows = f", with {options['theirs']} until {told['expires']}" if options["theirs"] is not None else ""
    click.echo(f"{works}{shows}{', with a password' if options['password'] else ''}", err=True)
    return 0


async def _context(
    api: ApiClient, operator: Context, name: str, project: str | None, options: dict[str, Any]
) -> dict[str, str]:
    """A token in a context of its own, and a kubeconfig if wanted; gives the account's uid and when the token ends."""
    ask = {"user": name, "lifetimeSeconds": options["days"] * 24 * 3600, "reinstate": options["reinstate"]}
    made = await api.create({"apiVersion": IDENTITY, "kind": "UserToken", "spec": ask}, "usertokens")
    status: dict[str, str] = made["status"]
    token = Secret(status["token"])
    context = Context(api=operator.api, ca_pem=operator.ca_pem, namespace=project or "default", token=token)
    save_context(options["theirs"], context)
    if options["kubeconfig"] is not None:
        save_kubeconfig(options["kubeconfig"], context)
    return {"uid": status["uid"], "expires": status["expires"]}


async def _bind(api: ApiClient, user: str, project: str, role: str) -> None:
    """Give the role, unless the user has it already."""
    binding = {
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "metadata": {"name": f"{role}-{user}", "namespace": project},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": user}],
    }
    try:
        await api.create(binding, "rolebindings", namespace=project)
    except Conflict as fault:
        if fault.code != "DRTP-1002":
            raise
