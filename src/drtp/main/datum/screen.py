"""The live screen of `serve`: addresses, tunnel servers, traffic, the last visitors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from drtp.agent.view import AgentPhase, AgentView, LocalView, PopView, ServiceView
from drtp.api.drtp import ClientStatus
from drtp.api.reports import LocalState
from drtp.kit.errors import DrtpError
from drtp.kit.observe import printable
from drtp.main.datum.blockers import Blocker
from drtp.main.datum.changes import Event, addresses_of, server_name
from drtp.main.datum.tables import size
from drtp.main.shell import no_colour_wanted

_FLOWS_SHOWN = 8
_NAME_MIN = 18
"""Of a name: where it had less, the columns that one can live without are left out."""
_GAP = 2
"""Between two columns."""

_LABEL = 11
"""Columns of the words on the left."""

_COLOURS = {
    ClientStatus.CONNECTED: "green",
    ClientStatus.CONNECTING: "yellow",
    ClientStatus.WAITING: "yellow",
    ClientStatus.DISCONNECTED: "red",
}


class ScreenForm:
    """Redraws at most a few times a second; stdout gets each address once, so that it can be piped and copied."""

    def __init__(self, targets: Mapping[str, str], console: Console | None = None) -> None:
        self._targets = targets
        self._console = console or Console(stderr=True, no_color=no_colour_wanted(), highlight=False)
        self._live = self._begin()
        self._served = False

    def ready(self, event: Event) -> None:
        """The address above the screen."""
        from drtp.main.datum.speaker import to_stdout

        if event["address"]:
            self._live.stop()
            to_stdout(event["address"])
            # A new one: the former would take the address for a line of its own, and wipe it.
            self._live = self._begin()
            self._served = True

    def changed(self, event: Event) -> None:
        """The screen shows the state itself."""

    def measured(self, event: Event) -> None:
        """The screen shows the figures themselves."""

    def show(self, view: AgentView) -> None:
        """Draw."""
        self._live.update(picture(view, self._targets, self._console.width), refresh=True)

    def waiting(self, event: Event) -> None:
        """The screen shows the state itself."""

    def blocked(self, blocker: Blocker) -> None:
        """The screen shows the state itself."""

    def retrying(self, error: DrtpError, after_s: float) -> None:
        """One line above the screen."""
        line = f"{error.code}: {error.what} Trying again in {after_s:.0f} s."
        self._console.print(Text(printable(line), style="yellow"))

    def failed(self, error: DrtpError) -> None:
        """The shell's door says it, below the screen."""

    def undone(self, event: Event) -> None:
        """One line above the screen, which stays."""
        words = f"{event['service']} never was ready and is deleted again."
        if "delete" in event:
            words = f"{event['service']} stays, though it never was ready: {event['delete']}"
        self._console.print(Text(printable(words), style="dim"))

    def close(self) -> None:
        """Leave the terminal as it was, with the addresses on it."""
        self._live.stop()
        if self._served:
            words = "Stopped. Name and address stay reserved; the same command serves them again."
            self._console.print(Text(words, style="dim"))

    def _begin(self) -> Live:
        live = Live(console=self._console, transient=True, auto_refresh=False)
        live.start()
        return live


def picture(view: AgentView, targets: Mapping[str, str], width: int) -> RenderableType:
    """Everything as one block of `width` columns."""
    parts: list[RenderableType] = []
    for service in view.services:
        parts += _service_lines(service, targets.get(service.name, service.local.target), width)
    if not view.services:
        parts.append(row("Status", view.feed.message or "connecting to the control plane", "yellow"))
    closing = view.phase in {AgentPhase.DRAINING, AgentPhase.STOPPED}
    if view.feed.state == "Down" and not closing:
        parts.append(row("Control", f"unreachable, visitors go on. {view.feed.message}", "yellow"))
    if view.local_url:
        parts.append(row("Inspect", view.local_url))
    if view.pops:
        parts += [Text(), pops_table(view.pops, width)]
    if view.flows:
        parts += [Text(), _flows(view, width)]
    parts += [
        Text(),
        Text("Letting visitors finish; Ctrl-C again ends now." if closing else "Ctrl-C stops.", style="dim"),
    ]
    return Group(*parts)


def _service_lines(service: ServiceView, target: str, width: int) -> list[RenderableType]:
    from drtp.main.datum.speaker import waiting_words

    lines: list[RenderableType] = []
    for address in addresses_of(service):
        fits = _LABEL + len(address) + len(target) + 4 <= width
        lines.append(row("Forwarding", f"{address} -> {target}" if fits else address, "bold"))
        if not fits:
            lines.append(row("", f"-> {target}", "bold"))
    lines = lines or [row("Serving", f"{service.namespace}/{service.name} -> {target}", "bold")]
    if service.ready:
        lines.append(row("Status", "ready", "green"))
    else:
        lines.append(row("Status", waiting_words(service), "yellow"))
    lines.append(_local_line(service))
    rates = service.rates
    lines.append(
        row(
            "Visitors",
            f"{service.streams} open, {service.streams_total} in all"
            + (f", {service.denied_total} denied" if service.denied_total else "")
            + f"; in {size(rates.bytes_in_per_s)}/s, out {size(rates.bytes_out_per_s)}/s",
        )
    )
    return lines


def _local_line(service: ServiceView) -> Text:
    local = service.local
    if local.state is LocalState.REACHABLE:
        took = "" if local.connect_ms is None else f", connects in {local.connect_ms:.1f} ms ±{local.jitter_ms:.1f}"
        return row("Local", f"{local.target} reachable{took}{_failures(local)}", "green")
    if local.state is LocalState.UNREACHABLE:
        return row("Local", f"{local.target}: {local.message or 'unreachable'}{_failures(local)}", "red")
    return row("Local", f"{local.target} not tried yet")


def _failures(local: LocalView) -> str:
    return f", {local.failures_total} failed" if local.failures_total else ""


def pops_table(pops: Iterable[PopView], width: int) -> Table:
    """One line for each tunnel server."""
    whole: list[tuple[Text, ...]] = []
    for pop in pops:
        state = Text(pop.state.value, style=_COLOURS.get(pop.state, ""))
        name, role = Text(printable(server_name(pop))), Text(pop.role.value)
        whole.append((name, role, state, *map(Text, _measures(pop))))
    return _fitting(("POP", "Role", "State", *_MEASURED), whole, (0, 2, 3), width)


_MEASURED = ("Round trip", "Floor", "Jitter", "Loss")
_NUMBERS = (*_MEASURED, "In", "Out", "Took")


def _measures(pop: PopView) -> tuple[str, ...]:
    if pop.round_trip_ms is None:
        return tuple("-" for _ in _MEASURED)
    millis = (pop.round_trip_ms, pop.round_trip_floor_ms, pop.jitter_ms)
    return (*map(_millis, millis), f"{pop.loss * 100:.1f} %")


def _flows(view: AgentView, width: int) -> Table:
    whole: list[tuple[Text, ...]] = []
    for flow in reversed(view.flows[-_FLOWS_SHOWN:]):
        numbers = (size(flow.bytes_in), size(flow.bytes_out), _millis(flow.duration_ms))
        words = (flow.caller or flow.visitor, flow.service, *numbers, str(flow.outcome))
        whole.append(tuple(Text(printable(word)) for word in words))
    return _fitting(("Last visitors", "Service", "In", "Out", "Took", "End"), whole, (0, 2, 3, 4), width)


def _fitting(titles: Sequence[str], rows: Sequence[Sequence[Text]], chosen: Sequence[int], width: int) -> Table:
    """A table of `width` columns in which only the first column's words are ever cut.

    Where that would leave them too little room the `chosen` columns alone are shown, the first among them.
    """
    natural = [max(cell_len(title), *(row[at].cell_len for row in rows), 0) for at, title in enumerate(titles)]
    shown: Sequence[int] = range(len(titles))
    if _room(natural, shown, width) < min(natural[0], _NAME_MIN):
        shown = chosen
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim")
    table.add_column(titles[0], overflow="ellipsis", no_wrap=True, max_width=max(1, _room(natural, shown, width)))
    for at in shown[1:]:
        justify = "right" if titles[at] in _NUMBERS else "left"
        table.add_column(titles[at], justify=justify, no_wrap=True, width=natural[at])
    for row in rows:
        table.add_row(*(row[at] for at in shown))
    return table


def _room(natural: Sequence[int], shown: Sequence[int], width: int) -> int:
    """What the first column has left."""
    return width - sum(natural[at] + _GAP for at in shown[1:])


def row(label: str, words: str, style: str = "") -> Text:
    """A label on the left, what is so on the right."""
    return Text(f"{label:<{_LABEL}}", style="dim", no_wrap=False).append(printable(words), style=style or "not dim")


def _millis(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
