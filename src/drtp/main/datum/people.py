"""`datumctl whoami, login, credentials`."""

from __future__ import annotations

import ssl
from typing import Any

import aiohttp
import click
import msgspec

from drtp.api.feed import SecretRequest, SecretResponse
from drtp.client.api import ApiClient
from drtp.client.dialling import ProxyFailure, web_session
from drtp.client.enrolment import fault_of
from drtp.client.tls import trusting
from drtp.kit.errors import Retryable, Terminal
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access, namespace_option
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.shell import Misused, run_async

_TIMEOUT_S = 15.0
_REVIEWS = "authentication.k8s.io/v1"


@click.command()
@context_option
@output_option
def whoami(output: OutputForm) -> int:
    """Say who the control plane takes you for."""
    return run_async(_whoami(Invocation.current(), output))


@click.command()
def login() -> None:
    """Sign in through a browser."""
    raise Terminal("DRTP-7012")


@click.command()
@click.argument("service", required=False)
@context_option
@namespace_option
@click.option("--service-account", metavar="NAME", help="For an application that is to connect, instead of SERVICE.")
@click.option(
    "--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="Agents that may enrol with it."
)
@click.option("--lifetime", type=click.IntRange(1, 1440), default=30, show_default=True, help="Minutes.")
@click.option("--from", "sources", multiple=True, metavar="CIDR", help="Where it may be used; else anywhere.")
@output_option
def credentials(
    service: str | None,
    *,
    namespace: str | None,
    service_account: str | None,
    uses: int,
    lifetime: int,
    sources: tuple[str, ...],
    output: OutputForm,
) -> int:
    """Make a one-time secret for an agent that is to serve SERVICE.

    It is printed once, on stdout alone, and kept nowhere.
    """
    if (service is None) is (service_account is None):
        raise Misused("DRTP-7002", "A secret is for one service, or for one service account.")
    ask = SecretRequest(
        namespace=namespace or "",
        service=service or "",
        service_account=service_account or "",
        uses=uses,
        lifetime_s=lifetime * 60,
        source_cidrs=sources,
    )
    return run_async(_credentials(Invocation.current(), ask, output))


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


async def _credentials(invocation: Invocation, ask: SecretRequest, output: OutputForm) -> int:
    context = access(invocation)
    ask = msgspec.structs.replace(ask, namespace=ask.namespace or context.namespace)
    async with ApiClient(context) as api:
        edge = str((await api.request("GET", "/.well-known/drtp"))["edge"])
    tls = trusting(context.ca_pem)
    token = context.token.reveal() if context.token else ""
    made = await _post(f"{edge}/v1/secrets", ask, token, tls)
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(made).decode())
        return 0
    click.echo(made.secret)
    if ask.service_account:
        click.echo(
            f"""
Good until {made.expires_at:%Y-%m-%d %H:%M} UTC. Beside the application:
  datumctl connect NAMESPACE/SERVICE --secret-file FILE""",
            err=True,
        )
        return 0
    click.echo(
        f"""
Good until {made.expires_at:%Y-%m-%d %H:%M} UTC, for {ask.uses} agent{"s" if ask.uses > 1 else ""}. On the machine \
that reaches the service, either
  datumctl serve --service {ask.service} --namespace {ask.namespace} --secret-file FILE
or in a container or unit, with the secret in its environment as DRTP_SECRET and a volume for the state,
  datumctl serve --service {ask.service} --namespace {ask.namespace} --state-dir DIR""",
        err=True,
    )
    return 0


async def _post(url: str, ask: SecretRequest, token: str, tls: ssl.SSLContext) -> SecretResponse:
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            web_session(tls, timeout=timeout) as http,
            http.post(url, data=msgspec.json.encode(ask), headers=headers) as response,
        ):
            body, status = await response.read(), response.status
    except ProxyFailure as fault:
        raise fault.error from fault
    except (aiohttp.ClientError, OSError, TimeoutError) as fault:
        raise Retryable("DRTP-7011", f"{url} cannot be reached: {str(fault) or 'no answer in time'}.") from fault
    if status != 200:
        raise fault_of(status, body)
    return msgspec.json.decode(body, type=SecretResponse)
