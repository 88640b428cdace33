"""What gateways and POPs say to each other at `/healthz`, over mutual TLS, with the control plane up or down.

A gateway asks every second. Its question says whether it sends visitors to this POP; the answer says whether it should.
So a POP that stops on purpose knows when the last gateway has moved, and one that is back when it is in use again.
"""

from __future__ import annotations

SENDS_VISITORS = "drtp-sends-visitors"
"""Header of the question: `yes` or `no`. Absent: an older gateway, which does not say."""

LONGEST_SOCKET = "01234567-89ab-cdef-0123-456789abcdef.sock"
"""Of a POP's Unix sockets: an endpoint's is named after its connection's uid."""

PULSE = "pulse"
"""A Unix socket among those of a POP's endpoints, at which its tunnel driver answers whoever connects: gateways of the
same machine send visitors to the others only while it does.
"""

LEAVING = frozenset({"draining", "returning"})
"""Values of `status` in the answer by which a POP itself asks for no visitors. It still serves those who come."""
