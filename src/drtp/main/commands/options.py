"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import click


class OutputForm(Enum):
    """How a command speaks: to people, or in JSON lines on stdout."""

    TEXT = "text"
    JSON = "json"


class _OutputChoice(click.Choice[str]):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text to `OutputForm`."""
        return value if isinstance(value, OutputForm) else OutputForm(super().convert(value, param, ctx))


output_option = click.option(
    "--output",
    "-o",
    "output",
    type=_OutputChoice([form.value for form in OutputForm]),
    default=OutputForm.TEXT.value,
    envvar="DRTP_OUTPUT",
    help="json: one event a line, for scripts.",
)


def port_option(name: str, words: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--<name>-port N`, also from `DRTP_<NAME>_PORT`."""
    variable = f"DRTP_{name.upper().replace('-', '_')}_PORT"
    return click.option(
        f"--{name}-port", type=click.IntRange(0, 65535), envvar=variable, help=f"{words} 0 picks a free one."
    )


moved_option = click.option(
    "--moved", is_flag=True, help="The state directory was moved here, and the original is gone: take it as it is."
)

balancers_option = click.option(
    "--proxy-protocol-from",
    "balancers",
    multiple=True,
    metavar="CIDR",
    envvar="DRTP_PROXY_PROTOCOL_FROM",
    help="Load balancers in front, which say by PROXY header whose connection it is. Nobody else is let in. Repeat it.",
)


hop_option = click.option(
    "--hop",
    type=click.Choice(["mtls", "unix"]),
    envvar="DRTP_HOP",
    help="How gateways reach POPs: by mutual TLS, or over a Unix socket those of their own machine.",
)


class Worded(click.ParamType[str]):
    """A word of the API's, such as a country's code: what the API would refuse is refused here."""

    def __init__(self, name: str, kind: Any, such_as: str) -> None:
        self.name = name
        self._kind = kind
        self._such_as = such_as

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it against the field's own type."""
        import msgspec

        try:
            return msgspec.convert(value, self._kind)
        except msgspec.ValidationError:
            self.fail(f"{value!r} is none; one is such as {self._such_as}.", param, ctx)


class Location(click.ParamType[tuple[str, str]]):
    """`LAT,LON` in signed decimal degrees, kept as the strings that were given."""

    name = "LAT,LON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Check the bounds."""
        if isinstance(value, tuple):
            return value  # pyright: ignore[reportUnknownVariableType] - click calls twice, the second time with our own
        latitude, _, longitude = str(value).partition(",")
        try:
            fine = abs(float(latitude)) <= 90 and abs(float(longitude)) <= 180
        except ValueError:
            fine = False
        if not fine:
            self.fail(f"{value!r} is not latitude,longitude, such as 40.71,-74.01.", param, ctx)
        return latitude.strip(), longitude.strip()
