"""What native/drtp-python exports. Documents are JSON bytes, camelCase; drtp.tunnel holds their types."""

from typing import Self

class NativeError(Exception):
    """The core refused: args are (kind, message); kind is identity, config, io or closed."""

def decide(cases: bytes) -> bytes: ...

class _Tunnel:
    def __new__(cls, config: bytes, chain_pem: bytes, key_pem: bytes, roots_pem: bytes) -> Self: ...
    def apply(self, delta: bytes) -> bytes: ...
    def events(self, max: int) -> bytes: ...  # noqa: A002 - the name that the compiled method has
    def fileno(self) -> int: ...
    def stats(self, flows: bool) -> bytes: ...
    def rotate(self, chain_pem: bytes, key_pem: bytes, roots_pem: bytes) -> None: ...
    def drain(self, seconds: float) -> None: ...
    def close(self) -> None: ...

class TunnelServer(_Tunnel):
    """The POP side."""

    def agent_addresses(self) -> bytes: ...

class TunnelAgent(_Tunnel):
    """The private side."""

class TunnelGateway(_Tunnel):
    """The visitors' side of UDP."""

class TunnelConnector(_Tunnel):
    """The callers' side of `connect`."""

def carry_stdio(path: str) -> None: ...
