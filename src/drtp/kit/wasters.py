"""Who takes a stranger's place and never says a whole request.

A handshake costs many times what a refusal does, so in a crowd whoever has wasted a place gets none for a while. Whole
requests are credit: an address with many people behind it is not shut for the one who was cut short.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from drtp.kit.clock import Clock

CREDIT_MAX = 8
"""So many wasted places are made up for beforehand, by a whole request each."""
REMEMBERED_S = 30.0
"""After the last connection of a network ended, or the last request came, all of it is forgotten."""
NETWORKS_MAX = 16_384
"""Beyond it, those who were heard of longest ago are forgotten."""


class _Account(NamedTuple):
    balance: int
    since_s: float


class Wasters:
    """Wasted places and whole requests by network, as `networks_of` names it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def wasted(self, network: str) -> None:
        """A connection from there has ended, or was ended, and had not said a whole request."""
        self._add(network, -1)

    def asked(self, network: str) -> None:
        """A connection from there has said a whole request."""
        self._add(network, 1)

    def is_one(self, network: str) -> bool:
        """Whether the next place would be wasted as well, as far as one can tell."""
        return self._balance(network, self._clock.monotonic()) < 0

    def _add(self, network: str, amount: int) -> None:
        now_s = self._clock.monotonic()
        balance = self._balance(network, now_s) + amount
        self._accounts[network] = _Account(max(-1, min(balance, CREDIT_MAX)), now_s)
        self._accounts.move_to_end(network)
        if len(self._accounts) > NETWORKS_MAX:
            self._accounts.popitem(last=False)

    def _balance(self, network: str, now_s: float) -> int:
        account = self._accounts.get(network)
        return 0 if account is None or now_s - account.since_s >= REMEMBERED_S else account.balance
