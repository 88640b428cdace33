"""The words that fields are made of: bounded, with the patterns and CEL rules that Kubernetes checks too."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """CEL rules as (rule, message), for `extra_json_schema`."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


def list_map(*keys: str) -> dict[str, Any]:
    """A list whose items are found by these members: server-side apply merges them, duplicates are refused."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


LIST_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}

DnsName = Annotated[str, Meta(min_length=1, max_length=253, pattern=_SUBDOMAIN)]
"""A name as Kubernetes objects and hosts carry it: lower case, digits, `-` and `.`."""

DnsLabel = Annotated[str, Meta(min_length=1, max_length=63, pattern=_LABEL)]
"""One part of a `DnsName`."""

Port = Annotated[int, Meta(ge=1, le=65535)]

Count = Annotated[int, Meta(ge=0)]

Millis = Annotated[float, Meta(ge=0, le=3_600_000)]
"""Measured; an hour at most."""

Share = Annotated[float, Meta(ge=0, le=1)]
Permille = Annotated[int, Meta(ge=0, le=1000)]

Tally = Annotated[int, Meta(ge=0, le=(1 << 53) - 1)]
"""A counter that JavaScript can read, too."""

Int64 = Annotated[int, Meta(ge=0, extra_json_schema={"format": "int64"})]

IpAddress = Annotated[
    str, Meta(max_length=45, extra_json_schema=rules(("isIP(self)", "must be an IPv4 or IPv6 address")))
]

Cidr = Annotated[
    str,
    Meta(
        max_length=49,
        extra_json_schema={
            "x-kubernetes-validations": [
                {"rule": "isCIDR(self)", "message": "must be a CIDR such as 203.0.113.0/24 or 2001:db8::/32"},
                {
                    "rule": "!isCIDR(self) || cidr(self) == cidr(self).masked()",
                    "message": "must be a network without host bits",
                    "messageExpression": "'has host bits set: the network would be ' + string(cidr(self).masked())",
                },
            ]
        },
    ),
]

Host = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[-A-Za-z0-9_.:%]+$")]
"""A host name or an IP address, without scheme, port or path."""

Text63 = Annotated[str, Meta(max_length=63)]
Text128 = Annotated[str, Meta(max_length=128)]
Text253 = Annotated[str, Meta(max_length=253)]
Text1024 = Annotated[str, Meta(max_length=1024)]
Text2048 = Annotated[str, Meta(max_length=2048)]
