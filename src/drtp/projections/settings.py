"""What a control plane's operator decides about all projections."""

from __future__ import annotations

from dataclasses import dataclass, field

from drtp.api.drtp import EndpointMode
from drtp.api.snapshots import Limits


@dataclass(frozen=True, slots=True)
class ProjectionSettings:
    """`suffix`: of public and tunnel names. `endpoint_mode`: how gateways reach POPs; `plain_from`: CIDRs for PLAIN."""

    suffix: str
    endpoint_mode: EndpointMode = EndpointMode.MTLS
    plain_from: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def server_name(self, server: str) -> str:
        """What a POP's certificate carries and agents and gateways verify: `<server>.tunnel.<suffix>`."""
        return f"{server}.tunnel.{self.suffix}"
