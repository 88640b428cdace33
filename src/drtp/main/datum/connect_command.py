"""`datumctl connect`: the command line. What it does is in `connecting.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from drtp.agent.settings import LocalAddress
from drtp.kit.secret import Secret
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.connect_places import Place, address_of, check_apart, place_of
from drtp.main.datum.invocation import Invocation, context_option, proxy_option
from drtp.main.datum.serve_command import secret_of
from drtp.main.shell import Misused, run_lasting


@dataclass(frozen=True)
class ConnectSettings:
    """The parsed command line. `state_dir` None: the usual place."""

    places: tuple[Place, ...]
    stdio: bool
    secret: Secret[str] | None
    state_dir: Path | None
    once: bool
    drain_s: float
    inspector: LocalAddress | None
    output: OutputForm


@click.command()
@click.argument("services", nargs=-1, metavar="[NAMESPACE/]SERVICE[=PORT]...")
@context_option
@click.option(
    "--local",
    metavar="[udp://][ADDR:]PORT",
    help="Where to listen, for one service. 0 takes a free port (default).",
)
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file of services, each with its place: services: [{service: joe/postgres, local: 5432}].",
)
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
@click.option("--once", is_flag=True, help="Give up (exit 69) when nothing can flow within 30 s.")
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
        inspector=LocalAddress(*address_of(options["inspector"], "--inspector")) if options["inspector"] else None,
        output=output,
    )
    return run_lasting(run_connect(settings, Invocation.current()))


def _places(services: tuple[str, ...], options: dict[str, Any]) -> tuple[Place, ...]:
    given = [name for name in ("file", "local", "unix", "stdio") if options[name]]
    if services and options["file"]:
        raise Misused("DRTP-7002", "--file names the services already.")
    if not services and not options["file"]:
        raise Misused("DRTP-7002", "There is nothing to connect to.", "Name a service, such as joe/postgres.")
    if len(given) > 1:
        raise Misused("DRTP-7002", f"--{given[0]} and --{given[1]} exclude each other.")
    if options["file"]:
        if options["allow_remote"]:
            how = "Write allow-remote beside the service's local."
            raise Misused("DRTP-7002", "--file says itself whom to let in.", how)
        # Late: whoever names services on the command line waits for no YAML.
        from drtp.main.datum.connect_file import places_in

        return places_in(options["file"])
    if given and len(services) > 1:
        raise Misused("DRTP-7002", f"--{given[0]} is for one service.", "Give each its port: SERVICE=PORT.")
    how = (options["local"], options["unix"], options["allow_remote"])
    places = tuple(place_of(text, *how) for text in services)
    check_apart(places)
    return places
