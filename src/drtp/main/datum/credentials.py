"""`datumctl credentials`: a one-time secret for agents of a service, or connectors of an application, and how to start
one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from drtp.client.api import ApiClient
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import access, namespace_option
from drtp.main.datum.connect_places import Place, place_of
from drtp.main.datum.instructions import IMAGE, Start, instructions
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.datum.naming import in_project
from drtp.main.shell import Misused, run_async, until

C = TypeVar("C", bound=Callable[..., Any])

IDENTITY = "identity.datumapis.com/v1alpha"

_SOME_FILE = "FILE"
"""Where whoever reads the instructions has put the secret."""


@dataclass(frozen=True)
class SecretAsk:
    """What the secret is to be good for. `kept_in`: the Secret that holds it, "" shows it.

    `secret_file`: what the instructions name in place of the secret; "" where they may have it in them.
    """

    uses: int
    lifetime_s: int
    sources: tuple[str, ...]
    kept_in: str
    image: str
    secret_file: str = ""

    @classmethod
    def of(cls, options: dict[str, Any], output: OutputForm) -> SecretAsk:
        """From the options of `secret_options`, and where this program's output goes."""
        to_a_terminal = sys.stdout.isatty() and sys.stderr.isatty()
        return cls(
            uses=options["uses"],
            lifetime_s=options["lifetime"] * 60,
            sources=options["sources"],
            kept_in=options["keep_in"] or "",
            image=options["image"],
            secret_file="" if output is OutputForm.JSON or to_a_terminal else secret_file(Path("/proc/self/fd/1")),
        )


def secret_file(descriptor: Path) -> str:
    """The file that `descriptor` leads to, as a shell here names it; FILE where it is none or cannot be known."""
    try:
        path = descriptor.resolve(strict=True)
    except OSError:
        return _SOME_FILE
    if not path.is_file():
        return _SOME_FILE
    return f"./{path.relative_to(Path.cwd())}" if path.is_relative_to(Path.cwd()) else str(path)


def secret_options(command: C) -> C:
    """`--uses`, `--lifetime`, `--from`, `--keep-in`, `--image`."""
    for option in (
        click.option("--image", default=IMAGE, show_default=True, help="Image with datumctl, in the instructions."),
        click.option("--keep-in", metavar="NAME", help="Do not show it: keep it in this Secret while it is good."),
        click.option("--from", "sources", multiple=True, metavar="CIDR", help="Where it may be used; else anywhere."),
        click.option("--lifetime", type=click.IntRange(1, 1440), default=30, show_default=True, help="Minutes."),
        click.option(
            "--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="Agents that may enrol with it."
        ),
    ):
        command = option(command)
    return command


@click.command(short_help="Make a one-time secret for an agent.")
@click.argument("service", required=False)
@context_option
@namespace_option
@click.option("--service-account", metavar="NAME", help="For an application that is to connect, instead of SERVICE.")
@click.option(
    "--connect",
    metavar="[NAMESPACE/]SERVICE=PORT",
    help="What the application is to reach, and at which local port: told in the instructions.",
)
@secret_options
@output_option
def credentials(
    service: str | None,
    *,
    service_account: str | None,
    connect: str | None,
    namespace: str | None,
    output: OutputForm,
    **options: Any,
) -> int:
    """Make a one-time secret for an agent that is to serve SERVICE, which is NAME or PROJECT/NAME.

    It is printed on stdout, and kept nowhere. How to start an agent is told on stderr: with the secret in it, ready to
    paste, where both are a terminal, else with the file that holds it.
    """
    if service_account is not None and service is None:
        ask = SecretAsk.of(options, output)
        place = None if connect is None else _presented(connect)
        account = _Account(service_account, namespace, place)
        return run_async(_account_secret(Invocation.current(), account, ask, output))
    if connect is not None:
        raise Misused("DRTP-7002", "--connect is for a service account's secret.", "Give --service-account.")
    if service is None or service_account is not None:
        raise Misused("DRTP-7002", "A secret is for one service, or for one service account.")
    return run_async(_credentials(Invocation.current(), service, namespace, SecretAsk.of(options, output), output))


def _presented(written: str) -> Place:
    """Raises: Misused for what names no port: a program has to know it."""
    place = place_of(written, None, None, ())
    if not place.port:
        raise Misused("DRTP-7002", f"--connect {written} names no port.", "Such as joe/postgres=5432.")
    return place


@dataclass(frozen=True)
class _Account:
    """An application's service account, and what it is to reach; None: that is not said."""

    name: str
    namespace: str | None
    place: Place | None


async def _account_secret(invocation: Invocation, account: _Account, ask: SecretAsk, output: OutputForm) -> int:
    """For connectors of an application."""
    context, place = access(invocation), account.place
    where, name = in_project(account.name, account.namespace, context.namespace)
    spec: dict[str, Any] = {"serviceAccount": name, "uses": ask.uses, "lifetimeSeconds": ask.lifetime_s}
    spec |= {"sourceCIDRs": list(ask.sources)} if ask.sources else {}
    posted = {"apiVersion": IDENTITY, "kind": "ServiceCredentials", "metadata": {}, "spec": spec}
    async with ApiClient(context) as api:
        status: dict[str, Any] = (await api.create(posted, "servicecredentials", namespace=where))["status"]
    told: dict[str, Any] = {
        "serviceAccount": f"{where}/{name}",
        "expires": status["expires"],
        "secret": status["secret"],
    }
    if place is not None:
        shown = "" if ask.secret_file else status["secret"]
        target = (place.namespace or context.namespace, place.name)
        start = Start(*target, shown, ask.uses, ask.image, ask.secret_file, port=place.port)
        told |= {"instructions": instructions(start)}
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(told).decode())
        return 0
    click.echo(status["secret"])
    head = f"\nGood until {until(status['expires'])}"
    if place is None:
        click.echo(f"{head}: datumctl connect PROJECT/SERVICE --secret-file FILE", err=True)
        return 0
    click.echo(f"{head}, for {ask.uses} connector{'s' if ask.uses > 1 else ''}. Start one:", err=True)
    _tell_how(told["instructions"])
    return 0


async def _credentials(
    invocation: Invocation, service: str, namespace: str | None, ask: SecretAsk, output: OutputForm
) -> int:
    context = access(invocation)
    where, name = in_project(service, namespace, context.namespace)
    async with ApiClient(context) as api:
        made = await make_secret(api, where, name, ask)
    tell(made, output)
    return 0


async def make_secret(api: ApiClient, namespace: str, service: str, ask: SecretAsk) -> dict[str, Any]:
    """What is told of it: service, uid, expires, and secret and instructions, or the Secret that it is kept in."""
    spec: dict[str, Any] = {"service": service, "uses": ask.uses, "lifetimeSeconds": ask.lifetime_s}
    spec |= {"sourceCIDRs": list(ask.sources)} if ask.sources else {}
    spec |= {"secretName": ask.kept_in} if ask.kept_in else {}
    posted = {"apiVersion": IDENTITY, "kind": "ServiceCredentials", "metadata": {}, "spec": spec}
    status: dict[str, Any] = (await api.create(posted, "servicecredentials", namespace=namespace))["status"]
    told = {"service": f"{namespace}/{service}", "uid": status["service"], "expires": status["expires"]}
    told |= {"uses": ask.uses}
    if ask.kept_in:
        return told | {"keptIn": ask.kept_in}
    shown = "" if ask.secret_file else status["secret"]
    start = Start(namespace, service, shown, ask.uses, ask.image, ask.secret_file)
    return told | {"secret": status["secret"], "instructions": instructions(start)}


def tell(made: dict[str, Any], output: OutputForm) -> None:
    """The secret alone on stdout; for people the instructions beside it, on stderr."""
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(made).decode())
        return
    agents = f"{made['uses']} agent{'s' if made['uses'] > 1 else ''}"
    good_until = until(made["expires"])
    if "secret" not in made:
        click.echo(f"{made['service']}: in the Secret {made['keptIn']} until {good_until}, for {agents}", err=True)
        return
    click.echo(made["secret"])
    click.echo(f"\n{made['service']} ({made['uid']})\nGood until {good_until}, for {agents}. Start one:", err=True)
    _tell_how(made["instructions"])


def _tell_how(texts: dict[str, str]) -> None:
    titles = {"shell": "in a shell", "container": "in a container", "systemd": "as a service of systemd"}
    for kind, text in texts.items():
        click.echo(f"\n# ---- {titles.get(kind, 'in Kubernetes')} ----\n{text}", err=True, nl=False)
