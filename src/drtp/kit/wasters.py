"""Who takes a stranger's place again and again and never says a whole request.

A handshake costs a thousand times what a refusal does, so where there is a crowd its second visit is the last one for a
while. A whole request makes one wasted place good: an address with many people behind it is judged by most of them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from drtp.kit.clock import Clock

WASTED_MAX = 2
"""So many places may be wasted and not made good."""
REMEMBERED_S = 30.0
"""After the last wasted place all is forgotten."""
ADDRESSES_MAX = 16_384
"""Beyond it, those who wasted a place longest ago are forgotten."""


class _Debt(NamedTuple):
    places: int
    since_s: float


class Wasters:
    """Wasted places by network, as `networks_of` names it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._debts: OrderedDict[str, _Debt] = OrderedDict()

    def wasted(self, network: str) -> None:
        """A connection from there ended and had not said a whole request."""
        now_s = self._clock.monotonic()
        owed = min(self._owed(network, now_s) + 1, WASTED_MAX)
        self._debts[network] = _Debt(owed, now_s)
        self._debts.move_to_end(network)
        if len(self._debts) > ADDRESSES_MAX:
            self._debts.popitem(last=False)

    def made_good(self, network: str) -> None:
        """A whole request came from there."""
        if not self._debts:
            return
        debt = self._debts.pop(network, None)
        if debt is not None and debt.places > 1:
            self._debts[network] = debt._replace(places=debt.places - 1)

    def is_one(self, network: str) -> bool:
        """Whether the next place would be wasted as well, as far as one can tell."""
        return self._owed(network, self._clock.monotonic()) >= WASTED_MAX

    def _owed(self, network: str, now_s: float) -> int:
        debt = self._debts.get(network)
        return 0 if debt is None or now_s - debt.since_s >= REMEMBERED_S else debt.places
