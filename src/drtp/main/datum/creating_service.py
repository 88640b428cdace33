"""`datumctl create service`: a service definition, and the one-time secret that lets its agent in."""

from __future__ import annotations

from typing import Any

import click

from drtp.api.drtp import Protocol
from drtp.client.api import ApiClient
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access, namespace_option
from drtp.main.datum.credentials import SecretAsk, make_secret, secret_options, tell
from drtp.main.datum.definition import new_service, proxy_protocol
from drtp.main.datum.enrolling import PLURAL
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.naming import in_project
from drtp.main.datum.serve_request import ServeRequest, check, networks
from drtp.main.datum.target import parse_target
from drtp.main.shell import run_async


@click.command(short_help="Define a service, with a one-time secret.")
@click.argument("name")
@context_option
@namespace_option
@click.option(
    "--protocol", required=True, type=click.Choice([one.value for one in Protocol], case_sensitive=False), help="Of it."
)
@click.option("--local", required=True, metavar="HOST:PORT", help="Where agents reach it.")
@click.option("--expose", is_flag=True, help="Give it a public address; also by --hostname, --port or --address.")
@click.option("--hostname", help="Public host name, for HTTP and TLS; else one is vended.")
@click.option("--port", type=click.IntRange(1, 65535), help="Public port, for TCP and UDP; else one is vended.")
@click.option("--address", help="Public address, for TCP and UDP: one of the operator's pool.")
@click.option("--allow", multiple=True, metavar="CIDR", help="Who may visit; repeat it. UDP needs it.")
@click.option("--proxy-protocol", type=click.Choice(["v1", "v2", "none"]), help="PROXY header for the local service.")
@click.option("--wait-for-enable", is_flag=True, help="Not reachable until somebody runs `datumctl enable`.")
@click.option("--no-secret", is_flag=True, help="Make the definition alone.")
@secret_options
@output_option
def service(name: str, *, namespace: str | None, output: OutputForm, **options: Any) -> int:
    """Define the service NAME, or PROJECT/NAME, and make a one-time secret for the agent that is to serve it.

    The secret is printed once, on stdout. How to start an agent is told on stderr: with the secret in it, ready to
    paste, where both are a terminal, else with the file that holds it.
    """
    return run_async(_service(Invocation.current(), name, namespace, options, output))


async def _service(
    invocation: Invocation, written: str, namespace: str | None, options: dict[str, Any], output: OutputForm
) -> int:
    context = access(invocation)
    where, name = in_project(written, namespace, context.namespace)
    wanted = new_service(_request(where, name, options))
    async with ApiClient(context) as api:
        made = await api.create(wanted, PLURAL, namespace=where)
        told: dict[str, Any] = {"service": f"{where}/{name}", "uid": made["metadata"]["uid"]}
        if not options["no_secret"]:
            told |= await make_secret(api, where, name, SecretAsk.of(options, output))
    if options["no_secret"] and output is OutputForm.TEXT:
        click.echo(f"{told['service']} ({told['uid']}) made", err=True)
    else:
        tell(told, output)
    return 0


def _request(namespace: str, name: str, options: dict[str, Any]) -> ServeRequest:
    """The same request that `serve` makes of its command line. Raises: Invalid, Misused."""
    places = (options["hostname"], options["port"], options["address"])
    request = ServeRequest(
        name=name,
        namespace=namespace,
        target=parse_target(f"{options['protocol'].lower()}://{options['local']}"),
        hostname=options["hostname"],
        port=options["port"],
        address=options["address"],
        allow=networks(options["allow"]),
        proxy_protocol=proxy_protocol(options["proxy_protocol"]),
        expose=options["expose"] or any(place is not None for place in places),
        wait_for_enable=options["wait_for_enable"],
    )
    return check(request)
