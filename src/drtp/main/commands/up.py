"""`drtp up`."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import click
import msgspec

from drtp.kit.clock import SystemClock
from drtp.kit.errors import Invalid
from drtp.main.commands.options import (
    OutputForm,
    balancers_option,
    hop_option,
    moved_option,
    output_option,
    port_option,
)
from drtp.main.embedded.announce import Announcement
from drtp.main.embedded.parts import DRAIN_S, HOST, USUAL_HOP
from drtp.main.embedded.up import UpSettings, run_up
from drtp.main.shell import run_lasting, set_up_logs


@click.command(short_help="Run everything on this machine.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DRTP_DATA_DIR",
    required=True,
    help="Where everything is kept. Each instance has its own.",
)
@port_option("http", "Public HTTP port of the gateway.")
@port_option("https", "Public HTTPS and TLS port of the gateway.")
@port_option("api", "Port of the Kubernetes-style API.")
@port_option("edge", "Port where POPs, gateways and agents reach the control plane.")
@port_option("pop-1", "Port where agents reach the first POP.")
@port_option("pop-2", "Port where agents reach the second POP.")
@click.option(
    "--suffix", envvar="DRTP_SUFFIX", default="prism.localhost", show_default=True, help="Of vended hostnames."
)
@click.option(
    "--no-restart",
    multiple=True,
    metavar="NAME",
    help="Leave this part dead when it dies: controlplane, pop, pop-1, gateway, hello, or a POP's server name.",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0),
    default=DRAIN_S,
    show_default=True,
    help="Seconds for visitors to finish, of each part that stops or is restarted.",
)
@balancers_option
@hop_option
@moved_option
@output_option
def up(
    *,
    data_dir: Path,
    suffix: str,
    no_restart: tuple[str, ...],
    drain_s: float,
    balancers: tuple[str, ...],
    hop: str | None,
    moved: bool,
    output: OutputForm,
    **ports: int | None,
) -> int:
    """Run everything on this machine: control plane, two POPs, gateway with Envoy, a hello service.

    The hello service's address is printed on stdout when everything is ready, what to type next on stderr. Ctrl-C
    stops all of it; a second start has the same ports, names and identities.
    """
    set_up_logs(output, quiet=output is OutputForm.TEXT)
    settings = UpSettings(
        directory=data_dir,
        asked={name.removesuffix("_port").replace("_", "-"): port for name, port in ports.items()},
        no_restart=no_restart,
        suffix=suffix,
        proxy_protocol_from=_balancers(balancers) if balancers else (),
        hop=hop or USUAL_HOP,
        moved=moved,
        drain_s=drain_s,
    )

    def announce(ready: Announcement) -> None:
        if output is OutputForm.JSON:
            click.echo(msgspec.json.encode(ready.event()).decode())
        else:
            click.echo(ready.hello)
            click.echo(ready.words(), err=True)

    if output is OutputForm.TEXT:
        click.echo(f"Starting in {data_dir} ...", err=True)
    return run_lasting(run_up(settings, announce, SystemClock()))


def _balancers(written: tuple[str, ...]) -> tuple[str, ...]:
    """Checked. Raises: Invalid DRTP-5040, also where loopback is not among them: everything here listens there."""
    from drtp.gateway.balancers import balancers_of

    networks = balancers_of(written)
    if not any(ip_address(HOST) in ip_network(network) for network in networks):
        raise Invalid(
            "DRTP-5040", f"{HOST}, where a balancer of this machine comes from, is not in {', '.join(written)}."
        )
    return networks
