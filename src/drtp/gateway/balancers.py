"""Visitors who come through an outer load balancer, which tells their address in a PROXY header (v1 or v2).

Whoever may send that header may speak for any address, so a gateway behind balancers is for them alone: a connection
from anywhere else matches no chain, whatever it says. From a balancer the header is required; its own health checks
(v2 LOCAL, v1 UNKNOWN) count as coming from itself. The header's extra fields go no further.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from drtp.gateway.admission import NO_CHAIN, name_action, source_in
from drtp.kit.errors import Invalid

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
HEADER_TIMEOUT = "5s"
"""For the PROXY header and the TLS greeting together (CVE-2021-23409)."""


def balancers_of(written: Iterable[str]) -> tuple[str, ...]:
    """Networks of the load balancers, as the operator wrote them. Raises: Invalid DRTP-5040."""
    networks: list[str] = []
    for cidr in written:
        try:
            network = ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            raise Invalid("DRTP-5040", f"{cidr!r} is not a network such as 10.0.0.0/8.") from None
        if network.prefixlen == 0:
            raise Invalid("DRTP-5040", f"{cidr} is everybody: then anybody could speak for any address.")
        networks.append(str(network))
    return tuple(networks)


def behind(listener: Json, balancers: Sequence[str], chain: str) -> Json:
    """The listener as it stands behind `balancers`; `chain` is its only one where it has no matcher. None: as it is."""
    if not balancers:
        return listener
    inner: Json = {"matcher": listener["filter_chain_matcher"]} if "filter_chain_matcher" in listener else {}
    theirs = {"predicate": source_in(balancers, "DirectSourceIPInput"), "on_match": inner or name_action(chain)}
    return listener | {
        "listener_filters": [_READ_HEADER, *listener.get("listener_filters", [])],
        "listener_filters_timeout": HEADER_TIMEOUT,
        "filter_chain_matcher": {"matcher_list": {"matchers": [theirs]}, "on_no_match": name_action(NO_CHAIN)},
    }


_READ_HEADER: Json = {
    "name": "envoy.filters.listener.proxy_protocol",
    "typed_config": {"@type": f"{_TYPE}envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"},
}
