"""What an agent is started with, parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from drtp.api.reports import AgentRegistration
from drtp.tunnel import Target

DRAIN_S = 30.0
"""What cloudflared taught people to expect of a graceful stop."""


PORTS_TRIED = 32
"""From the usual port on: a machine may run a few agents."""


class LocalAddress(NamedTuple):
    """Where local pages are. `ports`: how many are tried, from `port` on; 1 where somebody named this one."""

    address: str
    port: int
    ports: int = 1


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """`state_dir` holds the identity (enrolled before the host starts), epoch and snapshot; one process may use it.

    `targets`: service `<namespace>/<name>` -> the one place this machine lets visitors of it reach. Without
    `allow_target` a plan that names another one is refused. `named`: services that were named without a target,
    `<namespace>/<name>` or a name alone; nothing else is served then. `local_address`: where `/ready` and `/metrics`
    are; None for neither.
    """

    state_dir: Path
    targets: Mapping[str, Target] = field(default_factory=dict[str, Target])
    allow_target: bool = False
    named: frozenset[str] = frozenset()
    registration: AgentRegistration = field(default_factory=AgentRegistration)
    local_address: LocalAddress | None = None
    local_hosts: tuple[str, ...] = ()
    """Host names beside localhost and the address itself that the status pages answer to (DNS rebinding)."""
    drain_s: float = DRAIN_S
    lanes: int = 1
    quic: bool = False
    """POPs are reached by QUIC where they and the network let it; by TCP else."""
