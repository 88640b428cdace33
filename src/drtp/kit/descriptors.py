"""How many files and sockets this process may hold: each visitor costs one here."""

from __future__ import annotations

import contextlib
import resource


def raise_descriptor_limit() -> int | None:
    """Take all the descriptors that the system allows (frp#752, rathole#367); gives the limit in force, as below."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Some systems name a hard limit that they do not grant: the soft one stays.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return descriptor_limit()


def descriptor_limit() -> int | None:
    """How many this process may hold; None: as many as it likes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
