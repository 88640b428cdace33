"""Objects as kubectl's Table: the columns of the kind, ages in kubectl's own short form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from drtp.api.jsonvalue import JsonObject, is_list, is_object
from drtp.api.kinds import KindInfo, PrinterColumn
from drtp.apiserver import jsonpath
from drtp.store.protocol import Stored


def columns(info: KindInfo) -> list[JsonObject]:
    """`columnDefinitions`: the name first."""
    name: JsonObject = {
        "name": "Name",
        "type": "string",
        "format": "name",
        "description": "Name of the object, unique within its namespace.",
        "priority": 0,
    }
    return [
        name,
        *(
            {
                "name": column.name,
                "type": column.type,
                "format": "",
                "description": column.description or f"JSONPath: {column.json_path}",
                "priority": column.priority,
            }
            for column in info.printer_columns
        ),
    ]


def table(info: KindInfo, items: Iterable[Stored], metadata: JsonObject, now: datetime, include: str) -> JsonObject:
    """A whole Table. `include`: None, Metadata or Object, what each row carries beside its cells."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns(info),
        "rows": [row(info, stored.object, now, include) for stored in items],
    }


def row(info: KindInfo, obj: JsonObject, now: datetime, include: str) -> JsonObject:
    """One object's row."""
    line: JsonObject = {"cells": [obj["metadata"]["name"], *(_cell(info, c, obj, now) for c in info.printer_columns)]}
    if include == "Object":
        line["object"] = obj
    elif include != "None":
        line["object"] = partial(obj)
    return line


def partial(obj: JsonObject) -> JsonObject:
    """PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _cell(info: KindInfo, column: PrinterColumn, obj: JsonObject, now: datetime) -> Any:
    computed = _COMPUTED.get((info.key, column.name))
    if computed is not None:
        return computed(obj)
    found = jsonpath.find(obj, column.json_path)
    if not found:
        # kubectl shows an absent age as unknown, and any other absent value as nothing.
        return "<unknown>" if column.type == "date" else None
    if column.type == "date":
        return _age(found[0], now)
    if column.type in {"integer", "boolean", "number"}:
        return found[0]
    return ",".join(_text(value) for value in found)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if is_list(value):
        return ",".join(_text(item) for item in value)
    return str(value)


def _age(then: Any, now: datetime) -> str:
    try:
        seconds = int((now - datetime.fromisoformat(str(then))).total_seconds())
    except (ValueError, TypeError):
        return "<unknown>"
    return short_duration(seconds)


def short_duration(seconds: int) -> str:  # noqa: PLR0911 - one line each
    """`seconds` in kubectl's short form: two units at most, coarser the longer it is."""
    if seconds < 0:
        return "0s" if seconds >= -1 else "<invalid>"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _pair(minutes, "m", seconds % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _pair(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _pair(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    return _pair(days // 365, "y", days % 365, "d") if days < 2920 else f"{days // 365}y"


def _pair(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


def _count(obj: JsonObject) -> int:
    return len(obj.get("data") or {}) + len(obj.get("binaryData") or {})


def _phase(obj: JsonObject) -> str:
    return "Terminating" if obj["metadata"].get("deletionTimestamp") else "Active"


def _event_object(obj: JsonObject) -> str:
    involved = obj.get("involvedObject")
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}" if is_object(involved) else ""


def _used(obj: JsonObject) -> str:
    """As kubectl shows quotas: `count/secrets: 3/10, …`."""
    status: JsonObject = obj.get("status") or {}
    hard: JsonObject = status.get("hard") or {}
    used: JsonObject = status.get("used") or {}
    return ", ".join(f"{name}: {used.get(name, '-')}/{most}" for name, most in sorted(hard.items()))


def _local(obj: JsonObject) -> str:
    """The controller's word, or what the spec says before a controller has spoken."""
    status: JsonObject = obj.get("status") or {}
    local: JsonObject = obj["spec"]["local"]
    return status.get("localTarget") or f"{local['host']}:{local['port']}"


_COMPUTED: dict[tuple[str, str], Callable[[JsonObject], Any]] = {
    ("DRTPService.datumapis.com", "Local"): _local,
    ("Namespace", "Status"): _phase,
    ("Secret", "Data"): _count,
    ("ConfigMap", "Data"): _count,
    ("Event", "Object"): _event_object,
    ("ResourceQuota", "Request"): _used,
}
"""Cells that no path can say."""
