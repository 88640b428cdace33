"""What keeps a service from its address until somebody acts: it is said at once, and ends `--once`. Pure.

What passes by itself (tunnels being dialled, an address being prepared, a local service that starts late) is not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from drtp.agent.view import AgentView, ServiceView
from drtp.api.reasons import Reason
from drtp.kit.codes import CODES
from drtp.kit.errors import Terminal

SETTLED_S = 0.3
"""A blocker counts when it has stood this long: the plan on disk may tell of the definition before this start's."""

_REASONS: frozenset[object] = frozenset(
    {
        Reason.ADDRESS_CLAIMED,
        Reason.ADDRESS_NOT_CLAIMED,
        Reason.ADDRESS_UNAVAILABLE,
        Reason.HOSTNAME_CLAIMED,
        Reason.HOSTNAME_RESERVED,
        Reason.NO_MATCHING_LISTENER,
        Reason.NO_MATCHING_LISTENER_HOSTNAME,
        Reason.NO_SUCH_GATEWAY,
        Reason.NOT_ALLOWED,
        Reason.POOL_EXHAUSTED,
        Reason.PORT_CLAIMED,
        Reason.PORT_UNAVAILABLE,
        Reason.TARGET_REFUSED,
        Reason.UNREADABLE_ALLOWLIST,
        Reason.UNSUPPORTED_PROTOCOL,
    }
)
"""Of conditions, and of the agent's own judgement."""

_CODE = re.compile(r"DRTP-\d{4}")
_DECORATION = re.compile(r"\s*\(DRTP-\d{4}\)|^DRTP-\d{4}:\s*")


@dataclass(frozen=True)
class Blocker:
    """One service's. `what` is a sentence without its code; `remedy` is what to do."""

    service: str
    namespace: str
    reason: str
    code: str
    what: str
    remedy: str

    def error(self) -> Terminal:
        """What `--once` ends with."""
        return Terminal(self.code, f"{self.service}: {self.what}", self.remedy)

    def event(self) -> dict[str, str]:
        """What scripts get; members are added, never renamed."""
        return {
            "event": "blocked",
            "service": self.service,
            "namespace": self.namespace,
            "reason": self.reason,
            "code": self.code,
            "message": self.what,
            "remedy": self.remedy,
        }


def blockers(view: AgentView) -> Iterator[Blocker]:
    """Those of every service that is meant to be reachable. None while the control plane is away: its words are old."""
    if view.feed.state != "Up":
        return
    for service in view.services:
        if service.enabled and not service.ready and (service.reason in _REASONS or _no_way(service)):
            yield _blocker(service)


def _no_way(service: ServiceView) -> bool:
    """A proxy says no to the tunnel: that does not pass by itself."""
    return service.reason == "NotConnected" and service.message.startswith(("DRTP-4050", "DRTP-4051"))


def is_blocking(reason: object) -> bool:
    """Whether an event's reason is a blocker's, which is said as such."""
    return reason in _REASONS


def _blocker(service: ServiceView) -> Blocker:
    found = _CODE.search(service.message)
    code = found.group() if found and found.group() in CODES else "DRTP-7009"
    return Blocker(
        service.name,
        service.namespace,
        service.reason,
        code,
        _DECORATION.sub("", service.message),
        CODES[code].remedy,
    )
