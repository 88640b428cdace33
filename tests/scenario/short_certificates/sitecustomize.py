"""Certificates of edges that last seconds: Python reads this file at its start where its directory is on PYTHONPATH.

    Bed(directory, environment=short_certificates(15, "agent"))

In the control plane's process alone; edges take the moment to renew from the certificate. For the roles of
`BED_CERTIFICATES_OF` a day is `BED_CERTIFICATES_S` long, and how often an edge may renew goes along with it.
"""

import functools
import os
import sys
from datetime import timedelta

if "controlplane" in sys.orig_argv and "BED_CERTIFICATES_S" in os.environ:
    from drtp.edgeserver import server
    from drtp.issuers import certificates
    from drtp.kit.buckets import Buckets

    lifetime = timedelta(seconds=float(os.environ["BED_CERTIFICATES_S"]))
    faster = timedelta(days=1) / lifetime
    certificates.BACKDATED = timedelta(seconds=1)
    for usage in map(certificates.Usage, os.environ["BED_CERTIFICATES_OF"].split()):
        certificates.PROFILES[usage] = certificates.Profile(certificates.PROFILES[usage].purposes, lifetime)

    @functools.wraps(Buckets)
    def accelerated(clock, burst, per_s):
        return Buckets(clock, burst=burst, per_s=per_s * faster)

    server.Buckets = accelerated
