"""The live screen of `connect`: where each service is presented, tunnel servers, traffic."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from drtp.agent.connectview import ConnectorView, PortView
from drtp.agent.view import AgentPhase
from drtp.api.drtp import Protocol
from drtp.kit.errors import DrtpError
from drtp.kit.observe import printable
from drtp.main.datum.connect_speaker import Event
from drtp.main.datum.screen import pops_table, row
from drtp.main.datum.speaker import to_stdout
from drtp.main.datum.tables import size
from drtp.main.shell import no_colour_wanted


class ScreenConnectForm:
    """Redraws as views come; stdout gets each local address once, so that it can be copied."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, no_color=no_colour_wanted(), highlight=False)
        self._live = self._begin()

    def ready(self, event: Event) -> None:
        """The place above the screen."""
        self._live.stop()
        to_stdout(event["local"])
        # A new one: the former would take the address for a line of its own, and wipe it.
        self._live = self._begin()

    def say(self, event: Event) -> None:
        """A refused connection is a line above the screen; the rest the screen shows itself."""
        if event["event"] == "refused":
            line = f"{event['code']}: a connection to {event['service']} ended: {event['message']}."
            self._console.print(Text(printable(line), style="yellow"))

    def show(self, view: ConnectorView) -> None:
        """Draw."""
        self._live.update(picture(view, self._console.width), refresh=True)

    def failed(self, error: DrtpError) -> None:
        """The shell's door says it, below the screen."""

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def _begin(self) -> Live:
        live = Live(console=self._console, transient=True, auto_refresh=False)
        live.start()
        return live


def picture(view: ConnectorView, width: int) -> RenderableType:
    """Everything as one block of `width` columns."""
    parts: list[RenderableType] = [line for port in view.ports for line in _port_lines(port)]
    closing = view.phase in {AgentPhase.DRAINING, AgentPhase.STOPPED}
    if view.feed.state == "Down" and not closing:
        parts.append(row("Control", f"unreachable, connections go on. {view.feed.message}", "yellow"))
    if view.local_url:
        parts.append(row("Inspect", view.local_url))
    if view.pops:
        parts += [Text(), pops_table(view.pops, width)]
    words = "Letting connections finish; Ctrl-C again ends now." if closing else "Ctrl-C stops."
    return Group(*parts, Text(), Text(words, style="dim"))


def _port_lines(port: PortView) -> list[RenderableType]:
    traffic = f"{port.streams} open, {port.streams_total} in all"
    if port.denied_total:
        traffic += f", {port.denied_total} refused"
    is_udp = port.protocol is Protocol.UDP
    datagrams = f"out {port.datagrams_in:,}, in {port.datagrams_out:,}, dropped {port.datagrams_dropped:,}"
    return [
        row("Presenting", f"{port.service} at {port.local or '-'}{' (UDP)' * is_udp}", "bold"),
        row("Status", "ready, encrypted from end to end", "green")
        if port.ready
        else row("Status", f"{port.code}: {port.message}" if port.code else "starting", "yellow"),
        row("Traffic", f"{traffic}; out {size(port.bytes_in)}, in {size(port.bytes_out)}"),
        *([row("Datagrams", datagrams)] if is_udp else []),
    ]
