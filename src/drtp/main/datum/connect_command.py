"""`datumctl connect`: the command line. What it does is in `connecting.py`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from drtp.kit.secret import Secret
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.invocation import Invocation, context_option, proxy_option
from drtp.main.datum.serve_command import secret_of
from drtp.main.shell import Misused, run_async


@dataclass(frozen=True)
class Place:
    """Where a service is to be presented; `namespace` None: the context's project."""

    namespace: str | None
    name: str
    address: str = "127.0.0.1"
    port: int = 0
    path: Path | None = None
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConnectSettings:
    """The parsed command line. `state_dir` None: the usual place."""

    places: tuple[Place, ...]
    stdio: bool
    secret: Secret[str] | None
    state_dir: Path | None
    once: bool
    drain_s: float
    inspector: tuple[str, int] | None
    output: OutputForm


@click.command()
@click.argument("services", nargs=-1, metavar="[NAMESPACE/]SERVICE[=PORT]...")
@context_option
@click.option("--local", metavar="[ADDR:]PORT", help="Where to listen, for one service. 0 takes a free port (default).")
@click.option("--unix", type=click.Path(dir_okay=False, path_type=Path), help="Listen on a Unix socket instead.")
@click.option("--stdio", is_flag=True, help="One connection on standard input and output, as ssh's ProxyCommand.")
@click.option(
    "--allow-remote",
    multiple=True,
    metavar="CIDR",
    help="Whom to let in at a --local address that others can reach; repeat it.",
)
@click.option(
    "--secret-file",
    type=click.Path(allow_dash=True, dir_okay=False),
    help="File with a one-time secret of an application's service account; else DRTP_SECRET, else the context's user.",
)
@click.option("--once", is_flag=True, help="Give up (exit 69) instead of waiting when nothing can flow.")
@click.option(
    "--state-dir", type=click.Path(file_okay=False, path_type=Path), help="Where identity and state are kept."
)
@click.option(
    "--drain", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds for connections to finish."
)
@proxy_option
@click.option("--inspector", metavar="ADDR:PORT", help="Local pages with /ready.  [default: none]")
@output_option
def connect(services: tuple[str, ...], output: OutputForm, **options: Any) -> int:
    """Present remote services on this machine.

    Nothing is exposed to the internet, and every byte is encrypted from here to the agent that serves. Each service
    gets a free port on 127.0.0.1 unless --local, --unix or =PORT says otherwise. Ctrl-C lets connections finish.
    """
    from drtp.main.datum.connecting import run_connect

    if options["stdio"] and output is OutputForm.JSON:
        raise Misused("DRTP-7002", "--stdio has standard output for itself.", "Leave --output out.")
    settings = ConnectSettings(
        places=_places(services, options),
        stdio=options["stdio"],
        secret=secret_of(options),
        state_dir=options["state_dir"],
        once=options["once"],
        drain_s=options["drain"],
        inspector=_address(options["inspector"], "--inspector") if options["inspector"] else None,
        output=output,
    )
    return run_async(run_connect(settings, Invocation.current()))


def _places(services: tuple[str, ...], options: dict[str, Any]) -> tuple[Place, ...]:
    if not services:
        raise Misused("DRTP-7002", "There is nothing to connect to.", "Name a service, such as joe/postgres.")
    given = [name for name in ("local", "unix", "stdio") if options[name]]
    if len(given) > 1:
        raise Misused("DRTP-7002", f"--{given[0]} and --{given[1]} exclude each other.")
    if given and len(services) > 1:
        raise Misused("DRTP-7002", f"--{given[0]} is for one service.", "Give each its port: SERVICE=PORT.")
    allow = tuple(_network(text) for text in options["allow_remote"])
    address, port = _address(options["local"], "--local") if options["local"] else ("127.0.0.1", 0)
    _check_reach(address, allow)
    places = [_place(text, address, port, options["unix"], allow) for text in services]
    taken = [(place.address, place.port) for place in places if place.port]
    if len(taken) != len(set(taken)):
        raise Misused("DRTP-7002", "Two services were given one port.")
    return tuple(places)


def _place(text: str, address: str, port: int, path: Path | None, allow: tuple[str, ...]) -> Place:
    whole, _, own = text.partition("=")
    namespace, _, name = whole.rpartition("/")
    if not name or "/" in namespace or (own and not own.isdecimal()) or int(own or 0) > 65535:
        raise Misused("DRTP-7002", f"{text} is not [NAMESPACE/]SERVICE[=PORT].", "Such as joe/postgres=5432.")
    return Place(namespace or None, name, address, int(own) if own else port, path, allow)


def _address(written: str, option: str) -> tuple[str, int]:
    host, _, port = written.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise Misused("DRTP-7002", f"{option} {written} is not [address:]port.", "Such as 5432 or 127.0.0.1:5432.")
    return host.strip("[]") or "127.0.0.1", int(port)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as fault:
        raise Misused("DRTP-7002", f"--allow-remote {text} is no network: {fault}.", "Such as 10.1.0.0/16.") from None


def _check_reach(address: str, allow: tuple[str, ...]) -> None:
    """A place that others can reach is asked for by address and by who may use it, never by the way."""
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise Misused("DRTP-7002", f"--local {address} is no address.", "Such as 127.0.0.1:5432.") from None
    if not loopback and not allow:
        raise Misused("DRTP-4068", f"{address} can be reached by other machines.")
    if loopback and allow:
        raise Misused("DRTP-7002", "--allow-remote is for an address that others can reach.", "Name it with --local.")
