"""How `connect` speaks: JSON events for scripts, lines for logs. stdout carries the local addresses, or the events."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Any, Self
from typing import Protocol as Interface

import msgspec

from drtp.agent.connectview import ConnectorView, PortView
from drtp.api.drtp import ClientStatus, Protocol
from drtp.kit.errors import DrtpError
from drtp.kit.observe import configure_logs, logger
from drtp.main.commands.options import OutputForm
from drtp.main.datum.speaker import for_people, to_stdout
from drtp.main.shell import set_up_logs

log = logger("connect")

Event = dict[str, Any]

ORDERLY = frozenset({"finished", "reset by the other end", "going away", "idle"})
"""Ends of connections that are the two programs' own affair."""
REFUSED = "DRTP-4063"
NOT_YET = "DRTP-4066"
_CODES = {
    "end-to-end encryption broke": "DRTP-4065",
    "the other end is too old for UDP": "DRTP-4070",
    "malformed datagram": "DRTP-4071",
}
"""Of other ends, by the core's words."""


class ConnectForm(Interface):
    """One way of speaking."""

    def ready(self, event: Event) -> None:
        """A service is presented, for the first time."""
        ...

    def say(self, event: Event) -> None:
        """Something has changed."""
        ...

    def show(self, view: ConnectorView) -> None:
        """The newest state as a whole."""
        ...

    def failed(self, error: DrtpError) -> None:
        """It ends with this error, which the shell's door prints for people."""
        ...

    def close(self) -> None:
        """Nothing more will be said."""
        ...


class _Plain:
    """What forms have in common that say things one by one."""

    def show(self, view: ConnectorView) -> None:
        """Events say it."""

    def failed(self, error: DrtpError) -> None:
        """The shell's door says it."""

    def close(self) -> None:
        """Nothing to do."""


class JsonConnectForm(_Plain):
    """One JSON object a line on stdout."""

    def ready(self, event: Event) -> None:
        """As it is."""
        self.say(event)

    def say(self, event: Event) -> None:
        """As it is."""
        to_stdout(msgspec.json.encode(event).decode())

    def failed(self, error: DrtpError) -> None:
        """The last event."""
        self.say({"event": "error", "code": error.code, "message": error.what, "remedy": error.remedy})


class LineConnectForm(_Plain):
    """Local addresses on stdout, logfmt lines on stderr."""

    def ready(self, event: Event) -> None:
        """The place alone on its line."""
        to_stdout(event["local"])
        self.say(event)

    def say(self, event: Event) -> None:
        """One line."""
        shown = for_people(event)
        log.info(str(shown.pop("event")), **shown)


class QuietConnectForm(_Plain):
    """With `--stdio` stdout is the connection's, and only what goes wrong is said."""

    def ready(self, event: Event) -> None:
        """Nothing: the connection itself shows it."""

    def say(self, event: Event) -> None:
        """What has a code is an obstacle, but for what passes by itself: not to be ready yet, or at the end no more."""
        if event.get("code") not in {None, "", NOT_YET}:
            log.warning(str(event["event"]), **{name: value for name, value in event.items() if name != "event"})


def connect_form(output: OutputForm, stdio: bool) -> ConnectForm:
    """JSON where asked for; silence beside a connection on stdout; the live screen on a terminal; lines elsewhere."""
    if stdio:
        configure_logs(level=logging.WARNING)
        return QuietConnectForm()
    if output is OutputForm.TEXT and sys.stderr.isatty() and sys.stdout.isatty():
        from drtp.main.datum.connect_screen import ScreenConnectForm

        # The screen shows the state itself; lines from elsewhere would tear it.
        configure_logs(level=logging.CRITICAL)
        return ScreenConnectForm()
    set_up_logs(output, quiet=False)
    return JsonConnectForm() if output is OutputForm.JSON else LineConnectForm()


class ConnectSpeaker:
    """Follows views and says what is new."""

    def __init__(self, form: ConnectForm, started: float) -> None:
        """`started` is monotonic, for `seconds`."""
        self._form = form
        self._started = started
        self._before = ConnectorView()
        self.announced: set[tuple[Protocol, str]] = set()
        """Places whose readiness has been said: UDP and TCP have numbers each for themselves."""
        self._told = 0

    def __enter__(self) -> Self:
        """Nothing is held yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A terminal is left as it was."""
        self._form.close()

    def follow(self, view: ConnectorView, now: float) -> None:
        """Say what is new in `view`; `now` is monotonic."""
        before = {_place(port): port for port in self._before.ports}
        for port in view.ports:
            if port.ready and (port.protocol, port.local) not in self.announced:
                self.announced.add((port.protocol, port.local))
                self._form.ready(ready_event(port, now - self._started))
            elif (was := before.get(_place(port))) is None or _state(was) != _state(port):
                self._form.say(_service_event(port))
        self._say_pops(view)
        self._say_ends(view)
        if view.feed.state != self._before.feed.state and self.announced:
            self._form.say({"event": "controlplane", "state": view.feed.state, "message": view.feed.message})
        self._before = view
        self._form.show(view)

    def _say_pops(self, view: ConnectorView) -> None:
        was = {pop.server: pop.state for pop in self._before.pops}
        for pop in view.pops:
            up = pop.state is ClientStatus.CONNECTED
            if up is not (was.get(pop.server) is ClientStatus.CONNECTED):
                self._form.say({"event": "pop", "pop": pop.server_name, "connected": up, "message": pop.message})

    def _say_ends(self, view: ConnectorView) -> None:
        """Connections that ended otherwise than by the word of one of the two programs."""
        newest = max((flow.ended_unix_ms for flow in view.flows), default=self._told)
        for flow in view.flows:
            if flow.ended_unix_ms > self._told and flow.outcome not in ORDERLY:
                code = _CODES.get(flow.outcome, REFUSED)
                self._form.say({"event": "refused", "service": flow.service, "code": code, "message": flow.outcome})
        self._told = newest

    def retrying(self, error: DrtpError, after_s: float) -> None:
        """The start failed and will be tried again."""
        log.warning("not started yet", code=error.code, error=error.what, retry_after_s=round(after_s, 1))

    def ended_badly(self, outcome: str) -> None:
        """The connection on standard output did not end in order."""
        log.warning("connection cut", reason=outcome)

    def failed(self, error: DrtpError) -> None:
        """It ends with this error."""
        self._form.failed(error)


def ready_event(port: PortView, seconds: float) -> Event:
    """The first event of a service; scripts rely on its members."""
    return {
        "event": "ready",
        "service": port.service,
        "local": port.local,
        "protocol": port.protocol.value,
        "pops": list(port.pops),
        "encrypted": True,
        "seconds": round(seconds, 3),
    }


def _service_event(port: PortView) -> Event:
    event: Event = {"event": "service", "service": port.service, "ready": port.ready, "pops": list(port.pops)}
    return event if port.ready else {**event, "reason": port.reason, "code": port.code, "message": port.message}


def _place(port: PortView) -> tuple[str, Protocol, str]:
    return port.service, port.protocol, port.local


def _state(port: PortView) -> tuple[bool, str, tuple[str, ...]]:
    return port.ready, port.reason, port.pops
