"""Joe's agent renews a hundred times under live traffic, POPs and gateway beside it, on certificates of seconds.

Some visitors stay through all of a load, and nobody may fail.
"""

from __future__ import annotations

from bench.figures import Missed
from scenario.bed import Bed, short_certificates
from scenario.renewals import renewed_under_traffic

LIFETIME_S = 30.0
ENVIRONMENT = short_certificates(LIFETIME_S, "agent", "pop", "gateway")


def run(bed: Bed, count: int) -> str:
    """`count` renewals, of ten seconds each. Raises: Missed where a visitor failed."""
    parts: list[str] = []
    failed = 0
    while count > 0:
        # A load has an end of its own.
        seen = renewed_under_traffic(bed, min(count, 18), LIFETIME_S)
        failed += len(seen.crowd.failed)
        count -= seen.renewals
        parts.append(f"{seen}, certificates of {LIFETIME_S:.0f} s.")
        parts += [f"  {one.stream}: {one.fate.value} after {one.ended - one.at:.1f} s" for one in seen.crowd.failed[:5]]
    if failed:
        raise Missed("\n".join(parts))
    return "\n".join(parts)
