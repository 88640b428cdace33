"""The compiled tunnel core. Only `drtp.tunnel` imports it; its shapes are typed there."""

from .drtp_native import NativeError, TunnelAgent, TunnelConnector, TunnelGateway, TunnelServer, carry_stdio, decide

__all__ = [
    "NativeError",
    "TunnelAgent",
    "TunnelConnector",
    "TunnelGateway",
    "TunnelServer",
    "carry_stdio",
    "decide",
]
