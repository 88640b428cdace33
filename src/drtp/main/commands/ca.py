"""`drtp ca status|rotate|step|rollback`: the internal authority of a running control plane."""

from __future__ import annotations

import asyncio
import getpass
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from drtp.main.commands.options import OutputForm, output_option
from drtp.main.embedded.layout import operator_socket_of
from drtp.main.embedded.operator_client import OperatorClient
from drtp.main.shell import Misused

_SPAN = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_STEPS = {
    "Init": "edges learn to trust both roots",
    "UpdateClients": "edges and people get certificates under the next root",
    "UpdateServers": "the control plane's doors are under the next root",
}

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DRTP_DATA_DIR",
    required=True,
    help="That of the control plane.",
)


@click.group()
def ca() -> None:
    """Look after the internal certificate authority."""


@ca.command()
@_data_dir
@output_option
def status(data_dir: Path, output: OutputForm) -> None:
    """Show roots and intermediates, and what a rotation waits for."""
    _tell(_call(data_dir, "GET"), output)


@ca.command(short_help="Make new intermediates, or a new root.")
@_data_dir
@click.option("--root", is_flag=True, help="The root too, step by step, while everybody works.")
@click.option(
    "--hold",
    default="24h",
    show_default=True,
    metavar="SPAN",
    help="Time for people and unspent secrets before the doors change: 30m, 24h, 7d.",
)
@click.option(
    "--compromised",
    is_flag=True,
    help="Somebody may have the former root's key: no time is given, and once gone it vouches for nothing.",
)
@output_option
def rotate(data_dir: Path, *, root: bool, hold: str, compromised: bool, output: OutputForm) -> None:
    """Make new intermediates, which issue at once; edges replace their certificates within minutes."""
    if not root:
        if compromised:
            raise Misused("DRTP-7002", "--compromised is about the root.", "Say --root as well.")
        _tell(_call(data_dir, "POST", {"do": "intermediates"}), output)
        return
    ask: dict[str, Any] = {"do": "rotate", "holdS": 0 if compromised else int(_span(hold).total_seconds())}
    _tell(_call(data_dir, "POST", ask | ({"graceS": 0} if compromised else {})), output)


@ca.command()
@_data_dir
@click.option("--force", is_flag=True, help="Without the edges and the time that are waited for: they are cut off.")
@output_option
def step(data_dir: Path, *, force: bool, output: OutputForm) -> None:
    """Take the rotation's next step now, not when its time has come."""
    _tell(_call(data_dir, "POST", {"do": "step", "force": force}), output)


@ca.command(short_help="Return to the former root.")
@_data_dir
@output_option
def rollback(data_dir: Path, output: OutputForm) -> None:
    """Return to the former root; the next one is left as soon as no edge rests on it."""
    _tell(_call(data_dir, "POST", {"do": "rollback"}), output)


def _call(data_dir: Path, method: str, ask: dict[str, Any] | None = None) -> dict[str, Any]:
    body = None if ask is None else ask | {"by": _who()}
    return asyncio.run(OperatorClient(operator_socket_of(data_dir)).call(method, "/v1/authority", body))


def _who() -> str:
    try:
        return f"operator {getpass.getuser()}"
    except (KeyError, OSError):
        return "operator"


def _span(text: str) -> timedelta:
    if (found := _SPAN.fullmatch(text)) is None:
        raise Misused("DRTP-7002", f"{text!r} is no span of time.", "Say 30m, 24h or 7d.")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _tell(state: dict[str, Any], output: OutputForm) -> None:
    if output is OutputForm.JSON:
        click.echo(msgspec.json.encode(state).decode())
        return
    from drtp.main.datum.tables import table

    roots = [(one["number"], _role(state, one), one["ends"][:10], one["pin"]) for one in state["roots"]]
    click.echo(table(("root", "is", "ends", "pin"), roots))
    click.echo()
    rows = [(one["usage"], one["number"], one["ends"][:10]) for one in state["intermediates"]]
    click.echo(table(("intermediate", "number", "ends"), rows))
    if state["phase"] == "Standby":
        return
    click.echo(f"\n{state['phase']}: {_STEPS[state['phase']]}. Next step not before {state['notBefore'][:19]}.")
    if state["behind"]:
        behind = [(one["role"], one["name"] or one["uid"], one["why"], one["until"][:19]) for one in state["behind"]]
        click.echo(table(("waits for", "name", "which", "until at most"), behind))


def _role(state: dict[str, Any], root: dict[str, Any]) -> str:
    if root["number"] == state["active"]:
        return "active"
    if root["number"] == state["next"]:
        return "next"
    return f"left, vouches until {root['vouchesUntil'][:16]}" if root["vouchesUntil"] else "left"
