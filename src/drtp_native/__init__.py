"""The compiled tunnel core. Only `drtp.tunnel` imports it; its shapes are typed there."""

from .drtp_native import NativeError, TunnelAgent, TunnelGateway, TunnelServer, decide

__all__ = ["NativeError", "TunnelAgent", "TunnelGateway", "TunnelServer", "decide"]
