"""`drtp drain, join, kubeconfig`: the operator's calls to a running control plane, over its socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
import msgspec

from drtp.api.people import SYSTEM_MASTERS
from drtp.kit.secret import Secret
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.embedded.layout import operator_socket_of
from drtp.main.embedded.operator_client import OperatorClient
from drtp.main.shell import until

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DRTP_DATA_DIR",
    required=True,
    help="That of the control plane.",
)


@click.command(short_help="Take a tunnel server out of use.")
@click.argument("server")
@_data_dir
@click.option("--back", is_flag=True, help="Take it back into use.")
def drain(server: str, data_dir: Path, *, back: bool) -> None:
    """Take the tunnel server SERVER out of use: its agents move elsewhere, then it can be stopped."""
    _call(data_dir, "/v1/drain", {"server": server, "drain": not back})
    click.echo(f"{server} {'is in use again' if back else 'takes no new connections'}", err=True)


@click.command(short_help="Make the string that a POP or gateway joins with.")
@click.argument("role", type=click.Choice(["pop", "gateway"]))
@click.argument("name")
@_data_dir
@click.option("--lifetime", type=click.IntRange(1, 1440), default=30, show_default=True, help="Minutes.")
@click.option("--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="Parts that may use it.")
@output_option
def join(role: str, name: str, *, data_dir: Path, lifetime: int, uses: int, output: OutputForm) -> None:
    """Make the one-time string with which the POP or gateway NAME joins; it is printed on stdout alone."""
    ask = {"role": role, "name": name, "lifetimeS": lifetime * 60, "uses": uses}
    made = _call(data_dir, "/v1/secrets", ask)
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(made).decode())
        return
    click.echo(made["secret"])
    click.echo(
        f"Good until {until(made['expiresAt'])}. Give it to `drtp {role} --name {name} --join-file -`.", err=True
    )


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_data_dir
@click.option("--name", default="operator", show_default=True, help="Whose it is, as the audit log names them.")
@click.option("--days", type=click.IntRange(1, 365), default=30, show_default=True, help="How long it is good.")
def kubeconfig(file: Path, data_dir: Path, *, name: str, days: int) -> None:
    """Write an operator's kubeconfig to FILE.

    It is for kubectl and for `datumctl --context FILE`, and may do everything: keep it safe.
    """
    # Late: the other commands need no YAML.
    from drtp.client.context import Context, save_kubeconfig

    facts = _call(data_dir, "/v1/access")
    ask = {"name": name, "namespaces": ["default"], "groups": [SYSTEM_MASTERS], "lifetimeS": days * 86400}
    token = Secret(str(_call(data_dir, "/v1/tokens", ask)["token"]))
    ca = str(facts["ca"]).encode()
    save_kubeconfig(file, Context(api=str(facts["api"]), ca_pem=ca, namespace="default", token=token))
    click.echo(f"{file} is good for {days} days, for kubectl and `datumctl --context {file}`.", err=True)


def _call(data_dir: Path, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return asyncio.run(
        OperatorClient(operator_socket_of(data_dir)).call("GET" if body is None else "POST", target, body)
    )
