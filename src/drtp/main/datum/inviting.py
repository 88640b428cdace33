"""`datumctl create invitation` and `datumctl accept`: how people come into an organisation."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from drtp.client.api import ApiClient
from drtp.kit.secret import Secret
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access
from drtp.main.datum.credentials import IDENTITY
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.shell import Misused, run_async, until
from drtp.rules.permissions import ORGANIZATION_ROLES

VARIABLE = "DRTP_INVITATION"


@click.command()
@context_option
@click.option("--organization", required=True, help="Into which.")
@click.option("--role", type=click.Choice([*ORGANIZATION_ROLES]), default="viewer", show_default=True, help="As what.")
@click.option("--days", type=click.IntRange(1, 30), default=7, show_default=True, help="How long it is good.")
@output_option
def invitation(organization: str, role: str, days: int, output: OutputForm) -> int:
    """Invite one person into an organisation. The invitation is printed once, and kept nowhere."""
    return run_async(_invitation(Invocation.current(), organization, role, days, output))


@click.command(short_help="Accept an invitation to an organisation.")
@context_option
@click.option(
    "--invitation-file",
    type=click.Path(allow_dash=True, dir_okay=False),
    help=f"File with the invitation; - for stdin. Else {VARIABLE}.",
)
@output_option
def accept(invitation_file: str | None, output: OutputForm) -> int:
    """Accept an invitation: you get its role in the organisation, and nothing else."""
    return run_async(_accept(Invocation.current(), _read(invitation_file), output))


async def _invitation(invocation: Invocation, organization: str, role: str, days: int, output: OutputForm) -> int:
    spec = {"role": role, "lifetimeSeconds": days * 24 * 3600}
    async with ApiClient(access(invocation)) as api:
        posted = {"apiVersion": IDENTITY, "kind": "Invitation", "metadata": {}, "spec": spec}
        made: dict[str, Any] = (await api.create(posted, "invitations", namespace=organization))["status"]
    if output is OutputForm.JSON:
        told = {"organization": organization, "role": role, **made}
        click.echo(msgspec.json.encode(told).decode())
        return 0
    click.echo(made["invitation"])
    click.echo(
        f"\nFor one person, as {role} of {organization}, until {until(made['expires'])}. "
        "Whoever is signed in accepts it with\n  datumctl accept --invitation-file -",
        err=True,
    )
    return 0


async def _accept(invocation: Invocation, text: Secret[str], output: OutputForm) -> int:
    async with ApiClient(access(invocation)) as api:
        spec = {"invitation": text.reveal()}
        posted = {"apiVersion": IDENTITY, "kind": "InvitationAcceptance", "metadata": {}, "spec": spec}
        status: dict[str, Any] = (await api.create(posted, "invitationacceptances"))["status"]
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(status).decode())
    else:
        click.echo(f"you are {status['role']} of {status['organization']}", err=True)
    return 0


def _read(path: str | None) -> Secret[str]:
    """Raises: Misused (DRTP-7010)."""
    from_environment = os.environ.pop(VARIABLE, "")
    try:
        if path == "-":
            text = sys.stdin.readline()
        else:
            text = Path(path).read_text(encoding="utf-8") if path is not None else from_environment
    except (OSError, UnicodeDecodeError) as fault:
        raise Misused("DRTP-7070", f"The invitation cannot be read: {fault}.") from fault
    if not text.strip():
        raise Misused("DRTP-7070")
    return Secret(text.strip())
