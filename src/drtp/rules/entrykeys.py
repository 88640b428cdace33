"""The keys of snapshot entries and reports, spelled in one place (api/snapshots.py documents them)."""

from __future__ import annotations

TRUST = "trust"
DENY = "deny"
SIGN_IN = "sign-in"
SELF = "self"
ROUND_TRIPS = "roundtrips"
PEERS = "peers"


def route(connection_uid: str) -> str:
    """RouteEntry, RouteReport."""
    return f"route/{connection_uid}"


def server(server_uid: str) -> str:
    """PlanServer."""
    return f"server/{server_uid}"


def measure(server_uid: str) -> str:
    """MeasureTarget."""
    return f"measure/{server_uid}"


def tunnel(server_uid: str) -> str:
    """TunnelReport."""
    return f"tunnel/{server_uid}"


def service(connection_uid: str) -> str:
    """PlanService, ServiceReport."""
    return f"service/{connection_uid}"


def connect(namespace: str, name: str) -> str:
    """PlanConnect."""
    return f"connect/{namespace}/{name}"


def backend(service_uid: str) -> str:
    """Backend."""
    return f"backend/{service_uid}"


def listener(address: str, port: int, *, udp: bool = False) -> str:
    """GatewayListener. UDP and TCP have the ports of an address each for themselves."""
    return f"listener/{address}/{port}/udp" if udp else f"listener/{address}/{port}"


def listener_port(key: str) -> int:
    """The port in a GatewayListener's key."""
    return int(key.split("/")[2])


def http(address: str, port: int, hostname: str) -> str:
    """HttpHost."""
    return f"http/{address}/{port}/{hostname}"


def tcp(address: str, port: int) -> str:
    """TcpExposure."""
    return f"tcp/{address}/{port}"


def udp(address: str, port: int) -> str:
    """UdpExposure."""
    return f"udp/{address}/{port}"


def sni(address: str, port: int, hostname: str) -> str:
    """SniExposure."""
    return f"sni/{address}/{port}/{hostname}"


def certificate(identifier: str) -> str:
    """ServingCertificate."""
    return f"certificate/{identifier}"


def pop(server_uid: str) -> str:
    """ProbeTarget."""
    return f"pop/{server_uid}"
