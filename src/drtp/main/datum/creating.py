"""`datumctl create`: organisations, projects, people, services and invitations."""

from __future__ import annotations

from dataclasses import dataclass
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
from drtp.main.datum.creating_service import service
from drtp.main.datum.credentials import IDENTITY
from drtp.main.datum.inviting import invitation
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.passwords import create_password
from drtp.main.datum.programs import service_account
from drtp.main.datum.tokens import create_token
from drtp.main.shell import Misused, run_async, until
from drtp.rules.permissions import ORGANIZATION_ROLES

ROLES = {"admin": "admin", "editor": "edit", "viewer": "view"}
"""What people of one project are called, to the cluster role that they get."""

_file = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class _Place:
    """A role somewhere: `project` is the organisation's own where `organization`."""

    project: str
    organization: bool
    role: str
    cluster_role: str

    @classmethod
    def of(cls, role: str, organization: str | None, project: str) -> _Place:
        if organization:
            return cls(organization, True, role, ORGANIZATION_ROLES[role])
        return cls(project, False, role, ROLES[role])

    @property
    def binding(self) -> str:
        """What its binding's name begins with."""
        return self.cluster_role if self.organization else self.role


@click.group()
def create() -> None:
    """Make organisations, projects, people, services and invitations."""


create.add_command(service)
create.add_command(invitation)
create.add_command(service_account)


create.add_command(create_token)
create.add_command(create_password)


@create.command(short_help="Make an organisation, with its own project.")
@click.argument("name")
@context_option
@output_option
def organization(name: str, output: OutputForm) -> int:
    """Make the organisation NAME, with a project of its own of the same name: for operators."""
    return run_async(_organization(Invocation.current(), name, output))


@create.command(short_help="Make a project, which is a namespace.")
@click.argument("name")
@context_option
@click.option("--organization", help="Whose project it is; better: ORGANIZATION/NAME.")
@output_option
def project(name: str, organization: str | None, output: OutputForm) -> int:
    """Make the project NAME, which is a namespace: ORGANIZATION/NAME for owners, NAME for operators."""
    owner, _, own = name.rpartition("/")
    if owner and organization and owner != organization:
        raise Misused("DRTP-7002", f"{name} and --organization {organization} are two organisations.", "Name one.")
    return run_async(_project(Invocation.current(), own, owner, organization, output))


@create.command(short_help="Make a user with a role, or add a role.")
@click.argument("name")
@context_option
@click.option("--organization", help="Whose projects the user works in, the later ones too.")
@click.option("--project", help="The one project that the user works in.")
@click.option(
    "--role",
    type=click.Choice([*ORGANIZATION_ROLES]),
    default="editor",
    show_default=True,
    help="What the user may do; only an organisation has owners.",
)
@click.option("--context-file", "theirs", type=_file, required=True, help="Context to write, with a token.")
@click.option("--kubeconfig", type=_file, help="The same for kubectl.")
@click.option("--reinstate", is_flag=True, help="Make a user who was revoked a user again.")
@click.option("--days", type=click.IntRange(1, 90), default=30, show_default=True, help="How long the token is good.")
@output_option
def user(name: str, *, organization: str | None, project: str | None, role: str, **options: Any) -> int:
    """Make the user NAME with a role, or give a user that there is one more role and a new token: for operators."""
    if not organization and not project:
        raise Misused("DRTP-7002", "Where is the user to work?", "Give --organization or --project.")
    if organization and project:
        raise Misused("DRTP-7002", "--organization and --project were given.", "Run the command once for each.")
    if role not in ROLES and not organization:
        raise Misused("DRTP-7002", "Only an organisation has owners.", "Give --organization, or the role admin.")
    place = _Place.of(role, organization, project or "")
    return run_async(_user(Invocation.current(), name, place, options))


async def _organization(invocation: Invocation, name: str, output: OutputForm) -> int:
    metadata = {"name": name, "labels": {ORGANIZATION_LABEL: name}}
    async with ApiClient(access(invocation)) as api:
        made = await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, "namespaces")
    _said(output, f"organisation {name} made", organization=name, uid=made["metadata"]["uid"])
    return 0


async def _project(invocation: Invocation, name: str, owner: str, label: str | None, output: OutputForm) -> int:
    """In an organisation, by whoever may make projects there; beside all, or in one that is a label only, the operator.

    Raises: Refused, Conflict.
    """
    async with ApiClient(access(invocation)) as api:
        if owner:
            posted = {"apiVersion": IDENTITY, "kind": "ProjectRequest", "metadata": {}, "spec": {"name": name}}
            uid = (await api.create(posted, "projectrequests", namespace=owner))["status"]["uid"]
        else:
            metadata = {"name": name, "labels": {ORGANIZATION_LABEL: label} if label else {}}
            made = await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, "namespaces")
            uid = made["metadata"]["uid"]
    _said(output, f"project {name} made", project=name, organization=owner or label or "", uid=uid)
    return 0


async def _user(invocation: Invocation, name: str, place: _Place, options: dict[str, Any]) -> int:
    operator = access(invocation)
    ask = {"user": name, "lifetimeSeconds": options["days"] * 24 * 3600, "reinstate": options["reinstate"]}
    where = place.project
    async with ApiClient(operator) as api:
        await _bind(api, name, place)
        made = await api.create({"apiVersion": IDENTITY, "kind": "UserToken", "spec": ask}, "usertokens")
    status: dict[str, str] = made["status"]
    context = Context(
        api=operator.api,
        ca_pem=api.context.ca_pem,
        founding_pem=api.context.founding_pem,
        namespace=where,
        token=Secret(status["token"]),
    )
    save_context(options["theirs"], context)
    if options["kubeconfig"] is not None:
        save_kubeconfig(options["kubeconfig"], context)
    told = {"user": name, "uid": status["uid"], "project": where, "role": place.role, "expires": status["expires"]}
    told |= {"organization": where} if place.organization else {}
    line = f"{name} is {place.role} in {where}, with {options['theirs']} until {until(status['expires'])}"
    _said(options["output"], line, **told)
    return 0


async def _bind(api: ApiClient, user: str, place: _Place) -> None:
    """Give the role, unless the user has it already."""
    binding = {
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "metadata": {"name": f"{place.binding}-{user}", "namespace": place.project},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": place.cluster_role},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": user}],
    }
    try:
        await api.create(binding, "rolebindings", namespace=place.project)
    except Conflict as fault:
        if fault.code != "DRTP-1002":
            raise


def _said(output: OutputForm, line: str, **told: object) -> None:
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(told).decode())
    else:
        click.echo(line, err=True)
