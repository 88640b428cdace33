"""`drtp controlplane`, `drtp pop`, `drtp gateway`: the same parts one by one, for real deployments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from drtp import __version__
from drtp.api.drtp import DRTPServerSpec, EndpointMode, ServerListener, Transport
from drtp.api.drtp import Location as Place
from drtp.api.policies import Country, Region
from drtp.api.reports import GatewayRegistration, PopRegistration
from drtp.main.commands.joining import ensure_identity, join_options, read_join, take_as_moved
from drtp.main.commands.options import (
    Location,
    OutputForm,
    Worded,
    balancers_option,
    hop_option,
    output_option,
    port_option,
)
from drtp.main.lifeline import hold_lifeline
from drtp.main.shell import Misconfigured, run_lasting, set_up_logs
from drtp.pop.settings import PopSettings

_AGENT_PORT = 443
_directory = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option(
    "--data-dir", type=_directory, envvar="DRTP_DATA_DIR", required=True, help="That of `drtp up`, or its own."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--advertise", multiple=True, help="Host name or address that others dial, the first one first.")
@port_option("api", "Port of the Kubernetes-style API.")
@port_option("edge", "Port where POPs, gateways and agents connect.")
@port_option("http", "Public HTTP port of the gateways.")
@port_option("https", "Public HTTPS and TLS port of the gateways.")
@click.option("--suffix", envvar="DRTP_SUFFIX", help="Of vended hostnames.  [default: prism.localhost]")
@hop_option
@click.option(
    "--issuers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="DRTP_ISSUERS",
    help="YAML file of the OpenID issuers to trust.  [default: issuers.yaml in the data directory, if it is there]",
)
@click.option(
    "--sign-in-url",
    envvar="DRTP_SIGN_IN_URL",
    metavar="https://NAME[:PORT]",
    help="Where browsers find the pages to sign in on.  [default: at the API's address]",
)
@click.option(
    "--sign-in-certificate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="DRTP_SIGN_IN_CERTIFICATE",
    help="PEM chain for that name, which browsers know; read again when it changes.",
)
@click.option(
    "--sign-in-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="DRTP_SIGN_IN_KEY",
    help="PEM key of that certificate.",
)
@output_option
def controlplane(
    *,
    data_dir: Path,
    host: str,
    advertise: tuple[str, ...],
    suffix: str | None,
    hop: str | None,
    issuers: Path | None,
    sign_in_url: str | None,
    sign_in_certificate: Path | None,
    sign_in_key: Path | None,
    output: OutputForm,
    **ports: int | None,
) -> int:
    """Run the control plane. In the data directory of `drtp up` it continues the one that ran there."""
    try:
        from drtp.main.controlplane import run_controlplane
        from drtp.main.settings import ControlPlaneSettings
    except ModuleNotFoundError as missing:
        raise _missing(missing) from missing
    from drtp.main.embedded.layout import Layout

    hold_lifeline()
    set_up_logs(output, quiet=False)
    layout = Layout(data_dir.absolute())
    embedded = layout.controlplane.is_dir() or layout.ports.exists()
    said: dict[str, Any] = {name: port for name, port in ports.items() if port}
    if suffix:
        said["suffix"] = suffix
    if hop:
        said["endpoint_mode"] = EndpointMode(hop)
    if advertise:
        said["names"] = advertise
    directory = layout.controlplane if embedded else layout.root
    settings = ControlPlaneSettings(
        directory=directory,
        host=host,
        issuers=issuers,
        sign_in_url=sign_in_url or "",
        sign_in_certificate=sign_in_certificate,
        sign_in_key=sign_in_key,
        **said,
    )
    return run_lasting(run_controlplane(settings))


@click.command()
@click.option("--data-dir", type=_directory, envvar="DRTP_DATA_DIR", required=True, help="Identity, snapshot, ports.")
@click.option(
    "--name", envvar="DRTP_NAME", required=True, help="Of the DRTPServer, such as worker-001-nyc-ac.pod-7f2c."
)
@click.option("--pop", "pop_name", envvar="DRTP_POP", required=True, help="Point of presence, such as nyc.")
@click.option("--failure-domain", envvar="DRTP_FAILURE_DOMAIN", help="What fails together.  [default: the POP]")
@click.option("--location", type=Location(), envvar="DRTP_LOCATION", required=True, help="Where it stands.")
@click.option(
    "--region",
    type=Worded("REGION", Region, "eu-central"),
    envvar="DRTP_REGION",
    help="The region it is in, for policies: such as eu-central.",
)
@click.option(
    "--country",
    type=Worded("CC", Country, "DE"),
    envvar="DRTP_COUNTRY",
    help="The country it is in, for policies: such as DE.",
)
@click.option(
    "--country-database",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="DRTP_COUNTRY_DATABASE",
    help="MaxMind database that says in which country visitors are, for policies.",
)
@click.option("--address", envvar="DRTP_ADDRESS", required=True, help="WAN address that agents dial.")
@click.option("--listen", multiple=True, help="Address to listen on for agents.  [default: --address]")
@click.option("--port", type=click.IntRange(0, 65535), default=_AGENT_PORT, show_default=True, help="Port for agents.")
@click.option("--quic", is_flag=True, envvar="DRTP_QUIC", help="Let agents come by QUIC too: UDP on --port.")
@click.option("--endpoint-address", multiple=True, help="Pod-network address that gateways reach endpoints at.")
@click.option("--endpoint-ports", default="20000-29999", show_default=True, help="Range for endpoints.")
@click.option(
    "--endpoint-sockets",
    type=_directory,
    envvar="DRTP_ENDPOINT_SOCKETS",
    help="Directory of its own for Unix sockets, by which gateways of this machine reach endpoints.",
)
@click.option(
    "--web-certificate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="DRTP_WEB_CERTIFICATE",
    help="PEM chain that WebSockets of agents show to networks which look into TLS.  [default: the POP's own]",
)
@click.option(
    "--web-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="DRTP_WEB_KEY",
    help="Its key, PEM.",
)
@click.option("--health-address", help="Address of the health endpoint.  [default: --address]")
@click.option("--health-port", type=click.IntRange(0, 65535), default=0, help="Port of the health endpoint.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Serve /metrics on loopback.")
@click.option(
    "--drain", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds for visitors to finish."
)
@join_options
@output_option
def pop(data_dir: Path, join_file: str | None, join_fd: int | None, output: OutputForm, **options: Any) -> int:
    """Run a tunnel server in a point of presence."""
    from drtp.pop.run import run_pop

    hold_lifeline()
    set_up_logs(output, quiet=False)
    address: str = options["address"]
    latitude, longitude = options["location"]
    settings = PopSettings(
        directory=data_dir.absolute(),
        name=options["name"],
        pop=options["pop_name"],
        latitude=latitude,
        longitude=longitude,
        server_ip=address,
        listeners=tuple(_listener(host, options["port"]) for host in options["listen"] or (address,)),
        quic=options["quic"],
        endpoint_addresses=options["endpoint_address"] or ("127.0.0.1",),
        endpoint_ports=_range(options["endpoint_ports"]),
        endpoint_sockets=options["endpoint_sockets"] and options["endpoint_sockets"].absolute(),
        web_certificate=_pair(options["web_certificate"], options["web_key"]),
        health_address=(options["health_address"] or address, options["health_port"]),
        metrics_address=None if options["metrics_port"] is None else ("127.0.0.1", options["metrics_port"]),
        failure_domain=options["failure_domain"] or options["pop_name"],
        region=options["region"],
        country=options["country"],
        country_database=options["country_database"],
        version=__version__,
        drain_s=options["drain"],
    )

    take_as_moved(settings.directory, moved=options["moved"])

    async def enrol_and_run() -> int:
        registration = _pop_registration(settings, options["port"])
        await ensure_identity(settings.directory, registration, read_join(join_file, join_fd))
        return await run_pop(
            settings, announce=lambda agents: _say(output, "ready", name=settings.name, agents=agents, pid=os.getpid())
        )

    return run_lasting(enrol_and_run())


@click.command()
@click.option("--data-dir", type=_directory, envvar="DRTP_DATA_DIR", required=True, help="Identity, snapshot, Envoy.")
@click.option("--name", envvar="DRTP_NAME", required=True, help="Of this gateway.")
@click.option("--address", multiple=True, required=True, help="Address its public listeners are reached at; repeat it.")
@click.option("--envoy", type=click.Path(exists=True, dir_okay=False, path_type=Path), envvar="ENVOY", help="Binary.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Serve /metrics on loopback.")
@click.option("--concurrency", type=click.IntRange(0), default=0, help="Envoy's threads.  [default: one for each core]")
@click.option(
    "--drain", type=click.FloatRange(0), default=5.0, show_default=True, help="Seconds for visitors to finish."
)
@click.option(
    "--pop-sockets",
    type=_directory,
    multiple=True,
    metavar="DIRECTORY",
    envvar="DRTP_POP_SOCKETS",
    help="Where POPs of this machine have their sockets (--endpoint-sockets). Without it they are reached by TLS.",
)
@click.option(
    "--conceal-visitors",
    is_flag=True,
    envvar="DRTP_CONCEAL_VISITORS",
    help="Let nobody on the way to POPs read visitors' addresses. TCP costs more then, and a dying POP may look done.",
)
@balancers_option
@join_options
@output_option
def gateway(data_dir: Path, join_file: str | None, join_fd: int | None, output: OutputForm, **options: Any) -> int:
    """Run a gateway, with Envoy under it."""
    try:
        from drtp.gateway.balancers import balancers_of
        from drtp.gateway.run import run_gateway
        from drtp.gateway.settings import GatewaySettings
    except ModuleNotFoundError as missing:
        raise _missing(missing) from missing

    hold_lifeline()
    set_up_logs(output, quiet=False)
    settings = GatewaySettings(
        directory=data_dir.absolute(),
        name=options["name"],
        addresses=options["address"],
        envoy=options["envoy"],
        metrics_port=options["metrics_port"],
        concurrency=options["concurrency"],
        drain_timeout_s=options["drain"],
        proxy_protocol_from=balancers_of(options["balancers"]),
        pop_sockets=_absolute(options["pop_sockets"]),
        conceal_visitors=options["conceal_visitors"],
    )
    registration = GatewayRegistration(name=settings.name, addresses=settings.addresses, version=__version__)

    take_as_moved(settings.directory, moved=options["moved"])

    async def enrol_and_run() -> int:
        await ensure_identity(settings.directory, registration, read_join(join_file, join_fd))
        return await run_gateway(settings, announce=lambda event, envoy: _say(output, event, pid=envoy))

    return run_lasting(enrol_and_run())


def _say(output: OutputForm, event: str, **what: Any) -> None:
    """An event for whoever started this part and reads its output; people read the log."""
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode({"event": event, **what}).decode())


def _pop_registration(settings: PopSettings, port: int) -> PopRegistration:
    """What a POP says of itself before it runs; the ports are said again, as bound, at each connect."""
    return PopRegistration(
        name=settings.name,
        spec=DRTPServerSpec(
            pop=settings.pop,
            location=Place(latitude=settings.latitude, longitude=settings.longitude),
            server_ip=settings.server_ip,
            listeners=(ServerListener(transport=Transport.TLS, port=port or _AGENT_PORT),),
            failure_domain=settings.failure_domain,
            region=settings.region,
            country=settings.country,
        ),
        version=settings.version,
    )


def _listener(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _pair(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise Misconfigured("DRTP-7013", "--web-certificate and --web-key go together.", "Give both, or neither.")
    return certificate, key


def _range(written: str) -> tuple[int, int]:
    first, _, last = written.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise Misconfigured("DRTP-7013", f"--endpoint-ports {written} is not FIRST-LAST.", "Such as 20000-29999.")
    return int(first), int(last)


def _absolute(directories: tuple[Path, ...]) -> tuple[Path, ...]:
    for directory in directories:
        if not directory.is_absolute():
            raise Misconfigured("DRTP-5022", f"--pop-sockets {directory} is not an absolute path.", "Write it whole.")
    return directories


def _missing(module: ModuleNotFoundError) -> Exception:
    """Server parts are extras; a module of our own that is missing is a fault to be seen."""
    if (module.name or "").startswith("drtp"):
        return module
    return Misconfigured("DRTP-7017", f"The module {module.name} is not installed here.")
