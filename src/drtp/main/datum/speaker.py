"""How `serve` speaks: JSON events for scripts, lines for logs, a live screen for people.

Whatever the form, stdout carries the addresses (or the events) and nothing else.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self, cast

import msgspec

from drtp.agent.view import AgentView, ServiceView
from drtp.api.reports import LocalState
from drtp.kit.errors import DrtpError
from drtp.kit.observe import configure_logs, logger
from drtp.main.commands.options import OutputForm
from drtp.main.datum.blockers import SETTLED_S, Blocker, blockers, is_blocking
from drtp.main.datum.changes import Asked, Event, address_of, as_asked, changes, ready_event
from drtp.main.datum.measured import Measured
from drtp.main.shell import set_up_logs

log = logger("serve")

_OBSTACLES = ("local", "service", "controlplane", "pop")
"""What explains that a service is not ready yet."""
_LOGGED_BY_THE_AGENT = ("pop", "pops", "local", "controlplane", "phase", "renewed")


class Form(Protocol):
    """One way of speaking."""

    def ready(self, event: Event) -> None:
        """A service can be reached, for the first time."""
        ...

    def changed(self, event: Event) -> None:
        """Something has changed."""
        ...

    def measured(self, event: Event) -> None:
        """Figures have moved noteworthily."""
        ...

    def show(self, view: AgentView) -> None:
        """The newest state as a whole."""
        ...

    def waiting(self, event: Event) -> None:
        """Something that was not there yet, before the first readiness."""
        ...

    def blocked(self, blocker: Blocker) -> None:
        """A service waits for somebody to act."""
        ...

    def retrying(self, error: DrtpError, after_s: float) -> None:
        """The start failed and will be tried again."""
        ...

    def failed(self, error: DrtpError) -> None:
        """It ends with this error, which the shell's door prints for people."""
        ...

    def undone(self, event: Event) -> None:
        """What has become of a service that was made and never was ready."""
        ...

    def close(self) -> None:
        """Nothing more will be said."""
        ...


SERVICES_GONE = "DRTP-2017"
"""What an agent ends with whose services were all deleted."""


class JsonForm:
    """One JSON object a line on stdout."""

    def ready(self, event: Event) -> None:
        """As it is."""
        self._say(event)

    def changed(self, event: Event) -> None:
        """As it is."""
        self._say(event)

    def measured(self, event: Event) -> None:
        """As it is."""
        self._say(event)

    def show(self, view: AgentView) -> None:
        """Events say it."""

    def waiting(self, event: Event) -> None:
        """On stderr: the first line on stdout is the ready event."""
        _log_event(event)

    def blocked(self, blocker: Blocker) -> None:
        """On stdout: a script that waits for the ready event waits in vain."""
        self._say(blocker.event())

    def retrying(self, error: DrtpError, after_s: float) -> None:
        """On stderr, too."""
        log.warning("not started yet", code=error.code, error=error.what, retry_after_s=round(after_s, 1))

    def failed(self, error: DrtpError) -> None:
        """The last event."""
        self._say({"event": "error", "code": error.code, "message": error.what, "remedy": error.remedy})

    def undone(self, event: Event) -> None:
        """On stderr: the error event is the last one."""
        _log_event(event)

    def close(self) -> None:
        """Nothing to do."""

    def _say(self, event: Event) -> None:
        to_stdout(msgspec.json.encode(event).decode())


class LineForm:
    """Addresses on stdout, logfmt lines on stderr: for logs, pipes and terminals that cannot redraw."""

    def ready(self, event: Event) -> None:
        """The address alone on its line."""
        if event["address"]:
            to_stdout(event["address"])
        _log_event(for_people(event))

    def changed(self, event: Event) -> None:
        """One line, unless the agent's own log has it."""
        if event["event"] not in _LOGGED_BY_THE_AGENT:
            _log_event(for_people(event))

    def waiting(self, event: Event) -> None:
        """One line, unless the agent's own log has it."""
        self.changed(event)

    def measured(self, event: Event) -> None:
        """Figures are for the metrics page."""

    def show(self, view: AgentView) -> None:
        """Events say it."""

    def blocked(self, blocker: Blocker) -> None:
        """One line."""
        log.warning(
            "blocked",
            service=blocker.service,
            code=blocker.code,
            reason=blocker.reason,
            error=blocker.what,
            do=blocker.remedy,
        )

    def retrying(self, error: DrtpError, after_s: float) -> None:
        """One line."""
        log.warning(
            "not started yet", code=error.code, error=error.what, do=error.remedy, retry_after_s=round(after_s, 1)
        )

    def failed(self, error: DrtpError) -> None:
        """The shell's door says it."""

    def undone(self, event: Event) -> None:
        """One line."""
        _log_event(event)

    def close(self) -> None:
        """Nothing to do."""


def to_stdout(line: str) -> None:
    """Print one line at once. A reader that has gone away, as `| head -1` does, does not stop the visitors."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whatever is printed from now on, at exit too, goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        log.warning("nobody reads standard output any more")


def _log_event(event: Event) -> None:
    log.info(str(event["event"]), **{name: value for name, value in event.items() if name != "event"})


def for_people(event: Event) -> Event:
    """Lists (addresses, names of servers) as people write them."""
    return {
        name: ",".join(map(str, cast("list[object]", value))) if isinstance(value, list) else value
        for name, value in event.items()
    }


class Speaker:
    """Follows views and says what is new. Use as a context manager, so that a terminal is left as it was."""

    def __init__(self, form: Form, wanted: Mapping[str, Asked | None], started: float) -> None:
        """`wanted`: services whose readiness counts, each with the place that was asked for.

        `started` is monotonic, for `seconds`.
        """
        self._form = form
        self._wanted = wanted
        self._started = started
        self._before = AgentView()
        self._announced: set[str] = set()
        self._ever_ready: set[str] = set()
        self._reserved: set[str] = set()
        self._standing: dict[Blocker, float] = {}
        self._said: set[Blocker] = set()
        self._measured = Measured()

    def __enter__(self) -> Self:
        """Speak."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop speaking."""
        self._form.close()

    def want(self, wanted: Mapping[str, Asked | None]) -> None:
        """Others count from now on; one that comes back is announced again."""
        self._wanted = wanted
        self._announced &= wanted.keys()

    @property
    def ever_ready(self) -> frozenset[str]:
        """Names of the services that were ready once, those that are not wanted any more among them."""
        return frozenset(self._ever_ready)

    @property
    def all_ready(self) -> bool:
        """Whether every wanted service has been announced."""
        return bool(self._announced) and self._announced >= set(self._wanted)

    @property
    def blocked(self) -> Blocker | None:
        """The first of the blockers that stand and have been said."""
        return next((blocker for blocker in self._standing if blocker in self._said), None)

    def follow(self, view: AgentView, now: float) -> None:
        """Say what is new in `view`; `now` is monotonic."""
        speaking = bool(self._announced)
        for service in view.services:
            asked = self._wanted.get(service.name)
            if not service.ready or service.name in self._announced:
                continue
            # With the control plane down the place on disk is the one that visitors reach.
            if view.feed.state == "Down" or as_asked(service, asked):
                self._form.ready(ready_event(view, service, now - self._started, asked.ip if asked else None))
                self._announced.add(service.name)
                self._ever_ready.add(service.name)
        # Scripts get the ready event first: what happened before it is in it.
        for event in changes(self._before, view):
            if event["event"] == "service" and is_blocking(event.get("reason")):
                continue
            if speaking:
                self._form.changed(event)
            elif event["event"] in _OBSTACLES and not self._announced:
                self._form.waiting(event)
        self._say_reserved(view)
        if speaking and (event := self._measured.news(view, now)):
            self._form.measured(event)
        self._say_blockers(view, now)
        self._before = view
        self._form.show(view)

    def _say_reserved(self, view: AgentView) -> None:
        """Where a service will be once its local service answers: the address is had by then, and can be passed on."""
        for service in view.services:
            waits = service.local.state is LocalState.UNREACHABLE and service.name not in self._ever_ready
            if waits and (address := address_of(service)) and service.name not in self._reserved:
                self._reserved.add(service.name)
                who = {"service": service.name, "namespace": service.namespace}
                self._form.waiting({"event": "reserved", **who, "address": address, "waits_for": service.local.target})

    def _say_blockers(self, view: AgentView, now: float) -> None:
        self._standing = {blocker: self._standing.get(blocker, now) for blocker in blockers(view)}
        self._said &= self._standing.keys()
        for blocker, since in self._standing.items():
            if now - since >= SETTLED_S and blocker not in self._said:
                self._said.add(blocker)
                self._form.blocked(blocker)

    def retrying(self, error: DrtpError, after_s: float) -> None:
        """The start failed and will be tried again."""
        self._form.retrying(error, after_s)

    def failed(self, error: DrtpError) -> None:
        """It ends with this error; before that every service that is gone for good is told to be."""
        if error.code == SERVICES_GONE and self._announced:
            for event in changes(self._before, msgspec.structs.replace(self._before, services=())):
                self._form.changed(event)
        self._form.failed(error)

    def undone(self, event: Event) -> None:
        """What has become of a service that was made and never was ready."""
        self._form.undone(event)


def form_for(output: OutputForm, targets: Mapping[str, str]) -> Form:
    """JSON where asked for; the live screen on a terminal; lines elsewhere. `targets`: service name -> local URL."""
    if output is OutputForm.JSON:
        set_up_logs(output, quiet=False)
        return JsonForm()
    if sys.stderr.isatty() and sys.stdout.isatty():
        from drtp.main.datum.screen import ScreenForm

        # The screen shows the state itself; lines from elsewhere would tear it.
        configure_logs(level=logging.CRITICAL)
        return ScreenForm(targets)
    set_up_logs(output, quiet=False)
    return LineForm()


def waiting_words(service: ServiceView) -> str:
    """Why a service is not ready, in one line."""
    if not service.enabled:
        return f"waiting for `datumctl enable {service.name}`"
    return service.message or service.reason or "starting"


__all__ = ["Form", "JsonForm", "LineForm", "Speaker", "address_of", "form_for", "waiting_words"]
