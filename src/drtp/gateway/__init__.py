"""The gateway host: turns its GatewayTable into xDS for its own Envoy, watches the POPs, reports what Envoy took."""

from drtp.gateway.run import run_gateway
from drtp.gateway.settings import GatewaySettings

__all__ = ["GatewaySettings", "run_gateway"]
