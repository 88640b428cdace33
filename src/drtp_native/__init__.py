"""The compiled tunnel core. Only `drtp.tunnel` imports it; its shapes are typed there."""

from .drtp_native import NativeError, TunnelAgent, TunnelGateway, TunnelServer

__all__ = ["NativeError", "TunnelAgent", "TunnelGateway", "TunnelServer"]
