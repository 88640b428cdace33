"""The pins: which local target visitors of a service may reach. They are this machine's, not the control plane's.

A target comes from the command line. A service that was started by its name alone has none: the first plan's target is
pinned, durably and before it is used, and a later plan cannot change it without `--allow-target` (threat 6). Where
names were given, nothing else is served: a secret that was mixed up opens no other door of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from drtp.api.snapshots import PlanService
from drtp.kit.errors import Refused, Terminal
from drtp.kit.files import read_private, write_atomic
from drtp.tunnel import Target, TargetTls

_MAKE_ROOM = "Make room on the disk of the state directory; the next change of the plan tries again."


class Pins:
    """`<namespace>/<name>` -> target, of the command line (`given`) and of first plans (`path`).

    `named`: what may be served at all, `<namespace>/<name>` or a name in any namespace; empty: whatever is planned.
    """

    def __init__(self, given: Mapping[str, Target], path: Path, named: frozenset[str] = frozenset()) -> None:
        """Raises: Terminal DRTP-4014 if the file is damaged."""
        self._given = given
        self._named = named
        self._path = path
        try:
            self._first = msgspec.json.decode(read_private(path), type=dict[str, Target])
        except FileNotFoundError:
            self._first: dict[str, Target] = {}
        except msgspec.DecodeError:
            raise Terminal("DRTP-4014", f"{path} cannot be read.") from None

    def judge(self, service: PlanService, *, allow_target: bool) -> None:
        """Return if the plan's target is the pinned one. Raises: Refused DRTP-4012."""
        key = f"{service.namespace}/{service.name}"
        wanted = _target(service)
        if self._named and not self._named & {key, service.name}:
            raise Refused("DRTP-4012", f"{key} was not named here, and is not served.")
        if allow_target:
            return
        pinned = self._given.get(key) or self._first.get(key)
        if pinned is None and not self._given:
            self._pin(key, wanted)
            return
        if pinned is None:
            raise Refused("DRTP-4012", f"No target was given here for {key}.")
        if (pinned.host, pinned.port, pinned.tls is None) != (wanted.host, wanted.port, wanted.tls is None):
            raise Refused(
                "DRTP-4012",
                f"The control plane names the target {wanted.host}:{wanted.port} for {key}; "
                f"{pinned.host}:{pinned.port} was given here.",
            )

    def _pin(self, key: str, target: Target) -> None:
        first = {**self._first, key: target}
        try:
            write_atomic(self._path, msgspec.json.encode(first))
        except OSError as error:
            raise Refused("DRTP-4014", f"The target of {key} cannot be pinned: {error}.", _MAKE_ROOM) from error
        self._first = first


def _target(service: PlanService) -> Target:
    local = service.local
    tls = TargetTls(server_name=local.tls.server_name) if local.tls else None
    return Target(host=local.host, port=local.port, tls=tls, app_protocol=local.app_protocol)
