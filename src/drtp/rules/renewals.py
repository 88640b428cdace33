"""Certificates of edges that should have been renewed by now: what is concluded from when one ends."""

from __future__ import annotations

from datetime import datetime, timedelta

from drtp.api.internal import EdgeIdentity
from drtp.api.reasons import Aspect, Reason
from drtp.rules.conditions import Conclusion, yes

EDGE_LIFETIME = timedelta(hours=24)
"""Of agents', POPs' and gateways' certificates; they renew after a third of it."""
LAST = EDGE_LIFETIME / 3
"""Whoever is connected and has no newer certificate by then has tried for as long already."""


def is_ending(identity: EdgeIdentity, now: datetime) -> bool:
    """Whether the certificate is in the last third of its life, or over."""
    ends = identity.spec.not_after
    return ends is not None and not identity.spec.denied and now >= ends - LAST


def conclusions(identity: EdgeIdentity | None, now: datetime, *, connected: bool) -> tuple[Conclusion, ...]:
    """The condition there is while the certificate of a connected edge ends; whoever is off renews on return."""
    if identity is None or not connected or not is_ending(identity, now):
        return ()
    message = f"The certificate ends {identity.spec.not_after:%Y-%m-%d %H:%M} UTC and is not renewed (DRTP-2048)."
    return (yes(Aspect.CERTIFICATE_ENDING, Reason.RENEWAL_FAILS, message),)


def look_again_s(identity: EdgeIdentity | None, now: datetime, *, connected: bool) -> float | None:
    """When the conclusion may be another one, for an edge that nothing else wakes."""
    if identity is None or identity.spec.not_after is None or not connected:
        return None
    remaining = (identity.spec.not_after - LAST - now).total_seconds()
    return remaining + 1.0 if remaining > 0 else 60.0
