"""`datumctl serve`: the command line. What it does is in `serving.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from drtp.agent.settings import PORTS_TRIED, LocalAddress
from drtp.client.joining import EdgeAddress
from drtp.kit.secret import Secret
from drtp.main.commands.options import Location, OutputForm, moved_option, output_option
from drtp.main.datum.hidden_secret import SECRET_FD_OPTION, read_descriptor
from drtp.main.datum.invocation import Invocation, context_option, proxy_option
from drtp.main.datum.serve_request import ServeRequest, ServeSettings, check, networks
from drtp.main.shell import Misused, run_lasting

INSPECTOR = LocalAddress("127.0.0.1", 4040, PORTS_TRIED)
"""Where ngrok's users look; the next free port if it is taken."""


@click.command(short_help="Give a local service a public address.")
@click.argument("target", required=False)
@context_option
@click.option("--name", envvar="DRTP_NAME", help="Name of the service; else made of machine and target.")
@click.option("--service", envvar="DRTP_SERVICE", help="Serve a service that is defined already, NAME or PROJECT/NAME.")
@click.option("--namespace", "-n", envvar="DRTP_NAMESPACE", help="Project to serve in; else the context's.")
@click.option("--hostname", help="Public host name, for HTTP and TLS; else one is vended.")
@click.option("--port", type=click.IntRange(1, 65535), help="Public port, for TCP and UDP; else one is vended.")
@click.option("--address", help="Public address, for TCP and UDP: one of the operator's pool.")
@click.option(
    "--allow", multiple=True, metavar="CIDR", help="Who may visit; repeat it. Without it: anyone. UDP needs it."
)
@click.option(
    "--proxy-protocol",
    type=click.Choice(["v1", "v2", "none"]),
    help="Tell the local service each visitor's address in a PROXY header.",
)
@click.option("--host-header", help="Host header that the local HTTP service gets.")
@click.option("--wait-for-enable", is_flag=True, help="Not reachable until somebody runs `datumctl enable`.")
@click.option("--no-expose", is_flag=True, help="No public listener.")
@click.option("--location", type=Location(), envvar="DRTP_LOCATION", help="Where this machine is: nearer POPs first.")
@click.option("--once", is_flag=True, help="Give up (exit 69) at the first failure, or when not ready within 30 s.")
@click.option("--secret", help="One-time secret. Better: --secret-file, DRTP_SECRET, or --secret-file - for stdin.")
@click.option("--secret-file", type=click.Path(allow_dash=True, dir_okay=False), help="File with the one-time secret.")
@click.option(
    "--identity-token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="DRTP_IDENTITY_TOKEN_FILE",
    help="File with an ID token of this workload, such as Kubernetes projects one: enrols without a secret.",
)
@click.option(
    "--control-plane",
    envvar="DRTP_CONTROL_PLANE",
    metavar="HOST:PORT#PIN",
    help="Where to enrol, where no context says it: `datumctl auth control-plane` prints it.",
)
@click.option(SECRET_FD_OPTION, type=int, hidden=True)
@click.option(
    "--trust",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file: what to trust at an https:// target, its own certificate or the authority behind it.",
)
@click.option("--allow-target", is_flag=True, help="Accept the local target that the service definition names.")
@click.option(
    "--state-dir", type=click.Path(file_okay=False, path_type=Path), help="Where identity and state are kept."
)
@moved_option
@click.option(
    "--drain", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds for visitors to finish."
)
@click.option(
    "--transport",
    type=click.Choice(["tcp", "quic"]),
    default="tcp",
    envvar="DRTP_TRANSPORT",
    show_default=True,
    help="quic: for paths that lose packets; tunnel servers without it are reached by TCP.",
)
@proxy_option
@click.option(
    "--inspector",
    metavar="ADDR:PORT",
    help="Local status pages.  [default: 127.0.0.1:4040, or the next free]",
)
@click.option("--no-inspector", is_flag=True, help="No local status pages.")
@click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Several services, from YAML: `services: [{target: 8080, name: web}, …]`, members named as the options. "
    "SIGHUP reads it again.",
)
@output_option
def serve(target: str | None, file: Path | None, output: OutputForm, **options: Any) -> int:
    """Make TARGET reachable: 8080, localhost:8080, http://…, https://…, tcp://localhost:5432, tls://…, udp://localhost:53

    The address is printed on stdout as soon as it can be reached. Ctrl-C lets visitors finish and stops; what is
    reserved (name, host name, port) stays for the next start.
    """
    from drtp.main.datum.serve_file import requests_in
    from drtp.main.datum.serving import run_serve

    if file and target:
        raise Misused("DRTP-7002", "A file and a target were given.", "Write the target into the file, or drop --file.")
    requests = requests_in(file) if file else (_request(target, options),)
    settings = ServeSettings(
        requests=requests,
        file=file,
        secret=secret_of(options),
        identity_token=options["identity_token_file"],
        control_plane=_control_plane(options["control_plane"]),
        state_dir=options["state_dir"],
        location=options["location"],
        once=options["once"],
        allow_target=options["allow_target"],
        moved=options["moved"],
        drain_s=options["drain"],
        quic=options["transport"] == "quic",
        inspector=_inspector(options),
        output=output,
    )
    return run_lasting(run_serve(settings, Invocation.current()))


def _request(target: str | None, options: dict[str, Any]) -> ServeRequest:
    from drtp.main.datum.definition import proxy_protocol
    from drtp.main.datum.naming import default_name
    from drtp.main.datum.target import parse_target

    parsed = parse_target(target) if target else None
    service, namespace = _service(options)
    if parsed is None and service is None and not _has_secret(options):
        raise Misused("DRTP-7002", "There is nothing to serve.", "Name a target, such as localhost:8080.")
    name: str = (
        service or options["name"] or (default_name(parsed.written) if parsed and not _has_secret(options) else "")
    )
    return check(
        ServeRequest(
            name=name,
            namespace=namespace,
            target=parsed,
            predefined=service is not None or _has_secret(options),
            hostname=options["hostname"],
            port=options["port"],
            address=options["address"],
            allow=networks(options["allow"]),
            proxy_protocol=proxy_protocol(options["proxy_protocol"]),
            host_header=options["host_header"],
            expose=not options["no_expose"],
            wait_for_enable=options["wait_for_enable"],
            trust=options["trust"],
        )
    )


def _control_plane(written: str | None) -> EdgeAddress | None:
    from drtp.client.joining import parse_edge

    return parse_edge(written) if written else None


def _service(options: dict[str, Any]) -> tuple[str | None, str | None]:
    """Name and project of `--service NAME` or `PROJECT/NAME`, as far as they are said."""
    from drtp.main.datum.naming import in_project

    written: str | None = options["service"]
    if written is None:
        return None, options["namespace"]
    project, name = in_project(written, options["namespace"], "")
    return name, project or None


def _has_secret(options: dict[str, Any]) -> bool:
    ways = (options["secret"], options["secret_file"], options["secret_fd"], os.environ.get("DRTP_SECRET"))
    return any(way is not None for way in ways)


def secret_of(options: dict[str, Any]) -> Secret[str] | None:
    """From wherever it was given; the variable is taken out of the environment. Raises: Misused (DRTP-7010)."""
    from_environment = os.environ.pop("DRTP_SECRET", None)
    path: str | None = options["secret_file"]
    try:
        if options.get("secret_fd") is not None:
            text = read_descriptor(options["secret_fd"])
        elif path == "-":
            text = sys.stdin.readline().strip()
        elif path is not None:
            text = Path(path).read_text(encoding="utf-8").strip()
        elif options.get("secret") is not None:
            text = options["secret"]
        else:
            text = from_environment
    except (OSError, UnicodeDecodeError) as fault:
        if isinstance(fault, FileNotFoundError) and _is_enrolled(options["state_dir"]):
            return None  # spent, and deleted: a restart needs none
        raise Misused("DRTP-7010", f"The secret cannot be read: {fault}.") from fault
    if text == "":
        raise Misused("DRTP-7010", "The secret is empty.")
    return None if text is None else Secret(text)


def _is_enrolled(state_dir: Path | None) -> bool:
    from drtp.main.datum.enrolling import has_identity

    return state_dir is not None and has_identity(state_dir)


def _inspector(options: dict[str, Any]) -> LocalAddress | None:
    if options["no_inspector"]:
        return None
    written: str | None = options["inspector"]
    if written is None:
        return INSPECTOR
    host, _, port = written.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise Misused("DRTP-7002", f"--inspector {written} is not address:port.", "Such as 127.0.0.1:4040.")
    return LocalAddress(host.strip("[]") or "127.0.0.1", int(port))
