"""Kubernetes' protobuf bodies, as `kubectl create` sends its own kinds: read only, by field table.

Answers are JSON, which every client that sends these also accepts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from drtp.api.jsonvalue import JsonObject

MAGIC = b"k8s\x00"
CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
DEPTH_MAX = 32
"""Deeper than any table below; a stranger's nesting must not exhaust the stack."""


class ProtobufError(ValueError):
    """The bytes are not what the tables say."""


class Field(NamedTuple):
    """One field: its JSON name, and how to read it. `table` is the message's own fields."""

    name: str
    kind: str
    table: dict[int, Field] | None = None
    repeated: bool = False


def _text(name: str) -> Field:
    return Field(name, "text")


def _number(name: str) -> Field:
    return Field(name, "number")


def _flag(name: str) -> Field:
    return Field(name, "flag")


def _many(name: str) -> Field:
    return Field(name, "text", repeated=True)


def _map(name: str, kind: str = "text") -> Field:
    """`kind`: of its values."""
    return Field(name, "map", {1: Field("key", "text"), 2: Field("value", kind)}, repeated=True)


def _message(name: str, table: dict[int, Field], *, repeated: bool = False) -> Field:
    return Field(name, "message", table, repeated)


_TIME = {1: _number("seconds"), 2: _number("nanos")}
_OWNER = {
    1: _text("kind"),
    3: _text("name"),
    4: _text("uid"),
    5: _text("apiVersion"),
    6: _flag("controller"),
    7: _flag("blockOwnerDeletion"),
}
_META = {
    1: _text("name"),
    2: _text("generateName"),
    3: _text("namespace"),
    5: _text("uid"),
    6: _text("resourceVersion"),
    11: _map("labels"),
    12: _map("annotations"),
    13: _message("ownerReferences", _OWNER, repeated=True),
    14: _many("finalizers"),
}
_INT_OR_STRING = {1: _number("type"), 2: _number("intVal"), 3: _text("strVal")}
_QUANTITY = {1: _text("string")}
_SERVICE_PORT = {
    1: _text("name"),
    2: _text("protocol"),
    3: _number("port"),
    4: Field("targetPort", "int-or-string", _INT_OR_STRING),
    5: _number("nodePort"),
    6: _text("appProtocol"),
}
_SERVICE_SPEC = {
    1: _message("ports", _SERVICE_PORT, repeated=True),
    2: _map("selector"),
    3: _text("clusterIP"),
    4: _text("type"),
    5: _many("externalIPs"),
    7: _text("sessionAffinity"),
    10: _text("externalName"),
}
_REFERENCE = {
    1: _text("kind"),
    2: _text("namespace"),
    3: _text("name"),
    4: _text("uid"),
    5: _text("apiVersion"),
    6: _text("resourceVersion"),
    7: _text("fieldPath"),
}
_EVENT = {
    1: _message("metadata", _META),
    2: _message("involvedObject", _REFERENCE),
    3: _text("reason"),
    4: _text("message"),
    5: _message("source", {1: _text("component"), 2: _text("host")}),
    6: Field("firstTimestamp", "time", _TIME),
    7: Field("lastTimestamp", "time", _TIME),
    8: _number("count"),
    9: _text("type"),
    10: Field("eventTime", "micro-time", _TIME),
    12: _text("action"),
    13: _message("related", _REFERENCE),
    14: _text("reportingComponent"),
    15: _text("reportingInstance"),
}
_ATTRIBUTES = {
    1: _text("namespace"),
    2: _text("verb"),
    3: _text("group"),
    4: _text("version"),
    5: _text("resource"),
    6: _text("subresource"),
    7: _text("name"),
}
_ACCESS_SPEC = {
    1: _message("resourceAttributes", _ATTRIBUTES),
    2: _message("nonResourceAttributes", {1: _text("path"), 2: _text("verb")}),
}
_REVIEW_SPEC = {**_ACCESS_SPEC, 3: _text("user"), 4: _many("groups"), 6: _text("uid")}
_POLICY_RULE = {
    1: _many("verbs"),
    2: _many("apiGroups"),
    3: _many("resources"),
    4: _many("resourceNames"),
    5: _many("nonResourceURLs"),
}
_ROLE = {1: _message("metadata", _META), 2: _message("rules", _POLICY_RULE, repeated=True)}
_SUBJECT = {1: _text("kind"), 2: _text("apiGroup"), 3: _text("name"), 4: _text("namespace")}
_BINDING = {
    1: _message("metadata", _META),
    2: _message("subjects", _SUBJECT, repeated=True),
    3: _message("roleRef", {1: _text("apiGroup"), 2: _text("kind"), 3: _text("name")}),
}
_REQUIREMENT = {1: _text("key"), 2: _text("operator"), 3: _many("values")}
_SELECTOR = {1: _map("matchLabels"), 2: _message("matchExpressions", _REQUIREMENT, repeated=True)}
_AGGREGATION = {1: _message("clusterRoleSelectors", _SELECTOR, repeated=True)}
_LEASE_SPEC = {
    1: _text("holderIdentity"),
    2: _number("leaseDurationSeconds"),
    3: Field("acquireTime", "micro-time", _TIME),
    4: Field("renewTime", "micro-time", _TIME),
    5: _number("leaseTransitions"),
}
_DELETE_OPTIONS = {
    1: _number("gracePeriodSeconds"),
    2: _message("preconditions", {1: _text("uid"), 2: _text("resourceVersion")}),
    3: _flag("orphanDependents"),
    4: _text("propagationPolicy"),
    5: _many("dryRun"),
}

TABLES: dict[tuple[str, str], dict[int, Field]] = {
    ("v1", "Namespace"): {1: _message("metadata", _META), 2: _message("spec", {1: _many("finalizers")})},
    ("v1", "Secret"): {
        1: _message("metadata", _META),
        2: _map("data", "bytes"),
        3: _text("type"),
        4: _map("stringData"),
        5: _flag("immutable"),
    },
    ("v1", "ConfigMap"): {
        1: _message("metadata", _META),
        2: _map("data"),
        3: _map("binaryData", "bytes"),
        4: _flag("immutable"),
    },
    ("v1", "Service"): {1: _message("metadata", _META), 2: _message("spec", _SERVICE_SPEC)},
    ("v1", "ServiceAccount"): {1: _message("metadata", _META), 4: _flag("automountServiceAccountToken")},
    ("v1", "ResourceQuota"): {1: _message("metadata", _META), 2: _message("spec", {1: _map("hard", "quantity")})},
    ("v1", "Event"): _EVENT,
    ("v1", "DeleteOptions"): _DELETE_OPTIONS,
    ("coordination.k8s.io/v1", "Lease"): {1: _message("metadata", _META), 2: _message("spec", _LEASE_SPEC)},
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview"): {2: _message("spec", _ACCESS_SPEC)},
    ("rbac.authorization.k8s.io/v1", "Role"): _ROLE,
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): _ROLE | {3: _message("aggregationRule", _AGGREGATION)},
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): _BINDING,
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): _BINDING,
    ("authorization.k8s.io/v1", "LocalSubjectAccessReview"): {2: _message("spec", _REVIEW_SPEC)},
    ("authorization.k8s.io/v1", "SubjectAccessReview"): {2: _message("spec", _REVIEW_SPEC)},
    ("authorization.k8s.io/v1", "SelfSubjectRulesReview"): {2: _message("spec", {1: _text("namespace")})},
    ("authentication.k8s.io/v1", "SelfSubjectReview"): {},
    ("authentication.k8s.io/v1", "TokenRequest"): {
        2: _message("spec", {1: _many("audiences"), 4: _number("expirationSeconds")})
    },
}


def decode(body: bytes) -> JsonObject:
    """The object in an envelope, as JSON would have it. Raises: ProtobufError."""
    if not body.startswith(MAGIC):
        raise ProtobufError("the body does not begin with k8s\\0")
    raw = b""
    api_version = kind = ""
    for number, value in _fields(body[len(MAGIC) :]):
        if number == 1 and isinstance(value, bytes):
            named = read_message(value, {1: _text("apiVersion"), 2: _text("kind")})
            api_version, kind = named.get("apiVersion", ""), named.get("kind", "")
        elif number == 2 and isinstance(value, bytes):
            raw = value
    table = TABLES.get((api_version, kind))
    if table is None:
        raise ProtobufError(f"{api_version} {kind} is not taken as protobuf; send JSON")
    return {"apiVersion": api_version, "kind": kind} | read_message(raw, table)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
                yield tag >> 3, value
            case 2:
                length, position = _varint(data, position)
                if length > len(data) - position:
                    raise ProtobufError("a field is longer than the body")
                yield tag >> 3, data[position : position + length]
                position += length
            case 1 | 5 as wide:
                position += 8 if wide == 1 else 4
            case _:
                raise ProtobufError("a field has a wire type that is not in use")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ProtobufError("the body ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), position
    raise ProtobufError("a number is too long")


def read_message(data: bytes, table: dict[int, Field], depth: int = 0) -> JsonObject:
    """One message by its table; unknown fields are left out. Raises: ValueError."""
    if depth > DEPTH_MAX:
        raise ProtobufError("the body is nested too deeply")
    result: JsonObject = {}
    for number, raw in _fields(data):
        field = table.get(number)
        if field is None:
            continue
        value = _value(field, raw, depth)
        if field.kind == "map":
            result.setdefault(field.name, {})[value.get("key", "")] = value.get("value", "")
        elif field.repeated:
            result.setdefault(field.name, []).append(value)
        elif value is not None and value != "":  # the empty text is how protobuf says nothing
            result[field.name] = value
    return result


def _value(field: Field, raw: int | bytes, depth: int) -> Any:  # noqa: PLR0911 - one line each
    if isinstance(raw, int):
        if field.kind == "flag":
            return bool(raw)
        if field.kind == "number":
            return raw - 2**64 if raw >= 2**63 else raw
        raise ProtobufError(f"{field.name} is not a number")
    match field.kind:
        case "text":
            return raw.decode()
        case "bytes":
            return base64.b64encode(raw).decode()
        case "message" | "map":
            return read_message(raw, field.table or {}, depth + 1)
        case "quantity":
            return read_message(raw, _QUANTITY, depth + 1).get("string", "0")
        case "int-or-string":
            either = read_message(raw, field.table or {}, depth + 1)
            return either.get("strVal", "") if either.get("type") else either.get("intVal")
        case "time" | "micro-time":
            moment = read_message(raw, field.table or {}, depth + 1)
            return _time(moment, micro=field.kind == "micro-time") if moment else None
        case _:
            raise ProtobufError(f"{field.name} is not a text")


def _time(moment: JsonObject, *, micro: bool) -> str:
    seconds, nanos = moment.get("seconds", 0), moment.get("nanos", 0)
    try:
        then = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanos // 1000)
    except (ValueError, OverflowError, OSError) as error:
        raise ProtobufError("a time is out of range") from error
    return then.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
