"""Every refusal as a Kubernetes Status: errors are translated here once, at the door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from drtp.api.faults import Fault, Rejected
from drtp.api.jsonvalue import JsonObject
from drtp.kit import errors
from drtp.store import protocol as store

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
    507: "InsufficientStorage",
}


STORE_CANNOT_WRITE = "DRTP-1006"


class Failure(Exception):
    """A request that ends in a Status. `code` is ours (`DRTP-nnnn`), `http` the response's."""

    def __init__(
        self, http: int, code: str, message: str, *, reason: str = "", details: JsonObject | None = None
    ) -> None:
        super().__init__(message)
        self.http = http
        self.code = code
        self.message = message
        self.reason = reason or REASONS.get(http, "Unknown")
        self.details = details

    def status(self) -> JsonObject:
        """The body. The code is in the message because kubectl shows nothing else."""
        body: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": f"{self.message} ({self.code})",
            "reason": self.reason,
            "code": self.http,
        }
        if self.details:
            body["details"] = self.details
        return body

    def encoded(self) -> bytes:
        """`status` as JSON."""
        return msgspec.json.encode(self.status())


def bad_request(message: str, code: str = "DRTP-1017") -> Failure:
    """The request cannot be understood."""
    return Failure(400, code, message)


def not_served() -> Failure:
    """Nothing lives at this path."""
    return Failure(404, "DRTP-1013", "the server could not find the requested resource", details={})


def resource_name(group: str, plural: str) -> str:
    """`plural.group`, as Kubernetes names a resource in messages."""
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> Failure:
    """There is no such object."""
    details: JsonObject = {"name": name, "kind": plural} | ({"group": group} if group else {})
    return Failure(404, "DRTP-1001", f'{resource_name(group, plural)} "{name}" not found', details=details)


def invalid_parameter(parameter: str, message: str) -> Failure:
    """A parameter that Kubernetes answers with 422, so that clients fall back to what they did before."""
    causes = [{"reason": "FieldValueInvalid", "field": parameter, "message": message}]
    return Failure(422, "DRTP-1017", f"{parameter}: {message}", details={"causes": causes})


def translated(error: errors.DrtpError, group: str, plural: str, name: str) -> Failure:  # noqa: PLR0911 - one line each
    """The Status of an error from below, in the words Kubernetes has for it."""
    what = resource_name(group, plural)
    details: JsonObject = {"name": name, "kind": plural} | ({"group": group} if group else {})
    match error:
        case Rejected():
            return _rejected(error)
        case store.AlreadyExists():
            message = f'{what} "{error.key.name}" already exists'
            return Failure(409, error.code, message, reason="AlreadyExists", details=details)
        case errors.Conflict():
            message = (
                f'Operation cannot be fulfilled on {what} "{name}": the object has been modified; '
                "please apply your changes to the latest version and try again"
            )
            return Failure(409, error.code, message, details=details)
        case errors.NotFound():
            # A posted question has no name: what is missing is what it asks about.
            return not_found(group, plural, name) if name else _missing(error)
        case store.Expired():
            return expired()
        case errors.Invalid():
            return Failure(422, error.code, error.what, details=details)
        case errors.Refused():
            return Failure(403, error.code, error.what, details=details)
        case errors.Retryable() if error.code == STORE_CANNOT_WRITE:
            # Not 503: clients would try again by themselves for a while, and say nothing until they give up.
            return Failure(507, error.code, f"{error.what} {error.remedy}")
        case errors.Retryable():
            return Failure(503, error.code, error.what, details={"retryAfterSeconds": 1})
        case _:
            return Failure(500, error.code, error.what)


def _missing(error: errors.NotFound) -> Failure:
    """What a posted question asks about is not there, in people's words."""
    if not isinstance(error, store.NotFound):
        return Failure(404, error.code, error.what.rstrip("."))
    kind, _, group = error.key.kind.partition(".")
    called = _CALLED.get(kind, kind)
    where = f" in project {error.key.namespace}" if error.key.namespace else ""
    details: JsonObject = {"name": error.key.name, "kind": kind} | ({"group": group} if group else {})
    return Failure(404, error.code, f'{called} "{error.key.name}"{where} not found', details=details)


_CALLED = {
    "DRTPService": "service",
    "DRTPServer": "tunnel server",
    "ServiceAccount": "service account",
}
"""What people call these kinds."""


def expired() -> Failure:
    """The history asked for is gone; the words are those that client libraries look for."""
    return Failure(410, "DRTP-1004", "too old resource version: the requested history is gone, list again")


def _rejected(error: Rejected) -> Failure:
    kind, _, group = error.kind_key.partition(".")
    details: JsonObject = {"name": error.name, "kind": kind, "causes": _causes(error.causes, error.code)}
    if group:
        details["group"] = group
    return Failure(422, error.code, error.what, details=details)


def _causes(faults: Sequence[Fault], code: str) -> list[dict[str, Any]]:
    """The last one names the code: of an invalid object, kubectl shows the causes and nothing else."""
    causes = [{"reason": fault.reason, "message": fault.message, "field": fault.path} for fault in faults]
    causes[-1]["message"] += f" ({code})"
    return causes
