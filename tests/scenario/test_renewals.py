"""Certificates of seconds: an agent renews under live traffic, and with nobody to renew it their end is everybody's.

`python -m bench renewals` is a hundred renewals, of POPs and gateway too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from scenario.bed import Bed, eventually, killed, short_certificates
from scenario.load import local_service
from scenario.renewals import Caller, connected, ends_at, renewed_under_traffic

pytestmark = pytest.mark.alone

LIFETIME_S = 12.0
RENEWALS = 6
"""Each after a third of a certificate's life: beyond the end of the first."""
CUT_WITHIN_S = 2.0


@pytest.mark.timeout(120)
def test_an_agent_renews_under_traffic_and_without_a_control_plane_its_certificates_end_cuts_all(
    new_bed: Callable[..., Bed],
) -> None:
    bed = new_bed("--no-restart", "controlplane", environment=short_certificates(LIFETIME_S, "agent"))
    seen = renewed_under_traffic(bed, RENEWALS, LIFETIME_S)
    print(seen)
    assert seen.renewals >= RENEWALS, seen
    assert seen.seconds > LIFETIME_S, "nobody stayed beyond the first certificate"
    assert seen.crowd.failed == [], seen
    with local_service() as port:
        state = bed.directory / "lasts"
        serving = bed.serve(f"tcp://localhost:{port}", "--name", "lasts", "--state-dir", str(state))
        callers = [Caller(serving.endpoint), Caller(connected(bed, f"default/{serving.service}"))]
        for caller in callers:
            caller.start()
        eventually(lambda: all(caller.last for caller in callers), 10)
        killed(bed.part("controlplane"))
        end = ends_at(state)
        eventually(lambda: time.time() > end + CUT_WITHIN_S + 1.0, LIFETIME_S * 2)
        for caller in callers:
            caller.end()
            print(f"the last byte {caller.last - end:+.1f} s from the certificate's end")
            assert -CUT_WITHIN_S <= caller.last - end <= CUT_WITHIN_S
