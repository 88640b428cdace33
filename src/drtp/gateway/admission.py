"""Access lists become one set of networks, and the set becomes Envoy matchers that decide before anything is sent.

Every list must allow: the lists' allowed ranges are intersected here, once, so that both the accept-time matcher of a
TCP listener and the per-route RBAC of HTTP ask one question of one trie. No list, or an unreadable one, allows nobody.
The host has left no rules but those by address (`rules.asking.by_address`); the rest is the POP's to decide.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from drtp.api.drtp import Action
from drtp.api.snapshots import Access, AccessList
from drtp.rules import asking

Json = dict[str, Any]
Range = tuple[int, int]

_TYPE = "type.googleapis.com/"
_V4_END = 2**32 - 1
_V6_END = 2**128 - 1

NO_CHAIN = "none"
"""Names no filter chain: Envoy closes such a connection before it dials anything."""


class Admitted(msgspec.Struct, frozen=True):
    """Networks that may pass, v4 then v6. `fault` says what could not be read; such a policy admits nobody."""

    networks: tuple[str, ...]
    fault: str = ""

    @property
    def everyone(self) -> bool:
        """Any address passes."""
        return self.networks == ("0.0.0.0/0", "::/0")


EVERYONE = Admitted(networks=("0.0.0.0/0", "::/0"))


@lru_cache(maxsize=16_384)  # every build asks again for every exposure
def admitted(access: Access) -> Admitted:
    """The networks that every list allows. Zero lists admit nobody."""
    if not access.lists:
        return Admitted(networks=())
    try:
        compiled = [_allowed(access_list) for access_list in access.lists]
    except ValueError as error:
        return Admitted(networks=(), fault=f"The access policy cannot be read, so nobody is let in: {error}.")
    v4, v6 = compiled[0]
    for other_v4, other_v6 in compiled[1:]:
        v4, v6 = _intersect(v4, other_v4), _intersect(v6, other_v6)
    networks = [str(net) for low, high in v4 for net in _summarise_v4(low, high)]
    networks += [str(net) for low, high in v6 for net in _summarise_v6(low, high)]
    return Admitted(networks=tuple(networks))


def _allowed(access_list: AccessList) -> tuple[list[Range], list[Range]]:
    """First match wins, evaluated backwards: each earlier rule overwrites its ranges."""
    if access_list.clauses or access_list.dry_run:
        raise ValueError("it asks for more than addresses")
    start = access_list.default is Action.ALLOW
    v4: list[Range] = [(0, _V4_END)] if start else []
    v6: list[Range] = [(0, _V6_END)] if start else []
    for rule in reversed(access_list.rules):
        rule_v4, rule_v6 = _ranges(rule.cidrs)
        if rule.action is Action.ALLOW:
            v4, v6 = _merge([*v4, *rule_v4]), _merge([*v6, *rule_v6])
        else:
            v4, v6 = _subtract(v4, rule_v4, _V4_END), _subtract(v6, rule_v6, _V6_END)
    return v4, v6


def _ranges(cidrs: Sequence[str]) -> tuple[list[Range], list[Range]]:
    """Ranges of v4 and v6. No CIDR at all means every address. v4-mapped v6 counts as v4. Raises: ValueError."""
    if not cidrs:
        return [(0, _V4_END)], [(0, _V6_END)]
    v4: list[Range] = []
    v6: list[Range] = []
    for cidr in cidrs:
        network = asking.network(cidr)
        if network is None:
            raise ValueError(f"{cidr!r} is no network")
        ranges = v4 if isinstance(network, ipaddress.IPv4Network) else v6
        ranges.append((int(network.network_address), int(network.broadcast_address)))
    return _merge(v4), _merge(v6)


def _merge(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _intersect(left: list[Range], right: list[Range]) -> list[Range]:
    found: list[Range] = []
    i = j = 0
    while i < len(left) and j < len(right):
        low, high = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if low <= high:
            found.append((low, high))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return found


def _subtract(ranges: list[Range], gone: list[Range], end: int) -> list[Range]:
    kept: list[Range] = []
    low = 0
    for gone_low, gone_high in gone:
        if low < gone_low:
            kept.append((low, gone_low - 1))
        low = gone_high + 1
    if low <= end:
        kept.append((low, end))
    return _intersect(ranges, kept)


def _summarise_v4(low: int, high: int) -> list[ipaddress.IPv4Network]:
    return list(ipaddress.summarize_address_range(ipaddress.IPv4Address(low), ipaddress.IPv4Address(high)))


def _summarise_v6(low: int, high: int) -> list[ipaddress.IPv6Network]:
    return list(ipaddress.summarize_address_range(ipaddress.IPv6Address(low), ipaddress.IPv6Address(high)))


def name_action(chain: str) -> Json:
    """A matcher's outcome: the filter chain of this name."""
    return {"action": {"name": chain, "typed_config": {"@type": f"{_TYPE}google.protobuf.StringValue", "value": chain}}}


def _refuse() -> Json:
    return name_action(NO_CHAIN)


def accept_matcher(who: Admitted, chain: str) -> Json:
    """Decides at accept: `chain` for admitted sources, else no chain. Nested uses carry their own refusal.

    Source: network RBAC would decide only on the client's first byte, after the upstream's banner has gone out.
    """
    if not who.networks:
        return {"on_no_match": _refuse()}
    return {
        "matcher_list": {
            "matchers": [{"predicate": source_in(who.networks, "SourceIPInput"), "on_match": name_action(chain)}]
        },
        "on_no_match": _refuse(),
    }


def rbac_config(who: Admitted) -> Json:
    """An HTTP RBAC filter's configuration: admitted sources pass, everybody else gets 403."""
    if who.everyone:
        anyone = {"permissions": [{"any": True}], "principals": [{"any": True}]}
        return {"rules": {"action": "ALLOW", "policies": {"visitors": anyone}}}
    if not who.networks:
        return {"rules": {"action": "ALLOW", "policies": {}}}
    allow = {"predicate": source_in(who.networks, "SourceIPInput"), "on_match": _rbac_action("allow", "ALLOW")}
    return {"matcher": {"matcher_list": {"matchers": [allow]}, "on_no_match": _rbac_action("deny", "DENY")}}


def _rbac_action(name: str, action: str) -> Json:
    typed = {"@type": f"{_TYPE}envoy.config.rbac.v3.Action", "name": name, "action": action}
    return {"action": {"name": name, "typed_config": typed}}


def source_in(networks: Sequence[str], source: str) -> Json:
    """A predicate over `SourceIPInput`, the visitor, or `DirectSourceIPInput`, the socket's peer."""
    inputs = f"{_TYPE}envoy.extensions.matching.common_inputs.network.v3.{source}"
    return {
        "single_predicate": {
            "input": {"name": "source", "typed_config": {"@type": inputs}},
            "custom_match": {
                "name": "envoy.matching.matchers.ip",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.extensions.matching.input_matchers.ip.v3.Ip",
                    "stat_prefix": "access",
                    "cidr_ranges": [_cidr(network) for network in networks],
                },
            },
        }
    }


def _cidr(network: str) -> Json:
    prefix, _, length = network.partition("/")
    return {"address_prefix": prefix, "prefix_len": int(length)}
