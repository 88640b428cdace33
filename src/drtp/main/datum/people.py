"""`datumctl whoami`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from drtp.client.api import ApiClient
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.shell import run_async

_REVIEWS = "authentication.k8s.io/v1"


@click.command()
@context_option
@output_option
def whoami(output: OutputForm) -> int:
    """Say who the control plane takes you for."""
    return run_async(_whoami(Invocation.current(), output))


async def _whoami(invocation: Invocation, output: OutputForm) -> int:
    context = access(invocation)
    async with ApiClient(context) as api:
        review: dict[str, Any] = {"apiVersion": _REVIEWS, "kind": "SelfSubjectReview", "metadata": {}}
        answer = await api.request("POST", f"/apis/{_REVIEWS}/selfsubjectreviews", body=review)
    user: dict[str, Any] = answer["status"]["userInfo"]
    groups: list[str] = user.get("groups", [])
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode({"api": context.api, "namespace": context.namespace, **user}).decode())
        return 0
    click.echo(user.get("username", ""))
    click.echo(f"groups {', '.join(groups) or 'none'}; at {context.api}", err=True)
    click.echo(f"project {context.namespace}", err=True)
    return 0
