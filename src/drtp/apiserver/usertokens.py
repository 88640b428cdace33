"""A posted `UserToken`: the operator makes a user, and gets the token that proves them, shown once and kept nowhere."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from drtp.api.jsonvalue import JsonObject, is_object
from drtp.api.people import FOREIGN, RESERVED, TokenIssuer
from drtp.apiserver.failures import Failure

LIFETIME_S = 30 * 24 * 3600
LIFETIME_S_MAX = 90 * 24 * 3600
NAME_MAX = 128


async def issue(body: JsonObject, issuer: TokenIssuer) -> JsonObject:
    """The posted object with its status. Raises: Failure 422, Refused DRTP-1031."""
    given: Any = body.get("spec")
    spec: JsonObject = given if is_object(given) else {}
    name, lifetime = spec.get("user"), spec.get("lifetimeSeconds", LIFETIME_S)
    faults: list[str] = []
    if (fault := name_fault(name)) is not None:
        faults.append(fault)
    if not isinstance(lifetime, int) or not 60 <= lifetime <= LIFETIME_S_MAX:
        faults.append(f"spec.lifetimeSeconds: Invalid value: must be between 60 and {LIFETIME_S_MAX}")
    reinstate = spec.get("reinstate", False)
    if not isinstance(reinstate, bool):
        faults.append("spec.reinstate: Invalid value: must be true or false")
    if faults:
        raise Failure(422, "DRTP-1010", "; ".join(faults))
    issued = await issuer.issue(str(name), timedelta(seconds=lifetime), reinstate=reinstate is True)
    status = {"token": issued.token.reveal(), "uid": issued.uid, "expires": issued.expires_at.isoformat()}
    return body | {"metadata": {}, "spec": {"user": name, "lifetimeSeconds": lifetime}, "status": status}


def name_fault(name: object) -> str | None:
    """What is wrong with a user's name, if anything."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX or not name.isprintable() or {*name} & {"/", "%"}:
        return f"spec.user: Invalid value: must be a name of 1 to {NAME_MAX} characters, without `/` and `%`"
    if FOREIGN in name:
        return f"spec.user: Invalid value: `{FOREIGN}` is in the names of users of foreign issuers"
    if name.startswith(RESERVED):
        return f"spec.user: Invalid value: names that begin with {RESERVED} are Kubernetes' own"
    return None
