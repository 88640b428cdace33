"""The authority as it is told to the operator: roots, intermediates, and what a rotation waits for."""

from __future__ import annotations

from typing import Any

from cryptography import x509

from drtp.api.internal import RotationPhase
from drtp.api.spiffe import pin_of
from drtp.issuers.authority import Authority
from drtp.issuers.rotation import Outlook


def told(authority: Authority, seen: Outlook) -> dict[str, Any]:
    """As `GET /v1/authority` answers."""
    state = authority.state
    under_way = state.phase is not RotationPhase.STANDBY
    return {
        "phase": state.phase.value,
        "active": state.active,
        "next": state.next,
        "begun": state.begun.isoformat() if state.begun and under_way else "",
        "roots": [_root(authority, number, root) for number, root in sorted(authority.roots.items())],
        "intermediates": [
            {"usage": usage.value, "number": number, "ends": one.not_valid_after_utc.isoformat()}
            for usage, number, one in authority.intermediates()
        ],
        "behind": [
            {
                "uid": one.uid,
                "role": one.role.value,
                "name": one.name,
                "why": one.why,
                "until": one.until.isoformat(),
            }
            for one in (seen.behind if under_way else ())
        ],
        "notBefore": seen.not_before.isoformat() if seen.not_before and under_way else "",
    }


def _root(authority: Authority, number: int, root: x509.Certificate) -> dict[str, Any]:
    until = authority.state.retired.get(str(number))
    return {
        "number": number,
        "pin": pin_of(root),
        "ends": root.not_valid_after_utc.isoformat(),
        "trusted": number in authority.state.trusted,
        "vouchesUntil": until.isoformat() if until else "",
    }
