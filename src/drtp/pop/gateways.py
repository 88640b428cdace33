"""Which gateways send visitors here, by their own word: each says so when it asks after this POP's health."""

from __future__ import annotations

from asyncio import BaseTransport, Transport


class GatewayBook:
    """The newest word of each gateway. It counts while the connection stands on which it was said."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[BaseTransport | Transport, bool | None]] = {}

    def note(self, gateway: str, connection: BaseTransport | None, *, sends: bool | None) -> None:
        """`sends` None: it asked, and did not say. Without a connection nothing is remembered."""
        if connection is not None:
            self._said[gateway] = (connection, sends)

    @property
    def sending(self) -> frozenset[str]:
        """Gateways that are there and have not said that they send no visitors."""
        return frozenset(gateway for gateway, sends in self._there().items() if sends is not False)

    @property
    def certain(self) -> frozenset[str]:
        """Gateways that are there and have said that they do."""
        return frozenset(gateway for gateway, sends in self._there().items() if sends)

    def _there(self) -> dict[str, bool | None]:
        gone = [gateway for gateway, (connection, _sends) in self._said.items() if connection.is_closing()]
        for gateway in gone:
            del self._said[gateway]
        return {gateway: sends for gateway, (_connection, sends) in self._said.items()}
