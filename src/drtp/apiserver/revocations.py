"""Posted `Revocation` and `ClusterRevocation`: they name what is to be taken away, and come back with what was."""

from __future__ import annotations

from typing import Any

from drtp.api.jsonvalue import JsonObject, is_object
from drtp.api.people import User
from drtp.api.revoking import Because, Revoker, Withdrawn
from drtp.apiserver.failures import Failure

IN_PROJECT = ("agent", "service")
IN_CLUSTER = ("user", "pop", "gateway")
NAME_MAX = 253
REASON_MAX = 200


async def revoke(body: JsonObject, namespace: str, user: User, revoker: Revoker) -> JsonObject:
    """The posted object with its status; `namespace` "" is the cluster. Raises: Failure 422, NotFound."""
    given: Any = body.get("spec")
    spec: JsonObject = given if is_object(given) else {}
    what, name = _what(spec, IN_PROJECT if namespace else IN_CLUSTER)
    reason = _reason(spec)
    because = Because(user.name, reason or f"revoked by {user.name}")
    match what:
        case "agent":
            withdrawn = await revoker.agent(namespace, name, because)
        case "service":
            withdrawn = await revoker.service(namespace, name, because)
        case "user":
            withdrawn = await revoker.user(name, because)
        case "pop":
            withdrawn = await revoker.pop(name, because)
        case _:
            withdrawn = await revoker.gateway(name, because)
    metadata = {"namespace": namespace} if namespace else {}
    return body | {"metadata": metadata, "spec": {what: name, "reason": reason}, "status": _status(withdrawn)}


def _what(spec: JsonObject, known: tuple[str, ...]) -> tuple[str, str]:
    unknown = sorted(spec.keys() - {*known, "reason"})
    if unknown:
        raise Failure(422, "DRTP-1010", f"spec.{unknown[0]}: Invalid value: only {', '.join(known)} and reason")
    named = [one for one in known if spec.get(one) is not None]
    if len(named) != 1:
        raise Failure(422, "DRTP-1010", f"spec: Required value: exactly one of {', '.join(known)}")
    name: Any = spec[named[0]]
    if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX or not name.isprintable():
        message = f"spec.{named[0]}: Invalid value: must be a name of 1 to {NAME_MAX} characters"
        raise Failure(422, "DRTP-1010", message)
    return named[0], name


def _reason(spec: JsonObject) -> str:
    reason: Any = spec.get("reason") or ""
    if not isinstance(reason, str) or len(reason) > REASON_MAX or not reason.isprintable():
        raise Failure(
            422, "DRTP-1010", f"spec.reason: Invalid value: must be one line of at most {REASON_MAX} characters"
        )
    return reason


def _status(withdrawn: Withdrawn) -> JsonObject:
    return {
        "identities": list(withdrawn.identities),
        "secrets": withdrawn.secrets,
        "tokens": withdrawn.tokens,
    } | ({"user": withdrawn.user} if withdrawn.user else {})
