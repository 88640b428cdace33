"""`serve -f FILE`: several services in one agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar, cast

import msgspec

from drtp.kit.errors import Invalid
from drtp.main.datum.definition import proxy_protocol
from drtp.main.datum.naming import default_name
from drtp.main.datum.serve_request import ServeRequest, check, networks
from drtp.main.datum.service_files import listed_in, refuse
from drtp.main.datum.target import parse_target

T = TypeVar("T")


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One service; members are named as the options are."""

    target: str | int
    name: str | None = None
    namespace: str | None = None
    hostname: str | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    address: str | None = None
    allow: tuple[str, ...] = ()
    proxy_protocol: str | None = None
    host_header: str | None = None
    wait_for_enable: bool = False
    no_expose: bool = False
    trust: str | None = None


_MEMBERS = frozenset(field.encode_name for field in msgspec.structs.fields(_Entry))


def requests_in(path: Path) -> tuple[ServeRequest, ...]:
    """Read `services: [{target: …, name: …}, …]`, or the list alone.

    Raises: Invalid (DRTP-7013) with every fault and its place; Misconfigured (DRTP-7013) for a file that is no YAML.
    """
    faults: list[str] = []
    requests = [_read(where, entry, path.parent, faults) for where, entry in listed_in(path, faults)]
    good = tuple(request for request in requests if request is not None)
    names = Counter(request.name for request in good)
    faults += [f"services: {name} is named {count} times" for name, count in names.items() if count > 1]
    if len({request.namespace for request in good}) > 1:
        faults.append("services: several namespaces are named; run one agent for each")
    refuse(path, faults)
    return good


def _read(where: str, written: object, beside: Path, faults: list[str]) -> ServeRequest | None:
    """One service; None if something is wrong in it, which is then in `faults`."""
    if not isinstance(written, dict):
        faults.append(f"{where}: not a service; write {{target: 8080, name: web}}")
        return None
    members = cast("dict[str, object]", written)
    before = len(faults)
    faults += [f"{where}.{name}: not known" for name in members if name not in _MEMBERS]
    if "target" not in members:
        faults.append(f"{where}.target: missing")
    for name, value in members.items():
        try:
            msgspec.convert({"target": "", name: value}, type=_Entry) if name in _MEMBERS else None
        except msgspec.ValidationError as fault:
            faults.append(f"{where}.{name}: {str(fault).partition(' - at ')[0]}")
    if len(faults) > before:
        return None
    return _request(where, msgspec.convert(members, type=_Entry), beside, faults)


def _request(where: str, entry: _Entry, beside: Path, faults: list[str]) -> ServeRequest | None:
    """What the entry asks for; each member is judged, so that one run names every fault."""
    target = _judged(f"{where}.target", faults, lambda: parse_target(str(entry.target)))
    allow = _judged(f"{where}.allow", faults, lambda: networks(entry.allow))
    if entry.proxy_protocol not in (None, "v1", "v2", "none"):
        faults.append(f"{where}.proxy-protocol: {entry.proxy_protocol} is not v1, v2 or none")
        return None
    if target is None or allow is None:
        return None
    request = ServeRequest(
        name=entry.name or default_name(target.written),
        namespace=entry.namespace,
        target=target,
        hostname=entry.hostname,
        port=entry.port,
        address=entry.address,
        allow=allow,
        proxy_protocol=proxy_protocol(entry.proxy_protocol),
        host_header=entry.host_header,
        expose=not entry.no_expose,
        wait_for_enable=entry.wait_for_enable,
        trust=beside / entry.trust if entry.trust else None,
    )
    return _judged(where, faults, lambda: check(request))


def _judged(where: str, faults: list[str], judge: Callable[[], T]) -> T | None:
    try:
        return judge()
    except Invalid as fault:
        faults.append(f"{where}: {fault.what} {fault.remedy}")
        return None
