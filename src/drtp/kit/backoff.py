"""Full-jitter exponential back-off, so that a crowd that lost its server does not come back as one."""

from __future__ import annotations

import random
from collections.abc import Iterator


def full_jitter(
    base_s: float, ceiling_s: float, rng: random.Random | None = None, factor: float = 2.0
) -> Iterator[float]:
    """Yield delays in seconds, each uniform between 0 and a bound that grows from `base_s` to `ceiling_s`.

    Source: full jitter, as teleport#6889 and cloud SDKs settled on.
    """
    source = rng or random.SystemRandom()
    bound = base_s
    while True:
        yield source.uniform(0, bound)
        bound = min(ceiling_s, bound * factor)
