"""`datumctl revoke agent|service|user|pop|gateway`: what was given is never accepted again, and what lives is cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import click
import msgspec

from drtp.client.api import ApiClient
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access, namespace_option
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.naming import in_project
from drtp.main.shell import run_async

_IDENTITY = "identity.datumapis.com/v1alpha"
_reason_option = click.option("--reason", default="", help="Why, for the audit log and for the agent's owner.")


@click.group()
def revoke() -> None:
    """Take identities away: live connections are cut, new ones refused."""


@revoke.command(short_help="Revoke one agent.")
@click.argument("uid")
@context_option
@namespace_option
@_reason_option
@output_option
def agent(uid: str, namespace: str | None, reason: str, output: OutputForm) -> int:
    """Revoke one agent, by the agent id that `datumctl describe drtpconnection` shows."""
    return _run("agent", uid, namespace, reason, output)


@revoke.command(short_help="Revoke every agent of a service.")
@click.argument("service")
@context_option
@namespace_option
@_reason_option
@output_option
def service(service: str, namespace: str | None, reason: str, output: OutputForm) -> int:
    """Revoke every agent that serves SERVICE, which is NAME or PROJECT/NAME, and its unspent secrets.

    The service itself stays.
    """
    project, name = in_project(service, namespace, "")
    return _run("service", name, project or None, reason, output)


@revoke.command(short_help="Shut a user's account.")
@click.argument("name")
@context_option
@_reason_option
@output_option
def user(name: str, reason: str, output: OutputForm) -> int:
    """Shut the account of the user NAME: tokens, unspent secrets, and agents started with the user's own token.

    Agents that came by a secret belong to their project and go on.
    """
    return _run("user", name, None, reason, output)


@revoke.command(short_help="Revoke a POP.")
@click.argument("server")
@context_option
@_reason_option
@output_option
def pop(server: str, reason: str, output: OutputForm) -> int:
    """Revoke the POP that serves the DRTPServer SERVER: it cuts its visitors and leaves."""
    return _run("pop", server, None, reason, output)


@revoke.command(short_help="Revoke a gateway.")
@click.argument("name")
@context_option
@_reason_option
@output_option
def gateway(name: str, reason: str, output: OutputForm) -> int:
    """Revoke the gateway that joined as NAME: POPs stop believing it."""
    return _run("gateway", name, None, reason, output)


class _Ask(NamedTuple):
    """What is to be revoked; `namespace` None: the context's, where `what` belongs to a project."""

    what: str
    name: str
    namespace: str | None
    reason: str

    @property
    def in_project(self) -> bool:
        return self.what in {"agent", "service"}

    def body(self) -> dict[str, Any]:
        """The object to post."""
        kind = "Revocation" if self.in_project else "ClusterRevocation"
        spec = {self.what: self.name} | ({"reason": self.reason} if self.reason else {})
        return {"apiVersion": _IDENTITY, "kind": kind, "spec": spec}


def _run(what: str, name: str, namespace: str | None, reason: str, output: OutputForm) -> int:
    return run_async(_revoke(Invocation.current(), _Ask(what, name, namespace, reason), output))


async def _revoke(invocation: Invocation, ask: _Ask, output: OutputForm) -> int:
    async with ApiClient(access(invocation)) as api:
        if ask.in_project:
            made = await api.create(ask.body(), "revocations", namespace=ask.namespace or api.namespace)
        else:
            made = await api.create(ask.body(), "clusterrevocations")
    status: dict[str, Any] = made["status"]
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode({"kind": ask.what, "name": ask.name} | status).decode())
    else:
        click.echo(f"{ask.what} {ask.name} revoked: {_told(status)}", err=True)
    return 0


def _told(status: Mapping[str, Any]) -> str:
    """What went, in words."""
    counts = (
        (len(status["identities"]), "identity", "identities"),
        (status["secrets"], "secret", "secrets"),
        (status["tokens"], "token", "tokens"),
    )
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts)
