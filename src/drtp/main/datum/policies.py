"""`datumctl policy test`: whom a service's policies let in, and by which rule."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape

from drtp.client.api import ApiClient
from drtp.kit.observe import printable
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.shell import run_async

_ADMITTED = {
    "No": "no role and no subscription lets this caller connect",
    "Unknown": "whether a role or a subscription lets this caller connect cannot be told from the name",
}


@click.group()
def policy() -> None:
    """Ask what access policies decide."""


@policy.command(short_help="Decide whether somebody may reach a service.")
@click.argument("service", metavar="[NAMESPACE/]SERVICE")
@context_option
@click.option(
    "--as",
    "principals",
    multiple=True,
    metavar="user:NAME|app:NAMESPACE/NAME|org:NAME",
    help="Who asks by `connect`; may be given again, to say organisations. Without it: a visitor of a public place.",
)
@click.option(
    "--signed-in", is_flag=True, help="They visit the service's site and have signed in there; not by `connect`."
)
@click.option("--from", "address", metavar="IP", help="The address they come from.")
@click.option("--country", metavar="CC", help="Where that is, such as DE.")
@click.option("--at", "moment", metavar="TIME", help="When, such as 2026-01-31T08:00:00Z.  [default: now]")
@click.option(
    "--through", "server", metavar="SERVER", help="Which DRTPServer carries the bytes.  [default: one it has]"
)
@output_option
def test(service: str, output: OutputForm, **asked: Any) -> int:
    """Decide whether somebody may reach SERVICE, and show every rule that was looked at. Nothing is connected."""
    names = {"address": "from", "country": "country", "moment": "at", "server": "server"}
    spec = {said: asked[name] for name, said in names.items() if asked[name]}
    if asked["principals"]:
        spec["as"] = list(asked["principals"])
    if asked["signed_in"]:
        spec["signedIn"] = True
    return run_async(_test(Invocation.current(), service, spec, output))


async def _test(invocation: Invocation, service: str, spec: dict[str, Any], output: OutputForm) -> int:
    namespace, _, name = service.rpartition("/")
    body = {"apiVersion": "policy.datumapis.com/v1alpha", "kind": "PolicyReview", "spec": {"service": name, **spec}}
    async with ApiClient(access(invocation)) as api:
        made = await api.create(body, "policyreviews", namespace=namespace or api.namespace)
    status: dict[str, Any] = made["status"]
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(status).decode())
    else:
        _show(Console(), status)
    return 0


def _show(console: Console, status: dict[str, Any]) -> None:
    """The decision first, then list by list."""
    colour = "green" if status["decision"] == "Allow" else "red"
    console.print(f"[bold {colour}]{status['decision']}[/] by {_safe(status['rule'])}")
    if status.get("server"):
        console.print(f"through {_safe(status['server'])}")
    for one in status["trace"]:
        dry = " (DryRun: not enforced)" if one["mode"] == "DryRun" else ""
        console.print(f"  {_safe(one['list'])}: {one['decision']} by {_safe(one['rule'])}{dry}")
        for rule in one["rules"]:
            given: dict[str, str] = rule.get("parts", {})
            parts = ", ".join(f"{name} {truth.lower()}" for name, truth in given.items())
            console.print(f"    {_safe(rule['name'])} ({rule['action']}): {rule['speaks'].lower()}  {parts}".rstrip())
    if said := _ADMITTED.get(status.get("admitted", "")):
        console.print(f"  {said}", highlight=False)
    if status["decision"] == "Allow":
        _show_limits(console, status.get("limits", []))


def _show_limits(console: Console, limits: list[dict[str, Any]]) -> None:
    """What holds for whoever is let in."""
    for one in limits:
        named = {
            "connections": "{:,} connections",
            "connectionsPerSecond": "{:,} new ones a second",
            "bytesPerSecond": "{:,} bytes a second",
        }
        words = ", ".join(form.format(one[name]) for name, form in named.items() if name in one)
        together = ", of all its services together" if one.get("together") else ""
        console.print(f"  limited by {_safe(one['by'])}: {words} at each tunnel server{together}", highlight=False)


def _safe(text: str) -> str:
    return escape(printable(text))
