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
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.passwords import create_password
from drtp.main.datum.tokens import create_token
from drtp.main.shell import run_async

ROLES = {"admin": "admin", "editor": "edit", "viewer": "view"}
"""What people are called, to the cluster role that they get."""

_IDENTITY = "identity.datumapis.com/v1alpha"
_file = click.Path(dir_okay=False, path_type=Path)


@click.group()
def create() -> None:
    """Make projects and users: for operators."""


create.add_command(create_token)
create.add_command(create_password)


@create.command()
@click.argument("name")
@context_option
@click.option("--organization", help="Whose project it is.")
def project(name: str, organization: str | None) -> int:
    """Make the project NAME, which is a namespace."""
    return run_async(_project(Invocation.current(), name, organization))


@create.command()
@click.argument("name")
@context_option
@click.option("--project", required=True, help="Where the user works.")
@click.option("--role", type=click.Choice([*ROLES]), default="editor", show_default=True, help="What the user may do.")
@click.option("--context-file", "theirs", type=_file, required=True, help="Context to write, with a token.")
@click.option("--kubeconfig", type=_file, help="The same for kubectl.")
@click.option("--reinstate", is_flag=True, help="Make a user who was revoked a user again.")
@click.option("--days", type=click.IntRange(1, 90), default=30, show_default=True, help="How long the token is good.")
@output_option
def user(name: str, *, project: str, role: str, output: OutputForm, **options: Any) -> int:
    """Make the user NAME with a role in a project, or give a user that there is one more role and a new token."""
    return run_async(_user(Invocation.current(), name, project, role, output=output, options=options))


async def _project(invocation: Invocation, name: str, organization: str | None) -> int:
    labels = {ORGANIZATION_LABEL: organization} if organization else {}
    async with ApiClient(access(invocation)) as api:
        metadata = {"name": name, "labels": labels}
        await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, "namespaces")
    click.echo(f"project {name} made", err=True)
    return 0


async def _user(
    invocation: Invocation, name: str, project: str, role: str, *, output: OutputForm, options: dict[str, Any]
) -> int:
    operator = access(invocation)
    ask = {"user": name, "lifetimeSeconds": options["days"] * 24 * 3600, "reinstate": options["reinstate"]}
    async with ApiClient(operator) as api:
        await _bind(api, name, project, ROLES[role])
        made = await api.create({"apiVersion": _IDENTITY, "kind": "UserToken", "spec": ask}, "usertokens")
    status: dict[str, str] = made["status"]
    context = Context(api=operator.api, ca_pem=operator.ca_pem, namespace=project, token=Secret(status["token"]))
    save_context(options["theirs"], context)
    if options["kubeconfig"] is not None:
        save_kubeconfig(options["kubeconfig"], context)
    if output is OutputForm.JSON:
        told = {"user": name, "uid": status["uid"], "project": project, "role": role, "expires": status["expires"]}
        click.echo(msgspec.json.encode(told).decode())
    else:
        click.echo(f"{name} is {role} in {project}, with {options['theirs']} until {status['expires']}", err=True)
    return 0


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
